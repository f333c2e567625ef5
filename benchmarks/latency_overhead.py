"""What hwbench's own measuring adds, against other clocks on the same model, input and threads.

onnxruntime   hwbench's median in this process to that of a bare loop over the same loaded model
openvino      hwbench's median in a fresh worker to benchmark_app's in a fresh process
              (one stream, one thread not pinned, synchronous calls, f32, the same input; it refuses
              -hint latency together with -nstreams, and by itself that takes every core)
loadgen       LoadGen's 90th percentile of SingleStream to hwbench's, each in a fresh worker

Each is the geometric mean of the ratios of interleaved pairs, with their range. Two fresh processes
of one kind differ by several percent, so both sides of a pair are the geometric mean of some that
take turns, each side beginning every other time. Arguments: number of pairs (5), seconds of each
side of a pair (6).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from benchmarks import models
from hwbench import engine, plan, registry
from hwbench.backend import Artifact, Session
from hwbench.case import CLEAN
from hwbench.dataset import Dataset
from hwbench.execute import Stop
from hwbench.execute.launch import run_worker
from hwbench.job import Job, LatencyWork
from hwbench.measure import measure
from hwbench.plan import Deployment
from hwbench.spec import Spec

BATCH = 16  # 5 ms or more: fixed, because benchmark_app's models have fixed shapes
WARM_UP_S = 0.5
SLICES = 10
PROCESSES = 6  # of each side of a pair

Pair = Callable[[], tuple[float, float]]
Timing = Callable[[], float]


def deployments(folder: Path) -> dict[str, Deployment]:
    """ResNet-20 at a fixed batch, built for the runtimes that are here, with one batch of data."""
    source = models.resnet20(folder)
    assert source.onnx is not None
    model = onnx.load(source.onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = BATCH
    onnx.save(model, source.onnx)
    np.savez(folder / "x.npz", x=models.images(BATCH))
    wanted = ("onnxruntime", "openvino")
    here = [n for n in wanted if not registry.missing_modules(registry.backend(n))]
    spec = Spec.model_validate(
        {
            "model": {"onnx": source.onnx},
            "data": {"npz": str(folder / "x.npz")},
            "environments": [{"backend": here}],
            "latency": False,
        }
    )
    cache = folder / "cache"
    options = engine.Options(output=folder / "run", workers=1, cache=cache)
    engine.start(spec, options, engine.Silent(), Stop())
    made = plan.make(spec, allow_code=False, cache=cache, code_cache=folder)
    return {each.environment.backend: each for each in made.deployments}


def worker(deployment: Deployment, seconds: float, use: str, block: int) -> dict[str, float]:
    """What a fresh worker tells of itself."""
    work = LatencyWork(
        str(deployment.artifact),
        str(deployment.subject.dataset),
        BATCH,
        CLEAN,
        seconds,
        30,
        WARM_UP_S,
        block,
        0,
        use,
    )
    job = Job(deployment.key[0], deployment.environment, work, deadline_s=300)
    ended = run_worker(job, lambda _: None, Stop())
    if ended.status != 0 or ended.failed:
        raise RuntimeError(f"the worker failed: {dict(ended.failed) or ended.stderr}")
    return ended.values


def bare_loop(session: Session, seconds: float) -> list[int]:
    """Nanoseconds of ONNX Runtime's own ``run`` on what the adapter has loaded."""
    loaded = session._session  # type: ignore[attr-defined]
    feeds = {session.inputs[0].name: models.images(BATCH)}
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        loaded.run(None, feeds)
        times.append(time.perf_counter_ns() - start)
    return times


