"""What the report of a large run costs: time and memory of the tables and of the pages.

Run: python benchmarks/report_cost.py [TRIALS]. The run is drawn, not measured: 12 environments, 50
cases, raw latencies. Each stage is a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

TRIALS = 1_000_000
_BEGIN = """
import json, sys, time
from pathlib import Path
from hwbench.collect import collect, write
from hwbench.report import pages
from hwbench.store import Store

store, begin = Store.open(Path(sys.argv[1])), (time.perf_counter(), time.process_time())
"""
_END = """
end = (time.perf_counter(), time.process_time())
# Not ru_maxrss: what the parent held when it started this process would count.
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps([end[0] - begin[0], end[1] - begin[1], peak]))
"""
_STAGES = {
    "tables": "collect(store)",
    "tables, written": "write(store)",
    "pages of written tables": """
import pandas as pd
files = (store.folder / "tables").glob("*.parquet")
pages.write(store, {path.stem: pd.read_parquet(path) for path in files})
""",
    "hwbench report": "pages.write(store, write(store))",
}


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
        for name, stage in _STAGES.items():
            wall, cpu, peak = _measured(stage, folder)
            print(f"{name}: {wall:.1f} s ({cpu:.1f} s CPU), peak {peak:.0f} MiB")
        page = (folder / "report.html").read_text()
        print(f"report.html: {len(page) / 2**20:.1f} MiB, {page.count('<svg')} drawings")


def _measured(stage: str, folder: Path) -> list[float]:
    """Wall time, CPU time and peak memory of a process of its own."""
    command = [sys.executable, "-c", f"{_BEGIN}{stage}{_END}", str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(each) for each in json.loads(told.stdout)]


if __name__ == "__main__":
    main()
