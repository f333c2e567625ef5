"""What a sweep costs beside its workers, and what a second worker gives.

parent     CPU time of the parent in the round of perturbed trials as a share of its workers'
speed-up   wall time of that round with one worker to that with two; two busy processes that share
           nothing are the floor

The built-in network's trials take milliseconds: the worst case. ResNet-20 has CIFAR's shape.
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
BUSY = "n = 0\nfor i in range(30_000_000): n += i"


def spec(model: str, data: str, patterns: int) -> str:
    """A sweep of naive trials."""
    return f"""
model: {model}
data: {data}
environments: [{{backend: onnxruntime}}]
scenarios: [{{bitflip: {{target: weights, rate: 1.0e-4}}, patterns: {patterns}}}]
latency: false
replay: false
"""


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
        asked, timed = parse(text, "benchmark", base), Timed()
        before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, _CHILDREN)]
        options = engine.Options(output=Path(folder) / "run", workers=workers)
        engine.start(asked, options, timed, Stop())
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


def tiny(base: Path) -> None:
    """The worst case: trials of milliseconds, and start-up is much of the round."""
    text = spec("{builtin: digits-cnn}", "{builtin: digits}", 400)
    swept(text, base, 2)  # builds the artifact
    rounds = [(swept(text, base, 1), swept(text, base, 2)) for _ in range(ROUNDS)]
    share = median(one.parent_s / one.workers_s for one, _ in rounds)
    gain = median(one.round_s / two.round_s for one, two in rounds)
    print(f"built-in   parent {share:.1%} of its workers' CPU time, all counted")
    print(f"           speed-up by a second worker {gain:.2f}")


def real(base: Path) -> None:
    """What trials of real size add: a longer sweep less a shorter one."""
    short, long = (
        spec("{onnx: resnet20.onnx}", "{npz: images.npz, batch: 64}", each) for each in (50, 250)
    )
    swept(short, base, 2)  # builds the artifact
    one, more, two = (swept(*each) for each in ((short, base, 1), (long, base, 1), (long, base, 2)))
    share = (more.parent_s - one.parent_s) / (more.workers_s - one.workers_s)
    print(f"ResNet-20  parent {share:.1%} of its workers' CPU time, by what more trials add;")
    print(f"           {one.parent_s - share * one.workers_s:.2f} s a sweep besides")
    print(f"           speed-up by a second worker {more.round_s / two.round_s:.2f}")


def main() -> None:
    """Print shares and speed-ups, and what two processes that share nothing reach here."""
    if registry.missing_modules(registry.backend("onnxruntime")):
        print("skipped: onnxruntime is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        resnet20(Path(folder))
        tiny(Path(folder))
        real(Path(folder))
    floor = median(2 * busy(1) / busy(2) for _ in range(ROUNDS))
    print(f"floor      two busy processes alone: {floor:.2f}")
    print(f"           load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
