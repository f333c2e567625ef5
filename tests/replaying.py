"""What tests of replay share: real networks with a batch, faults, and the naive way beside them."""

from __future__ import annotations

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import models
from hwbench import edits
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
from hwbench.edits import Edits, Op
from hwbench.replay import lanes, naive

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
MEMORY_MIB = 128
Outputs = dict[str, Array]
Oracle = Callable[[Edits], Outputs]


def _images(file: str, rows: int, offset: float = 0, scale: float = 1) -> Array:
    x: Array = np.load(ASSETS / "data" / file)["x"][:rows].astype(np.float32)
    return np.ascontiguousarray((x.transpose(0, 3, 1, 2) - np.float32(offset)) / np.float32(scale))


def _speech(rows: int) -> Array:
    x: Array = np.load(ASSETS / "data/kws01_mfcc_1000.npz")["x"][:rows].astype(np.float32)
    x = (x - np.float32(83)) * np.float32(0.5847029)
    return x


def _messages(rows: int) -> dict[str, Array]:
    stored = np.load(ASSETS / "data/sms_test_1000.npz")
    return {name: stored[name][:rows] for name in ("input_ids", "attention_mask")}


NETWORKS: dict[str, tuple[str, int, Callable[[int], dict[str, Array]]]] = {
    "resnet20": ("", 12, lambda n: {"input": models.images(n)}),
    "resnet8": (
        "resnet8_cifar10_mlperftiny.onnx",
        12,
        lambda n: {"input": _images("cifar10_test_lossless_1017.npz", n)},
    ),
    "kws": ("dscnn_kws_mlperftiny.onnx", 12, lambda n: {"input": _speech(n)}),
    "sms": ("sms_transformer.onnx", 4, _messages),
    "mobilenet": (
        "mobilenet_v1_0.5_160.onnx",
        3,
        lambda n: {"input": _images("imagenet_sample_160_125.npz", n, 128, 128)},
    ),
}


@dataclass(frozen=True)
class Rig:
    """A built artifact with a batch and its replayer."""

    backend: Backend
    source: ModelSource
    artifact: Artifact
    feeds: dict[str, Array]
    replayer: Replayer

    @property
    def rows(self) -> int:
        return len(next(iter(self.feeds.values())))

    def naive(self, edited: Edits) -> Outputs:
        return naive.stored(self.backend, self.artifact, self.feeds, edited)

    def stored(self, *kinds: str) -> list[Site]:
        """Sites of these kinds, or all."""
        sites = self.backend.sites(self.artifact)
        return [site for site in sites if not kinds or site.kind in kinds]

    def between(self) -> list[Site]:
        """Tensors between operators."""
        return [site for site in self.replayer.activations if site.kind == "activation"]

    def entering(self) -> list[Site]:
        """The inputs."""
        return [site for site in self.replayer.activations if site.kind == "input"]


def build(
    backend: Backend, folder: Path, source: ModelSource, feeds: dict[str, Array], precision: str
) -> Artifact:
    target = folder / precision
    target.mkdir()
    environment = Environment(backend.name, precision=precision)
    return backend.build(source, environment, feeds if precision == "int8" else None, target)


def network(name: str, folder: Path) -> tuple[ModelSource, dict[str, Array]]:
    """A network by name and a batch for it; skips where the file is not on this machine."""
    file, rows, read = NETWORKS[name]
    if not file:
        return models.resnet20(folder, folded=False), read(rows)
    path = ASSETS / "models" / file
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    feeds = read(rows)
    inputs = tuple(TensorSpec(k, (None, *v.shape[1:]), v.dtype.name) for k, v in feeds.items())
    return ModelSource(name, inputs, onnx=str(path)), feeds


