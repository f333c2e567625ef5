"""Replay on ONNX Runtime against the naive route, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from benchmarks import models
from hwbench import edits, onnxfile
from hwbench.backend import Array, Artifact, Environment, ModelSource, Replayer, Site, TensorSpec
from hwbench.edits import Edits, Op
from hwbench.replay import gate, lanes, naive
from hwbench_onnxruntime import OnnxRuntimeBackend
from hwbench_onnxruntime.channels import block
from hwbench_onnxruntime.executed import Executed

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
BACKEND = OnnxRuntimeBackend()
MEMORY_MIB = 128
STORED = ("weight", "bias")


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

    artifact: Artifact
    feeds: dict[str, Array]
    replayer: Replayer

    @property
    def rows(self) -> int:
        return len(next(iter(self.feeds.values())))

    def naive(self, edited: Edits) -> dict[str, Array]:
        return naive.stored(BACKEND, self.artifact, self.feeds, edited)

    def stored(self) -> list[Site]:
        return [site for site in BACKEND.sites(self.artifact) if site.kind in STORED]


def _build(folder: Path, source: ModelSource, feeds: dict[str, Array], precision: str) -> Artifact:
    target = folder / precision
    target.mkdir()
    environment = Environment("onnxruntime", precision=precision)
    return BACKEND.build(source, environment, feeds if precision == "int8" else None, target)


@pytest.fixture(scope="module", params=[f"{n}-{p}" for n in NETWORKS for p in ("fp32", "int8")])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    name, precision = request.param.split("-")
    file, rows, read = NETWORKS[name]
    if file and not (ASSETS / "models" / file).exists():
        pytest.skip(f"{ASSETS / 'models' / file} is not on this machine")
    folder, feeds = tmp_path_factory.mktemp(name), read(rows)
    if file:
        inputs = tuple(TensorSpec(k, (None, *v.shape[1:]), v.dtype.name) for k, v in feeds.items())
        source = ModelSource(name, inputs, onnx=str(ASSETS / "models" / file))
    else:
        source = models.resnet20(folder, folded=False)
    artifact = _build(folder, source, feeds, precision)
    return Rig(artifact, feeds, BACKEND.replayer(artifact, feeds, MEMORY_MIB))


def _draw(site: Site, count: int, rng: np.random.Generator, rows: int = 0) -> Edits:
    """One fault per lane: a flip, and every fifth time the bits of a NaN or all ones."""
    mask = np.uint64(1) << rng.integers(site.bits, size=count).astype(np.uint64)
    op = np.where(np.arange(count) % 5 == 4, Op.WRITE, Op.FLIP)
    ones = np.uint64((1 << site.bits) - 1)
    row = rng.integers(rows, size=count) if rows else edits.NO_ROW
    element, lane = rng.integers(site.size, size=count), np.arange(count)
    return edits.make((site.name,), 0, element, np.where(op == Op.WRITE, ones, mask), op, row, lane)


def _mismatches(rig: Rig, edited: Edits, oracle: Callable[[Edits], dict[str, Array]]) -> list[str]:
    made = rig.replayer.run(edited)
    return [
        f"{edited.sites[0]} lane {lane}"
        for lane, each in enumerate(lanes.split(edited))
        if not lanes.same_outputs(made[lane], oracle(each))
    ]


def _stored_mismatches(rig: Rig, sites: list[Site], each: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    found = []
    for site in sites:
        found += _mismatches(rig, _draw(site, each, rng), rig.naive)
    return found


def test_golden_is_the_deployed_session(rig: Rig) -> None:
    assert lanes.same_outputs(rig.replayer.golden, naive.golden(BACKEND, rig.artifact, rig.feeds))


def test_stored_faults(rig: Rig) -> None:
    rng = np.random.default_rng(1)
    sites = rig.stored()
    chosen = [sites[i] for i in rng.choice(len(sites), 6, replace=False)]
    assert _stored_mismatches(rig, chosen, 6, seed=2) == []


@pytest.mark.slow
def test_many_stored_faults(rig: Rig) -> None:
    sites = rig.stored()
    assert _stored_mismatches(rig, sites, -(-500 // len(sites)), seed=3) == []


def _outcome(run: Callable[[Edits], dict[str, Array]], edited: Edits) -> dict[str, bytes] | str:
    """Bytes of the outputs, or what the runtime refused them with."""
    try:
        return {name: each.tobytes() for name, each in run(edited).items()}
    except (Fail, InvalidArgument, RuntimeException) as error:
        return type(error).__name__


@pytest.mark.slow
def test_quantisation_parameters(rig: Rig) -> None:
    rng = np.random.default_rng(4)
    for site in BACKEND.sites(rig.artifact):
        if site.kind in ("scale", "zero_point"):
            edited = _draw(site, 1, rng)
            wanted = _outcome(rig.naive, edited)
            assert _outcome(lambda each: rig.replayer.run(each)[0], edited) == wanted


def test_patterns_over_several_sites(rig: Rig) -> None:
    rng = np.random.default_rng(5)
    sites = rig.stored()
    names = tuple(site.name for site in sites)
    for count in (2, 5, 9, 17, 33):
        site = rng.integers(len(sites), size=count)
        element = [int(rng.integers(sites[i].size)) for i in site]
        mask = [1 << int(rng.integers(sites[i].bits)) for i in site]
        edited = edits.make(names, site, element, mask)
        assert lanes.same_outputs(rig.replayer.run_pattern(edited), rig.naive(edited))


def _whole(rig: Rig) -> Callable[[Edits], dict[str, Array]]:
    """Activation faults the naive way: clean numbers from a prefix, faulty ones written into the
    whole executed graph, in one fresh session."""
    executed = Executed.of(rig.artifact)

    def run(edited: Edits) -> dict[str, Array]:
        name = edited.sites[0]
        clean = rig.feeds.get(name)
        if clean is None:
            stop = executed.producers[name] + 1
            clean = executed.part(0, stop, [name]).run(rig.feeds)[name]
        faulty = lanes.apply_rows(clean, edited)
        where = np.argwhere(lanes.unsigned(faulty) != lanes.unsigned(clean))
        part = executed.scattered(name, where, faulty[tuple(where.T)])
        return dict(zip(rig.replayer.golden, part.run(rig.feeds).values(), strict=True))

    return run


def _activation_mismatches(rig: Rig, sites: list[Site], each: int, seed: int) -> list[str]:
    rng, oracle = np.random.default_rng(seed), _whole(rig)
    found = []
    for site in sites:
        found += _mismatches(rig, _draw(site, each, rng, rig.rows), oracle)
    return found


def _numbers(rig: Rig) -> list[Site]:
    """Activations that are no indices: an index out of bounds is the runtime's error."""
    return [site for site in rig.replayer.activations if site.bits < 64]


