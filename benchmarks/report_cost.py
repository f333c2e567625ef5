"""What the report of a large run costs: time and memory of the tables and of the pages.

Run: python benchmarks/report_cost.py [TRIALS]. The run is drawn, not measured: 12 environments, 50
cases, raw latencies. A process of its own makes the report, so that its peak is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

TRIALS = 1_000_000
_MEASURED = """
import json, resource, sys, time
from pathlib import Path
from hwbench.collect import collect
from hwbench.report.pages import write
from hwbench.store import Store

def spent():
    return time.perf_counter(), time.process_time()

store = Store.open(Path(sys.argv[1]))
begin = spent()
tables = collect(store)
middle = spent()
pages = write(store, tables)
end = spent()
print(json.dumps({
    "tables_s": middle[0] - begin[0],
    "tables_cpu_s": middle[1] - begin[1],
    "pages_s": end[0] - middle[0],
    "pages_cpu_s": end[1] - middle[1],
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "page_mib": [path.stat().st_size / 2**20 for path in pages],
    "figures": pages[0].read_text().count("<svg"),
}))
"""


def spec(trials: int) -> dict[str, object]:
    """12 environments x 50 cases; single faults take what is left of the trials."""
    scenarios: list[object] = ["clean"]
    for name in ("bitflip", "stuckat", "zero", "randomword", "burst"):
        rates = [10.0**-each for each in range(8, 2, -1)]
        scenarios.append({name: {"target": "weights", "rate": rates}, "patterns": 8})
    scenarios.append({"noise": {"snr_db": list(range(0, 60, 4))}, "patterns": 4})
    scenarios.append({"adc": {"enob": [8, 6, 4, 2]}})
    batches, environments = 4, 12
    left = trials // environments - (5 * 6 * 8 + 15 * 4 + 5) * batches
    scenarios.append({"singlebit": {}, "patterns": max(1, left // batches)})
    return {
        "name": "large",
        "model": {"builtin": "digits-cnn"},
        "data": {"builtin": "digits", "batch": 150},
        "environments": [
            {"backend": "onnxruntime", "precision": ["fp32", "int8"], "threads": list(range(1, 7))}
        ],
        "scenarios": scenarios,
    }


def main() -> None:
    """Draw the run, and make its report in a process of its own."""
    from hwbench.spec import Spec
    from hwbench.testing.runs import generate

    trials = int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        store = generate(Spec.model_validate(spec(trials)), folder)
        found = store.read("records", ["cell"])
        print(f"{len(found):,} trials in {len(found['cell'].unique())} cells")
        told = subprocess.run(
            [sys.executable, "-c", _MEASURED, str(folder)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name, value in json.loads(told.stdout).items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