def draw(site: Site, count: int, rng: np.random.Generator, rows: int = 0) -> Edits:
    """One fault per lane: a flip, and every fifth time the bits of a NaN or all ones.

    64 bits are indices, and a high bit there is an error, not a result: their lowest three flip.
    """
    indices = site.bits == 64
    mask = np.uint64(1) << rng.integers(3 if indices else site.bits, size=count).astype(np.uint64)
    op = np.where((np.arange(count) % 5 == 4) & (not indices), Op.WRITE, Op.FLIP)
    ones = np.uint64((1 << site.bits) - 1)
    row = rng.integers(rows, size=count) if rows else edits.NO_ROW
    element, lane = rng.integers(site.size, size=count), np.arange(count)
    return edits.make((site.name,), 0, element, np.where(op == Op.WRITE, ones, mask), op, row, lane)


def outcome(run: Oracle, edited: Edits) -> dict[str, bytes] | str:
    """Bytes of the outputs, or that the runtime refused."""
    try:
        return {name: each.tobytes() for name, each in run(edited).items()}
    except refusals() as error:
        return "refused: " + type(error).__name__


def refusals() -> tuple[type[Exception], ...]:
    """What the runtimes here raise when they refuse a network or its numbers."""
    if importlib.util.find_spec("onnxruntime") is None:
        return (RuntimeError,)
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (RuntimeError, state.Fail, state.InvalidArgument, state.RuntimeException)


def mismatches(rig: Rig, edited: Edits, oracle: Oracle) -> list[str]:
    """Lanes whose bytes differ from the oracle's."""
    made: list[dict[str, bytes] | str]
    try:
        made = [{n: a.tobytes() for n, a in each.items()} for each in rig.replayer.run(edited)]
    except refusals():  # of all lanes, for one that the runtime refuses: one at a time then
        made = [outcome(lambda e: rig.replayer.run(e)[0], each) for each in alone(edited)]
    return [
        f"{edited.sites[0]} lane {lane}"
        for lane, each in enumerate(alone(edited))
        if made[lane] != outcome(oracle, each)
    ]


def alone(edited: Edits) -> list[Edits]:
    """Each lane as edits of lane 0."""
    parts = lanes.split(edited)
    return [edits.make(e.sites, e.site, e.element, e.mask, e.op, e.row) for e in parts]


@dataclass
class Compared:
    """Faults that were run both ways, by the route they took, and those that differed."""

    routes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def shortcuts(self) -> int:
        """Faults that took another way than the naive one."""
        return sum(count for route, count in self.routes.items() if route != "whole")

    def add(self, rig: Rig, edited: Edits, oracle: Oracle) -> None:
        self.wrong += mismatches(rig, edited, oracle)
        (name,) = edited.touched()
        self.routes[rig.replayer.methods[name].route] += len(lanes.split(edited))