def onnxruntime(deployment: Deployment, seconds: float) -> Pair:
    """Pairs of hwbench's measurement and a bare loop, in slices that take turns."""
    artifact = replace(Artifact.load(deployment.artifact), environment=deployment.environment)
    session = registry.backend("onnxruntime").open(artifact)
    feeds = [Dataset.open(deployment.subject.dataset).batch(0, BATCH).feeds]
    part = seconds / SLICES

    def pair() -> tuple[float, float]:
        ours: list[int] = []
        bare: list[int] = []
        for _ in range(SLICES):
            found = measure(session, feeds, min_duration_s=part, min_count=1, warmup_s=0)
            ours += found.latencies_ns.tolist()
            bare += bare_loop(session, part)
        return float(np.median(ours)) / 1e6, float(np.median(bare)) / 1e6

    return pair


def benchmark_app(deployment: Deployment, seconds: float, folder: Path) -> float:
    """Median milliseconds by OpenVINO's own tool."""
    np.save(folder / "x.npy", models.images(BATCH))
    model = next(deployment.artifact.glob("*.xml"))
    tool = shutil.which("benchmark_app", path=str(Path(sys.executable).parent)) or "benchmark_app"
    command = f"{tool} -m {model} -i {folder / 'x.npy'} -d CPU -hint none -api sync -nstreams 1"
    command += (
        f" -nthreads 1 -pin NO -infer_precision f32 -ip f32 -t {max(1, round(seconds))} -json_stats"
    )
    done = subprocess.run(
        [*command.split(), "-report_type", "no_counters", "-report_folder", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"benchmark_app failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    results = json.loads((folder / "benchmark_report.json").read_text())["execution_results"]
    return float(results["latency (ms)"])


def in_turn(ours: Timing, theirs: Timing) -> tuple[float, float]:
    """Geometric means of fresh processes of either side: A B, B A, A B, ..."""
    found: dict[Timing, list[float]] = {ours: [], theirs: []}
    for index in range(PROCESSES):
        for side in (ours, theirs) if index % 2 == 0 else (theirs, ours):
            found[side].append(np.log(side()))
    return float(np.exp(np.mean(found[ours]))), float(np.exp(np.mean(found[theirs])))


def show(name: str, what: str, pair: Pair, pairs: int) -> None:
    """Print the ratio of interleaved pairs."""
    found = np.array([pair() for _ in range(pairs)])
    ratios = found[:, 0] / found[:, 1]
    mean = float(np.exp(np.log(ratios).mean()))
    print(
        f"{name:<13} {np.median(found[:, 0]):.3f} ms, {what} {np.median(found[:, 1]):.3f} ms,"
        f" ratio {mean:.4f} ({ratios.min():.4f} to {ratios.max():.4f}, {pairs} pairs)",
        flush=True,
    )


def main(pairs: int, seconds: float) -> None:
    """Print what can be had here, and what is missing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = deployments(folder)
        if "onnxruntime" in made:
            show("onnxruntime", "bare loop", onnxruntime(made["onnxruntime"], seconds), pairs)
        if "openvino" in made:
            _openvino(made["openvino"], pairs, seconds, folder)
        if find_spec("mlperf_loadgen") is None:
            print("loadgen       skipped: mlcommons-loadgen is not installed")
        elif "onnxruntime" in made:
            _loadgen(made["onnxruntime"], pairs, seconds)


def _openvino(deployment: Deployment, pairs: int, seconds: float, folder: Path) -> None:
    each = seconds / PROCESSES

    def ours() -> float:
        return worker(deployment, each, "singlestream", 0)["latency_p50_ms"]

    def theirs() -> float:
        return benchmark_app(deployment, each, folder)

    show("openvino", "benchmark_app", lambda: in_turn(ours, theirs), pairs)


def _loadgen(deployment: Deployment, pairs: int, seconds: float) -> None:
    each = seconds / PROCESSES

    def theirs() -> float:
        return worker(deployment, each, "loadgen-singlestream", 0)["latency_p90_ms"]

    def ours() -> float:
        return worker(deployment, each, "singlestream", 0)["latency_p90_ms"]

    show("loadgen p90", "hwbench", lambda: in_turn(theirs, ours), pairs)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, float((sys.argv[2:] or ["6"])[0]))