def test_activation_faults(rig: Rig) -> None:
    rng = np.random.default_rng(6)
    sites = _numbers(rig)
    chosen = [sites[i] for i in rng.choice(len(sites), 6, replace=False)]
    assert _activation_mismatches(rig, chosen, 5, seed=7) == []


@pytest.mark.slow
def test_many_activation_faults(rig: Rig) -> None:
    sites = _numbers(rig)
    assert _activation_mismatches(rig, sites, -(-500 // len(sites)), seed=8) == []


def test_one_fault_a_row_is_the_same_as_each_alone(rig: Rig) -> None:
    site = _numbers(rig)[len(_numbers(rig)) // 2]
    drawn = _draw(site, rig.rows, np.random.default_rng(9), rig.rows)
    rows = np.arange(rig.rows)
    together = edits.make(drawn.sites, 0, drawn.element, drawn.mask, drawn.op, rows)
    alone = edits.make(drawn.sites, 0, drawn.element, drawn.mask, drawn.op, rows, rows)
    (made,) = rig.replayer.run(together)
    for row, each in enumerate(rig.replayer.run(alone)):
        for name in made:
            assert made[name][row].tobytes() == each[name][row].tobytes()


# What follows needs one network only.


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder, feeds = tmp_path_factory.mktemp("one"), {"input": models.images(12)}
    artifact = _build(folder, models.resnet20(folder), feeds, "fp32")
    return Rig(artifact, feeds, BACKEND.replayer(artifact, feeds, MEMORY_MIB))


def _site(rig: Rig, name: str) -> Site:
    return next(site for site in BACKEND.sites(rig.artifact) if site.name.startswith(name))


def test_convolutions_are_grouped_and_the_rest_says_why_not(resnet: Rig) -> None:
    for name in ("stage1.0.conv2", "fc.weight"):
        resnet.replayer.run(_draw(_site(resnet, name), 1, np.random.default_rng(0)))
    methods = {name.split(".w")[0]: each for name, each in resnet.replayer.methods.items()}
    assert methods["stage1.0.conv2"].route == "grouped"
    assert methods["fc"].route in ("suffix", "constant")
    assert "grouped" in methods["fc"].refused[0]


def test_faults_in_several_channels_of_one_lane(resnet: Rig) -> None:
    site = _site(resnet, "stage1.1.conv1")
    drawn = _draw(site, 24, np.random.default_rng(10))
    edited = edits.make(drawn.sites, 0, drawn.element, drawn.mask, lane=np.arange(24) // 8)
    assert _mismatches(resnet, edited, resnet.naive) == []


def test_a_lane_without_edits_is_golden(resnet: Rig) -> None:
    site = _site(resnet, "stage2.0.conv1")
    edited = edits.make((site.name,), 0, [3, 5], [1 << 30, 1 << 30], lane=[0, 2])
    made = resnet.replayer.run(edited)
    assert len(made) == 3
    assert lanes.same_outputs(made[1], resnet.replayer.golden)
    assert not lanes.same_outputs(made[0], resnet.replayer.golden)


def test_the_memory_bound_changes_nothing_but_memory(resnet: Rig) -> None:
    tight = BACKEND.replayer(resnet.artifact, resnet.feeds, 0.01)
    for name in ("stage2.2.conv1", "stem", "stage1.0.conv1"):
        drawn = _draw(_site(resnet, name), 5, np.random.default_rng(11))
        for a, b in zip(tight.run(drawn), resnet.replayer.run(drawn), strict=True):
            assert lanes.same_outputs(a, b)


def test_what_is_asked_wrongly_is_refused(resnet: Rig) -> None:
    site = _site(resnet, "stem")
    with pytest.raises(IndexError):
        resnet.replayer.run(edits.make((site.name,), 0, [site.size], [1]))
    with pytest.raises(ValueError, match="one site"):
        resnet.replayer.run(edits.make((site.name, "fc.weight"), [0, 1], [0, 0], [1, 1]))
    with pytest.raises(ValueError, match="no tensor"):
        resnet.replayer.run(edits.make(("nothing",), 0, [0], [1], row=0))


def _from_blocks(flat: int, channels: int, places: int) -> tuple[int, int]:
    """Channel and place of a flat index into one row in NCHWc."""
    group, rest = divmod(flat, places * block())
    return group * block() + rest % block(), rest // block()


@pytest.mark.parametrize(
    "tensor", ["stage0.0.relu1_out", "stage1.1.relu1_out", "stage2.0.relu1_out"]
)
def test_activation_faults_in_a_corrupted_file(resnet: Rig, tensor: str, tmp_path: Path) -> None:
    """The artifact itself with the faulty number written in, through every optimisation.

    Tensors with one reader only: what is written into a residual path keeps its addition from
    being fused, and that changes the order of the sums.
    """
    executed = Executed.of(resnet.artifact)
    node = next(n for n in executed.nodes if n.name == f"{tensor}_nchwc")
    site = next(s for s in resnet.replayer.activations if s.name == node.output[0])
    channels, height, width = site.shape
    clean = executed.part(0, executed.producers[site.name] + 1, [site.name]).run(resnet.feeds)
    for number, (flat, bit) in enumerate(((7, 30), (site.size // 2 + 3, 22), (site.size - 1, 31))):
        edited = edits.make((site.name,), 0, [flat], [1 << bit], row=number)
        value = lanes.apply_rows(clean[site.name], edited)[number].reshape(-1)[flat]
        channel, place = _from_blocks(flat, channels, height * width)
        where = [number, channel, *divmod(place, width)]
        folder = tmp_path / str(number)
        folder.mkdir()
        wanted = _written(resnet, tensor, where, value, folder)
        assert lanes.same_outputs(resnet.replayer.run(edited)[0], wanted)


def _written(
    rig: Rig, tensor: str, where: list[int], value: np.float32, folder: Path
) -> dict[str, Array]:
    model = onnxfile.read(rig.artifact.folder / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["hit" if name == tensor else name for name in node.input]
    held = {"where": np.array([where]), "value": np.array([value])}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in held.items())
    model.graph.node.append(helper.make_node("ScatterND", [tensor, *held], ["hit"]))
    onnxfile.sort(model.graph)
    onnxfile.write(model, folder / "model.onnx")
    corrupted = Artifact(
        folder,
        rig.artifact.environment,
        rig.artifact.inputs,
        rig.artifact.outputs,
        {"file": "model.onnx"},
    )
    return naive.golden(BACKEND, corrupted, rig.feeds)


def test_rows_that_depend_on_one_another(tmp_path: Path) -> None:
    """A network that centres over the batch: no row may be dropped or moved."""
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
    onnx.save(model, str(tmp_path / "centred.onnx"))
    source = ModelSource(
        "centred", (TensorSpec("x", (None, 6), "float32"),), onnx=str(tmp_path / "centred.onnx")
    )
    feeds = {"x": rng.normal(size=(8, 6)).astype(np.float32)}
    artifact = _build(tmp_path, source, feeds, "fp32")
    rig = Rig(artifact, feeds, BACKEND.replayer(artifact, feeds, MEMORY_MIB))
    assert _stored_mismatches(rig, rig.stored(), 10, seed=13) == []
    assert _activation_mismatches(rig, _numbers(rig), 10, seed=14) == []


@dataclass
class _Route:
    """A route that is wrong on request."""

    clean: dict[str, Array]
    faulty: dict[str, Array]

    def golden(self) -> dict[str, Array]:
        return self.clean

    def run(self, patterns: object) -> list[dict[str, Array]]:
        return [self.faulty] * gate.SAMPLES


def test_the_gate_lets_nothing_wrong_through() -> None:
    clean, faulty = (
        {"y": np.array([[1, 2]], np.float32)},
        {"y": np.array([[np.nan, 2]], np.float32)},
    )
    truth = gate.Truth(clean, gate.samples("w", 9, 32), (faulty,) * gate.SAMPLES)
    zero = {"y": np.array([[np.nan, -2]], np.float32)}
    whole = gate.Candidate("whole", lambda: _Route(clean, faulty))
    wrong = {
        "golden": gate.Candidate("grouped", lambda: _Route(faulty, faulty)),
        "fault": gate.Candidate("grouped", lambda: _Route(clean, zero)),
    }
    for what, candidate in wrong.items():
        _, method = gate.choose([candidate], whole, truth)
        assert method.route == "whole"
        assert what in method.refused[0]
    _, method = gate.choose([gate.Candidate("suffix", whole.make)], whole, truth)
    assert method.route == "suffix"
