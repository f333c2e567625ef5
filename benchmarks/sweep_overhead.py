"""What a sweep costs beside its workers, and what a second worker gives.

parent     CPU time of the parent in the round of perturbed trials as a share of its workers': for
           the built-in network, whose trials take milliseconds, which is the worst case, and for
           ResNet-20 (CIFAR's shape)
speed-up   wall time of the round of perturbed trials with one worker to that with two; another
           program that runs meanwhile takes from it: two busy processes alone are the floor
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import models
from benchmarks.images import images
from hwbench import engine, registry
from hwbench.execute import Stop
from hwbench.spec.load import parse

ROUNDS = 3
SPEC = """
model: {model}
data: {data}
environments: [{{backend: onnxruntime}}]
scenarios: [{{bitflip: {{target: weights, rate: 1.0e-4}}, patterns: {patterns}}}]
latency: false
replay: false
"""
TINY = SPEC.format(model="{builtin: digits-cnn}", data="{builtin: digits}", patterns=400)
RESNET20 = SPEC.format(
    model="{onnx: resnet20.onnx}", data="{npz: images.npz, batch: 64}", patterns=100
)
BUSY = "n = 0\nfor i in range(30_000_000): n += i"


class Timed(engine.Silent):
    """When the round of perturbed trials began."""

    began = 0.0
    parent_s = 0.0

    def begin(self, title: str, total: int) -> None:
        """A round starts."""
        self.began = time.perf_counter()
        self.parent_s = _cpu_s(resource.getrusage(resource.RUSAGE_SELF))


@dataclass(frozen=True)
class Cost:
    """What a sweep cost, in seconds."""

    parent_s: float
    workers_s: float
    round_s: float


def resnet20(folder: Path) -> None:
    """The network and images of its shape, under the names of the spec."""
    models.resnet20(folder)
    np.savez(folder / "images.npz", x=images(128))


def swept(text: str, base: Path, workers: int) -> Cost:
    """A sweep with so many workers; the spec's files lie in ``base``."""
    with tempfile.TemporaryDirectory() as folder:
        spec, timed = parse(text, "benchmark", base), Timed()
        before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, _CHILDREN)]
        options = engine.Options(output=Path(folder) / "run", workers=workers)
        engine.start(spec, options, timed, Stop())
        end = time.perf_counter()
        after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, _CHILDREN)]
    children = _cpu_s(after[1]) - _cpu_s(before[1])
    return Cost(_cpu_s(after[0]) - timed.parent_s, children, end - timed.began)


_CHILDREN = resource.RUSAGE_CHILDREN


def _cpu_s(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def busy(processes: int) -> float:
    """Seconds of so many processes that do nothing but count, side by side."""
    start = time.perf_counter()
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    for each in started:
        each.wait()
    return time.perf_counter() - start


def main() -> None:
    """Print medians of interleaved rounds."""
    if registry.missing_modules(registry.backend("onnxruntime")):
        print("skipped: onnxruntime is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        resnet20(base)
        for text in (TINY, RESNET20):
            swept(text, base, 2)  # builds the artifact
        rounds = [
            (swept(TINY, base, 1), swept(TINY, base, 2), busy(1), busy(2)) for _ in range(ROUNDS)
        ]
        larger = [swept(RESNET20, base, 1) for _ in range(ROUNDS)]
    tiny = median(one.parent_s / one.workers_s for one, _, _, _ in rounds)
    real = median(each.parent_s / each.workers_s for each in larger)
    print(f"parent     {tiny:.1%} of its workers' CPU time (built-in network)")
    print(f"parent     {real:.1%} of its workers' CPU time (ResNet-20)")
    gain = median(one.round_s / two.round_s for one, two, _, _ in rounds)
    floor = median(2 * one / two for _, _, one, two in rounds)
    load = os.getloadavg()[0]
    print(f"speed-up   {gain:.2f} by a second worker; two busy processes: {floor:.2f}")
    print(f"           load of the machine meanwhile: {load:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