def compare(
    rig: Rig, sites: list[Site], faults: int, seed: int, oracle: Oracle, rows: int = 0
) -> Compared:
    """One fault in every site, and ``faults`` over those that do not take the naive way itself."""
    rng, found = np.random.default_rng(seed), Compared()
    for site in sites:
        found.add(rig, draw(site, 1, rng, rows), oracle)
    short = [site for site in sites if rig.replayer.methods[site.name].route != "whole"]
    each = -(-max(0, faults - found.shortcuts) // max(1, len(short)))
    for site in short if each else []:
        found.add(rig, draw(site, each, rng, rows), oracle)
    return found


def written(rig: Rig) -> Oracle:
    """Faults between operators the naive way: clean numbers from a prefix, faulty ones written
    into the whole network on its way, in a fresh session."""
    return {"onnxruntime": _written_onnxruntime, "openvino": _written_openvino}[rig.backend.name](
        rig
    )


def _places(faulty: Any, clean: Any) -> Any:
    """Indices of what differs; of the first number where nothing does."""
    where = np.argwhere(lanes.unsigned(faulty) != lanes.unsigned(clean))
    return where if len(where) else np.zeros((1, clean.ndim), np.int64)


def _written_onnxruntime(rig: Rig) -> Oracle:
    from hwbench_onnxruntime.executed import Executed

    executed = Executed.of(rig.artifact)

    def run(edited: Edits) -> Outputs:
        name = edited.sites[0]
        clean = executed.part(0, executed.producers[name] + 1, [name]).run(rig.feeds)[name]
        faulty = lanes.apply_rows(clean, edited)
        where = _places(faulty, clean)
        part = executed.scattered({name: (where, faulty[tuple(where.T)])})
        return dict(zip(rig.replayer.golden, part.run(rig.feeds).values(), strict=True))

    return run


def _written_openvino(rig: Rig) -> Oracle:
    """One corrupted file for each tensor, in which the places and numbers are inputs."""
    import openvino as ov

    from hwbench_openvino.executed import Executed

    executed = Executed.of(rig.artifact, rig.feeds)
    given = {name: ov.Tensor(each) for name, each in rig.feeds.items()}
    opened: dict[str, tuple[Any, Any]] = {}

    def load(name: str) -> tuple[Any, Any]:
        edge = executed.edges[name]
        clean = edge.stored(executed.part([edge]).run(given)[name])
        return clean, executed.scattered({edge: clean.ndim})

    def run(edited: Edits) -> Outputs:
        name = edited.sites[0]
        if name not in opened:
            opened.clear()
            opened[name] = load(name)
        clean, whole = opened[name]
        faulty = lanes.apply_rows(clean, edited)
        places = executed.edges[name].written(faulty, _places(faulty, clean))
        made: Outputs = whole.run({**given, **places})
        return made

    return run


def written_pattern(rig: Rig, edited: Edits) -> Outputs:
    """Faults of several tensors, some between operators, the naive way: stored ones in a corrupted
    file, the others written into that network on its way, one after the other."""
    names = {site.name for site in rig.stored()}
    here = [at for at, name in enumerate(edited.sites) if name in names]
    mine = np.isin(edited.site, here)
    rest = edited.where(~mine)
    with tempfile.TemporaryDirectory() as scratch:
        artifact = rig.backend.corrupt(rig.artifact, edited.where(mine), Path(scratch))
        run = {"onnxruntime": _pattern_onnxruntime, "openvino": _pattern_openvino}
        return run[rig.backend.name](rig, artifact, rest)


def _pattern_onnxruntime(rig: Rig, artifact: Artifact, edited: Edits) -> Outputs:
    from hwbench_onnxruntime import patterns
    from hwbench_onnxruntime.executed import Executed

    tensors = {name: edited.at_site(name) for name in edited.touched()}
    return patterns.written(Executed.of(artifact), rig.feeds, tensors)


def _pattern_openvino(rig: Rig, artifact: Artifact, edited: Edits) -> Outputs:
    import openvino as ov

    from hwbench_openvino.executed import Edge, Executed

    found = Executed.of(rig.artifact, rig.feeds)
    faulty, ranks = found.corrupted(artifact), dict[Edge, int]()
    feeds = dict(rig.feeds)
    for name in set(edited.touched()) & feeds.keys():
        feeds[name] = lanes.apply_rows(feeds[name], edited.at_site(name))
    given = {name: ov.Tensor(each) for name, each in feeds.items()}
    for edge in found.edges.values():
        if edge.label in edited.touched():
            clean = edge.stored(faulty.scattered(ranks, edge).run(given)[edge.label])
            broken = lanes.apply_rows(clean, edited.at_site(edge.label))
            given |= edge.written(broken, _places(broken, clean))
            ranks[edge] = clean.ndim
    made: Outputs = faulty.scattered(ranks).run(given)
    return made


def centred(folder: Path) -> tuple[ModelSource, dict[str, Array]]:
    """A network that centres over the batch, and a batch of eight rows."""
    rng = np.random.default_rng(12)
    tensors = {
        "w1": rng.normal(size=(6, 16)).astype(np.float32),
        "b1": rng.normal(size=16).astype(np.float32),
        "w2": rng.normal(size=(16, 3)).astype(np.float32),
        "axes": np.array([0]),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first"),
        helper.make_node("ReduceMean", ["h", "axes"], ["m"], "mean"),
        helper.make_node("Sub", ["h", "m"], ["c"], "centre"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "centred",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(folder / "centred.onnx"))
    source = ModelSource(
        "centred", (TensorSpec("x", (None, 6), "float32"),), onnx=str(folder / "centred.onnx")
    )
    feeds = {"x": rng.normal(size=(8, 6)).astype(np.float32)}
    return source, feeds
