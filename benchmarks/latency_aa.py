"""Real comparisons on this machine, as one sweep: equal environments and planted slowdowns.

same      environments equal to the baseline: how many are flagged after Holm (none should be)
slower    environments with every call 10 % longer: how many are found (at least 9 in 10)

Every environment is compared with one baseline in fresh, randomly interleaved processes, and all
comparisons are one Holm family. Arguments: environments of each sort (20), seconds of each process
(0.5), processes of each environment (12: ten minutes).
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pandas as pd

from hwbench import engine
from hwbench.collect import collect
from hwbench.execute import Stop
from hwbench.spec import Spec

SLOWDOWN = 0.10
PLANTED = Path(__file__).parent / "planted"


def spec(count: int, seconds: float, processes: int) -> Spec:
    """A baseline, ``count`` environments like it, and as many with a planted slowdown."""

    def environment(label: str, slowdown: float) -> dict[str, object]:
        options = {"planted.slowdown": slowdown}
        return {"backend": "planted", "label": label, "options": options}

    return Spec.model_validate(
        {
            "model": {"builtin": "digits-cnn"},
            "data": {"builtin": "digits", "limit": 512, "batch": 512},
            "environments": [
                environment("baseline", 0.0),
                *(environment(f"same{i:02}", 0.0) for i in range(count)),
                *(environment(f"slower{i:02}", SLOWDOWN) for i in range(count)),
            ],
            "latency": {
                "processes": processes,
                "min_duration_s": seconds,
                "batch": 64,
                "threshold": 0.0,
            },
        }
    )


def run(count: int, seconds: float, processes: int) -> pd.DataFrame:
    """The latency table of the sweep."""
    with tempfile.TemporaryDirectory() as folder:
        options = engine.Options(output=Path(folder) / "run")
        store = engine.start(spec(count, seconds, processes), options, engine.Silent(), Stop())
        return collect(store)["latency"]


def main(count: int, seconds: float, processes: int) -> None:
    """Print what was flagged, what could have been, and what the machine was like."""
    sys.path.insert(0, str(PLANTED))
    workers = [str(PLANTED), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, workers))
    table = run(count, seconds, processes)
    for sort in ("same", "slower"):
        rows = table[table["environment"].str.contains(f"-{sort}")]
        flagged = rows[rows["p_holm"] < 0.05]
        ratios = rows["ratio"]
        print(
            f"{sort:<7} {len(flagged)} of {len(rows)} flagged; ratios {ratios.min():.3f} to"
            f" {ratios.max():.3f}, detectable {rows['detectable'].median():.3f}"
        )
    unstable = table[table["trust"] == "unstable"]
    print(f"trust   {len(unstable)} of {len(table)} rows unstable")
    reasons = {reason for each in unstable["trust_reasons"] for reason in each.split("; ")}
    for reason in sorted(reasons)[:8]:
        print(f"        {reason}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        int(given[0]) if given else 20,
        float(given[1]) if len(given) > 1 else 0.5,
        int(given[2]) if len(given) > 2 else 12,
    )
