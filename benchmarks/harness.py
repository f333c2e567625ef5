"""What the harness itself costs, as ratios to a floor measured side by side in the same run.

start-up   `hwbench --help` to a bare interpreter
trials     the time of perturbed trials in a worker to bare forward passes of the same session
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from hwbench import engine, plan, registry
from hwbench.backend import Artifact
from hwbench.dataset import Dataset
from hwbench.execute import Stop
from hwbench.spec.load import parse

ROUNDS = 5


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of each, taken in turn so that a drifting machine hits both."""
    pairs = [(timed(one), timed(other)) for _ in range(ROUNDS)]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def start_up() -> None:
    """Time to the help text."""
    tool = [sys.executable, "-m", "hwbench", "--help"]
    bare = [sys.executable, "-c", "pass"]

    def run(command: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, capture_output=True)

    ours, floor = interleaved(run(tool), run(bare))
    print(f"start-up   {ours:.3f} s, bare interpreter {floor:.3f} s, ratio {ours / floor:.1f}")


SPEC = """
model: {builtin: digits-cnn}
environments: [{backend: onnxruntime}]
scenarios: [{bitflip: {target: weights, rate: 1.0e-4}, patterns: 200}]
latency: false
"""


def trials() -> None:
    """Seconds per perturbed trial in a sweep against the same batches run bare."""
    if registry.missing_modules(registry.backend("onnxruntime")):
        print("trials     skipped: onnxruntime is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        spec = parse(SPEC, "benchmark", Path.cwd())
        options = engine.Options(output=Path(folder) / "run", workers=1)
        run = engine.start(spec, options, engine.Silent(), Stop())
        processes = run.read("processes").to_pylist()
        worked = next(p for p in processes if p["kind"] == "accuracy" and p["scenario"] != "clean")
        made = plan.make(spec, allow_code=False, cache=plan.cache_folder(), code_cache=Path(folder))
        bare = _bare(made.deployments[0])
    ours = worked["run_ms"] / worked["trials"]
    print(
        f"trials     {ours:.3f} ms per trial (corrupt, load, prove, run, score),"
        f" bare forward {bare:.3f} ms, ratio {ours / bare:.1f}"
    )


def _bare(deployment: plan.Deployment) -> float:
    """Milliseconds per batch of a session that does nothing else."""
    backend = registry.backend(deployment.environment.backend)
    artifact = replace(Artifact.load(deployment.artifact), environment=deployment.environment)
    session = backend.open(artifact)
    batches = list(Dataset.open(deployment.subject.dataset).batches(deployment.subject.batch))
    times = [timed(lambda: [session.run(b.feeds) for b in batches]) for _ in range(20)]
    return float(np.median(times)) / len(batches) * 1e3


if __name__ == "__main__":
    start_up()
    trials()
