"""What conditions do, as figures to rerun on a quiet machine.

quota       throughput under half a core to that under the whole: 0.5 +- 0.05
contention  p99 beside one and two loads to p99 alone, with the interval
search      the smallest memory limits of every runtime in three sweeps, and how far they differ

    python benchmarks/limits.py [--onnx FILE --data FILE] [--runs 3]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from hwbench import engine, registry
from hwbench.collect import collect
from hwbench.execute import Stop
from hwbench.spec import Spec

PROCESSES = 8


def tables(folder: Path, content: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Those of a fresh sweep."""
    spec = Spec.model_validate(content)
    store = engine.start(spec, engine.Options(output=folder), engine.Silent(), Stop())
    return collect(store)


def interval(row: dict[Any, Any], name: str) -> str:
    """A ratio with its interval."""
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def strained(scratch: Path, subject: dict[str, Any], backend: str) -> None:
    """Quota and contention, interleaved with the clean cell in every block."""
    content = {
        **subject,
        "environments": [{"backend": backend}],
        "scenarios": [
            {"cpu": {"quota": 0.5}},
            *({"contention": {"workers": [1, 2], "kind": kind}} for kind in ("cpu", "memory")),
        ],
        # Calls of a millisecond: far shorter ones mostly end before they are interrupted.
        "latency": {"processes": PROCESSES, "min_duration_s": 2.0, "batch": 256},
    }
    for row in tables(scratch / "strained", content)["latency"].to_dict("records"):
        if row["scenario"] != "clean" and row["status"] == "ok":
            told = [interval(row, name) for name in ("throughput_ratio", "latency_p99_ratio")]
            print(f"{row['scenario']} {row['severity']:g}: throughput {told[0]}, p99 {told[1]}")


def minima(scratch: Path, subject: dict[str, Any], backends: list[str], runs: int) -> None:
    """The spread is (largest - smallest) / smallest."""
    content = {
        **subject,
        "environments": [{"backend": backend} for backend in backends],
        "scenarios": [{"memory": {"search": True}}],
        "latency": False,
    }
    found = [tables(scratch / f"search-{run}", content)["limits"] for run in range(runs)]
    whole = pd.concat(found)
    for environment, rows in whole.groupby("environment", sort=False):
        for name in ("load_min_mib", "latency_min_mib"):
            values = rows[name]
            spread = 100 * (values.max() - values.min()) / values.min()
            listed = ", ".join(f"{value:.2f}" for value in values)
            print(f"{environment} {name}: {listed}; spread {spread:.1f} %")
        columns = ["below_outcome", "below_phase", "below_message", "above_outcome"]
        print(rows[columns].to_string(index=False))


def main() -> None:
    """Everything, on every runtime that is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", help="default: the built-in model")
    parser.add_argument("--data", help="npz with x, for --onnx")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    subject: dict[str, Any] = {"model": {"builtin": "digits-cnn"}}
    if asked.onnx:
        subject = {"model": {"onnx": asked.onnx}, "data": {"npz": asked.data, "limit": 64}}
    names = registry.names(registry.BACKENDS)
    backends = [name for name in names if not registry.missing_modules(registry.backend(name))]
    if asked.onnx:  # torch runs modules, not ONNX files
        backends = [name for name in backends if "onnx" in registry.backend(name).accepts]
    with tempfile.TemporaryDirectory() as scratch:
        strained(Path(scratch), subject, backends[0])
        minima(Path(scratch), subject, backends, asked.runs)


if __name__ == "__main__":
    main()
