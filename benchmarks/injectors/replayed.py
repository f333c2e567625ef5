"""hwbench on a runtime: the replayer that its campaigns use, checked against whole naive runs."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.images import images
from benchmarks.injectors.bare import Bare
from benchmarks.injectors.measured import (
    LAYERS,
    NEURONS,
    PARAMETERS,
    Bench,
    Measured,
    Turn,
    alone,
    spread,
    wait_for_turn,
)
from benchmarks.networks import NETWORKS, Network
from hwbench import edits, registry
from hwbench.backend import (
    Array,
    Artifact,
    Backend,
    Environment,
    ModelSource,
    Replayer,
    Site,
    TensorSpec,
)
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.replay import lanes, naive

MEMORY_MIB = 256
# Operators that hold weights, in the words of each runtime.
WEIGHTED = ("conv", "gemm", "linear", "matmul", "addmm")

Work = tuple[Site, Edits]


@dataclass(frozen=True)
class Rig:
    """A deployed network with its batch."""

    backend: Backend
    artifact: Artifact
    feeds: dict[str, Array]
    replayer: Replayer

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(next(iter(self.feeds.values())))


def prepare(name: str, precision: str, network: Network, folder: Path) -> Rig:
    """A network deployed on a runtime in a precision, and a batch for it.

    Raises:
        Unsupported: the runtime has no replayer, or not for this precision.
    """
    target = folder / "artifact"
    target.mkdir()
    backend = registry.backend(name)
    spec = TensorSpec("input", (None, *network.shape), "float32")
    source = ModelSource(network.name, (spec,), torch=f"benchmarks.networks:{network.name}")
    if "torch" not in backend.accepts:
        source = registry.backend("torch").convert(source, "onnx", folder)
    rows = images(32 if precision == "int8" else 1, network.shape, seed=1)
    calibration = {"input": rows} if precision == "int8" else None
    artifact = backend.build(source, Environment(name, precision=precision), calibration, target)
    feeds = {"input": images(network.batch, network.shape)}
    return Rig(backend, artifact, feeds, backend.replayer(artifact, feeds, MEMORY_MIB))


@dataclass
class Driver:
    """Times the replayer, a bare forward pass before every site, and checks some faults."""

    rig: Rig
    network: Network
    rng: np.random.Generator
    faults: int
    layers: int
    checks: int
    turn: Turn = alone

    def weights(self, *, alike: bool) -> Bench:
        """Faults in stored weights, every layer alike or every parameter alike."""
        sites = [each for each in self.rig.backend.sites(self.rig.artifact) if _is_layer(each)]
        sizes = np.array([each.size for each in sites])
        hit = spread(sizes, self.faults, self.layers, self.rng, alike=alike)
        work = [(sites[at], self._drawn(sites[at], np.arange(n))) for at, n in hit]
        bench = self._timed(work)
        each = -(-self.checks // len(work))
        for _, drawn in work:
            some = drawn.where(drawn.lane < each)
            for made, single in zip(self.rig.replayer.run(some), lanes.split(some), strict=True):
                rig = self.rig
                wanted = naive.stored(rig.backend, rig.artifact, rig.feeds, single)
                bench.check(lanes.same_outputs(made, wanted))
        return bench

    def neurons(self) -> Bench:
        """One fault in each row of the batch, every layer's output alike."""
        rows = self.rig.rows
        found = [each for each in self.rig.replayer.activations if _is_output(each)]
        if not found:
            raise Unsupported("the replayer names no output of an operator with weights")
        at = np.unique(np.linspace(0, len(found) - 1, self.layers).round().astype(int))
        # A worker runs up to 64 batches of one layer together, and rows that are golden again make
        # room for others: one batch alone would not show that.
        batches = max(4, round(self.faults / rows / len(at)))
        row, lane = np.tile(np.arange(rows), batches), np.repeat(np.arange(batches), rows)
        work = [(found[each], self._drawn(found[each], lane, row)) for each in at]
        bench = self._timed(work)
        each = -(-self.checks // len(work))
        for site, drawn in work:
            self._check_rows(bench, site, drawn.where((drawn.lane == 0) & (drawn.row < each)))
        return bench

    def _timed(self, work: list[Work]) -> Bench:
        bench, replayer = Bench(), self.rig.replayer
        with Bare(self.rig.artifact, self.network) as bare:
            for index, (_, drawn) in enumerate(work):
                self.turn(index / len(work))
                # The site's gate, its sessions and golden prefix, as in a campaign's first round.
                bench.ready.time(partial(replayer.run, drawn.where(drawn.lane < 2)))
                bare.time(bench.forward)
                bench.injected.time(partial(replayer.run, drawn))
                bench.faults += len(drawn)
        return bench

    def _check_rows(self, bench: Bench, site: Site, drawn: Edits) -> None:
        """Against the whole executed graph with the faulty numbers written into it on its way."""
        if self.rig.backend.name != "onnxruntime":
            return
        (made,) = self.rig.replayer.run(drawn)
        wanted = _written(self.rig, site, drawn)
        bench.check(lanes.same_outputs(made, wanted), len(drawn))

    def _drawn(self, site: Site, lane: Array, row: Array | int = edits.NO_ROW) -> Edits:
        element = self.rng.integers(site.size, size=len(lane))
        mask = np.uint64(1) << self.rng.integers(site.bits, size=len(lane)).astype(np.uint64)
        return edits.make((site.name,), 0, element, mask, row=row, lane=lane)


def _is_layer(site: Site) -> bool:
    return site.kind == "weight" and len(site.shape) > 1


def _is_output(site: Site) -> bool:
    named = site.op_type.lower()
    return site.kind == "activation" and any(each in named for each in WEIGHTED)


def _written(rig: Rig, site: Site, drawn: Edits) -> dict[str, Array]:
    from hwbench_onnxruntime.executed import Executed

    graph = Executed.of(rig.artifact)
    cut = min(graph.readers[site.name])
    clean = graph.part(0, cut, [site.name]).run(rig.feeds)[site.name]
    faulty = lanes.apply_rows(clean, drawn)
    where = np.argwhere(lanes.unsigned(faulty) != lanes.unsigned(clean))
    part = graph.scattered({site.name: (where, faulty[tuple(where.T)])})
    return dict(zip(graph.outputs, part.run(rig.feeds).values(), strict=True))


def main() -> None:
    """Measure a runtime and tell the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--faults", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--checks", type=int, required=True)
    asked = parser.parse_args()
    network, deployment = NETWORKS[asked.network], f"{asked.backend} {asked.precision}"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            rig = prepare(asked.backend, asked.precision, network, Path(scratch))
        except Unsupported as reason:
            Measured("hwbench", deployment, network.name, "", note=f"{reason}").tell()
            return
        rng = np.random.default_rng(0)
        driver = Driver(rig, network, rng, asked.faults, asked.layers, asked.checks)
        for target, run in {
            PARAMETERS: lambda: driver.weights(alike=False),
            LAYERS: lambda: driver.weights(alike=True),
            NEURONS: driver.neurons,
        }.items():
            driver.turn = partial(wait_for_turn, target)
            run().measured("hwbench", deployment, network.name, target).tell()
        rig.replayer.close()


if __name__ == "__main__":
    main()
