"""Faults per second on ResNet-20, as a multiple of the bare forward pass in the same run.

One thread, CPU time, forward passes interleaved with the injections. Every site is prepared first
(gate, sessions); that time is printed beside the ratio and is not part of it. Some of the faults
are then run the naive way and compared byte by byte.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import models
from hwbench import edits, registry
from hwbench.backend import Array, Artifact, Backend, Environment, ModelSource, Replayer, Site
from hwbench.edits import Edits
from hwbench.replay import lanes, naive

MEMORY_MIB = 256
CHECKED = 4  # faults of each kind that are repeated the naive way
LAYERS = ("Conv", "FusedConv", "Gemm", "QLinearConv", "QGemm", "conv2d", "linear")

Rows = list[tuple[Site, Edits]]


@dataclass(frozen=True)
class Rig:
    """A deployed network with its batch."""

    backend: Backend
    artifact: Artifact
    feeds: dict[str, Array]
    replayer: Replayer

    @property
    def rows(self) -> int:
        return len(next(iter(self.feeds.values())))


@dataclass(frozen=True)
class Result:
    """What one kind of fault costs."""

    faults: int
    forward_ms: float
    fault_ms: float
    ready_s: float
    mismatches: int

    @property
    def ratio(self) -> float:
        """Faults in the time of one forward pass."""
        return self.forward_ms / self.fault_ms


def prepare(backend: str, precision: str, batch: int, folder: Path) -> Rig:
    """ResNet-20 in a precision, and a batch for it."""
    folder.mkdir()
    target = folder / "artifact"
    target.mkdir()
    adapter = registry.backend(backend)
    environment = Environment(backend, precision=precision)
    quantised = precision.startswith("int8")
    calibration = {"input": models.images(64, seed=1)} if quantised else None
    artifact = adapter.build(_network(adapter, folder), environment, calibration, target)
    feeds = {"input": models.images(batch)}
    return Rig(adapter, artifact, feeds, adapter.replayer(artifact, feeds, MEMORY_MIB))


def _network(adapter: Backend, folder: Path) -> ModelSource:
    """ResNet-20 in the form that an adapter takes."""
    if "onnx" in adapter.accepts:
        return models.resnet20(folder)
    from benchmarks import torch_models

    return torch_models.resnet20()


def over_parameters(rig: Rig, faults: int, rng: np.random.Generator) -> Rows:
    """Weight faults, every parameter alike."""
    sites = [site for site in rig.backend.sites(rig.artifact) if site.kind == "weight"]
    sizes = np.array([site.size for site in sites], dtype=np.float64)
    return _weights(sites, rng.multinomial(faults, sizes / sizes.sum()), rng)


def over_layers(rig: Rig, faults: int, rng: np.random.Generator) -> Rows:
    """Weight faults, every layer alike."""
    sites = [site for site in rig.backend.sites(rig.artifact) if site.kind == "weight"]
    counts = rng.multinomial(faults, np.full(len(sites), 1 / len(sites)))
    return _weights(sites, counts, rng)


def _weights(sites: list[Site], counts: Array, rng: np.random.Generator) -> Rows:
    return [
        (site, edits.make((site.name,), 0, rng.integers(site.size, size=n), _bits(site, n, rng),
                          lane=np.arange(n)))
        for site, n in zip(sites, counts.tolist(), strict=True)
        if n
    ]  # fmt: skip


def _bits(site: Site, count: int, rng: np.random.Generator) -> Array:
    flips: Array = np.uint64(1) << rng.integers(site.bits, size=count).astype(np.uint64)
    return flips


def neurons(rig: Rig, faults: int, rng: np.random.Generator) -> Rows:
    """One fault in each row of the batch, every layer's output alike."""
    sites = _layer_outputs(rig)
    each = max(1, round(faults / rig.rows / len(sites)))
    row, lane = np.tile(np.arange(rig.rows), each), np.repeat(np.arange(each), rig.rows)
    return [
        (
            site,
            edits.make(
                (site.name,),
                0,
                rng.integers(site.size, size=len(row)),
                _bits(site, len(row), rng),
                row=row,
                lane=lane,
            ),
        )
        for site in sites
    ]


def _layer_outputs(rig: Rig) -> list[Site]:
    """Outputs of the operators that hold weights."""
    found = [site for site in rig.replayer.activations if site.kind == "activation"]
    return [site for site in found if site.layer and site.op_type in LAYERS]


def measure(rig: Rig, draw: Callable[[Rig, int, np.random.Generator], Rows], faults: int) -> Result:
    """Run the faults site by site, a forward pass before each site."""
    work = draw(rig, faults, np.random.default_rng(0))
    session = rig.backend.open(rig.artifact)
    session.run(rig.feeds)
    ready, spent, forward, count, wrong = 0.0, 0.0, list[float](), 0, 0
    for site, drawn in work:
        ready += _timed(partial(rig.replayer.run, drawn.where(drawn.lane < 8)))
        forward.append(_timed(partial(session.run, rig.feeds)))
        spent += _timed(partial(rig.replayer.run, drawn))
        count += len(drawn)
        if site.kind == "weight":
            wrong += _mismatches(rig, drawn)
    session.close()
    return Result(count, 1e3 * float(np.median(forward)), 1e3 * spent / count, ready, wrong)


def _mismatches(rig: Rig, drawn: Edits) -> int:
    some = drawn.where(drawn.lane < CHECKED)
    made = rig.replayer.run(some)
    wanted = [
        naive.stored(rig.backend, rig.artifact, rig.feeds, each) for each in lanes.split(some)
    ]
    return sum(not lanes.same_outputs(a, b) for a, b in zip(made, wanted, strict=True))


def _timed(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> int:
    """Print the table; 1 if a fault differed from the naive route."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--faults", type=int, default=1500)
    asked = parser.parse_args()
    print(f"ResNet-20, batch {asked.batch}, {asked.backend}: faults per forward pass, one thread")
    wrong = 0
    for precision in asked.precision:
        with tempfile.TemporaryDirectory() as scratch:
            rig = prepare(asked.backend, precision, asked.batch, Path(scratch) / precision)
            for draw in (over_parameters, over_layers, neurons):
                result = measure(rig, draw, asked.faults)
                wrong += result.mismatches
                print(_line(precision, draw.__name__, result), flush=True)
    return int(wrong > 0)


def _line(precision: str, what: str, result: Result) -> str:
    return (
        f"{precision:5} {what:16} {result.ratio:8.2f}   forward {result.forward_ms:7.2f} ms,"
        f" fault {result.fault_ms:7.3f} ms, {result.faults} faults,"
        f" prepared in {result.ready_s:.1f} s, mismatches {result.mismatches}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
