"""ONNX Runtime: published accuracies, awkward files, options, and what is really executed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench import edits, onnxfile
from hwbench.backend import Array, Artifact, Environment, Feeds, ModelSource, Site
from hwbench.errors import RequestError, Unsupported
from hwbench.testing import models

pytest.importorskip("onnxruntime")

from hwbench_onnxruntime import OnnxRuntimeBackend
from hwbench_onnxruntime.session import cpu_isa

BACKEND = OnnxRuntimeBackend()
ASSETS = Path(__file__).parents[2] / "shared" / "assets"
CALIBRATION = {"input": models.samples(64, seed=1)}


def asset(name: str) -> Path:
    path = ASSETS / name
    if not path.exists():
        pytest.skip(f"needs the asset {name}")
    return path


def build(
    onnx_file: Path | str, folder: Path, precision: str, calibration: Feeds | None, **options: Any
) -> Artifact:
    environment = Environment("onnxruntime", precision=precision, options=options)
    source = ModelSource("model", (), onnx=str(onnx_file))
    folder.mkdir(exist_ok=True)
    artifact = BACKEND.build(source, environment, calibration, folder)
    artifact.save()
    return artifact


def net(folder: Path, precision: str = "fp32", **options: Any) -> Artifact:
    path = models.conv_net(folder).onnx
    return build(str(path), folder / precision, precision, CALIBRATION, **options)


def run(artifact: Artifact, feeds: Feeds) -> Array:
    return next(iter(BACKEND.open(artifact).run(feeds).values()))


def top1(artifact: Artifact, feeds: Feeds, labels: Array) -> float:
    return float((run(artifact, feeds).argmax(1) == labels).mean())


def site(artifact: Artifact, name: str) -> Site:
    return next(each for each in BACKEND.sites(artifact) if each.name == name)


def cifar(name: str) -> tuple[Array, Array]:
    with np.load(asset(f"data/{name}.npz")) as arrays:
        return arrays["x"].transpose(0, 3, 1, 2).astype(np.float32), arrays["y"]


# Published accuracies.


@pytest.mark.parametrize(
    ("precision", "within"), [("fp32", 1e-4), ("fp16", 0.005), ("int8", 0.015)]
)
def test_resnet8_keeps_its_accuracy(tmp_path: Path, precision: str, within: float) -> None:
    x, y = cifar("cifar10_test_lossless_1017")
    calibration = {"input": cifar("cifar10_train_calib_500")[0]}
    path = asset("models/resnet8_cifar10_mlperftiny.onnx")
    artifact = build(path, tmp_path / "a", precision, calibration)
    assert top1(artifact, {"input": x}, y) == pytest.approx(0.8800, abs=within)


@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-9), ("int8", 0.015)])
def test_keyword_spotting_keeps_its_accuracy(tmp_path: Path, precision: str, within: float) -> None:
    with np.load(asset("data/kws01_mfcc_1000.npz")) as arrays:
        x = (arrays["x"].astype(np.float32) - 83) * np.float32(0.5847029)
        labels = arrays["y"]
    feeds = {"input": x.reshape(-1, 1, 49, 10)}
    path = asset("models/dscnn_kws_mlperftiny.onnx")
    artifact = build(path, tmp_path / "a", precision, {"input": feeds["input"][:300]})
    assert top1(artifact, feeds, labels) == pytest.approx(0.901, abs=within)


def test_a_transformer_with_integer_inputs(tmp_path: Path) -> None:
    names = ("input_ids", "attention_mask")
    with np.load(asset("data/sms_test_1000.npz")) as arrays:
        feeds, labels = {name: arrays[name] for name in names}, arrays["y"]
    with np.load(asset("data/sms_train_calib_300.npz")) as arrays:
        calibration = {name: arrays[name] for name in names}
    path = asset("models/sms_transformer.onnx")
    exact = build(path, tmp_path / "fp32", "fp32", None)
    assert top1(exact, feeds, labels) == pytest.approx(0.982)
    quantised = build(path, tmp_path / "int8", "int8", calibration)
    assert top1(quantised, feeds, labels) == pytest.approx(0.982, abs=0.05)
    assert BACKEND.open(quantised).actual.precision == "int8"


# Awkward files.


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_old_opset_with_initializers_among_the_inputs(tmp_path: Path, precision: str) -> None:
    x = np.random.default_rng(0).normal(0, 0.5, (2, 3, 240, 320)).astype(np.float32)
    artifact = build(
        asset("awkward/ultraface_rfb320.onnx"), tmp_path / "a", precision, {"input": x}
    )
    assert [each.name for each in artifact.inputs] == ["input"]
    session = BACKEND.open(artifact)
    shapes = {name: array.shape for name, array in session.run({"input": x[:1]}).items()}
    assert shapes == {"scores": (1, 4420, 2), "boxes": (1, 4420, 4)}
    assert {op.executed for op in session.actual.ops} == {precision}
    # Batch normalisation is folded, so no parameter of one is left to hit.
    assert {"BatchNormalization"}.isdisjoint(each.op_type for each in BACKEND.sites(artifact))


def test_weights_inside_subgraphs_are_sites(tmp_path: Path) -> None:
    path = asset("awkward/silero_vad_op16.onnx")
    artifact = build(path, tmp_path / "a", "fp32", None)
    feeds = {
        "input": np.random.default_rng(0).normal(0, 0.1, (1, 576)).astype(np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000),
    }
    clean = run(artifact, feeds)
    weights = [each for each in BACKEND.sites(artifact) if each.kind == "weight"]
    # Four cells (two sampling rates), each with input and recurrent weights.
    assert sum(each.op_type == "LSTM" for each in weights) == 8
    taken = [each for each in weights if each.name.startswith("If") and "then" in each.name]
    assert taken
    every = edits.make(
        tuple(each.name for each in taken), np.arange(len(taken)), np.zeros(len(taken)), 1 << 30
    )
    (tmp_path / "b").mkdir()
    faulted = BACKEND.corrupt(artifact, every, tmp_path / "b")
    assert run(faulted, feeds).tobytes() != clean.tobytes()
    with pytest.raises(Unsupported, match="main graph"):
        build(path, tmp_path / "c", "int8", {"input": feeds["input"]})


def test_external_data_comes_into_the_artifact(tmp_path: Path) -> None:
    artifact = build(asset("awkward/ext/ext_weights.onnx"), tmp_path / "a", "fp32", None)
    assert run(artifact, {"input": np.ones((1, 3), np.float32)}).shape == (1, 3)
    assert {path.name for path in artifact.folder.iterdir()} == {"model.onnx", "artifact.json"}


def test_loops_run(tmp_path: Path) -> None:
    artifact = build(asset("awkward/polygraphy_loop.onnx"), tmp_path / "a", "fp32", None)
    assert run(artifact, {"input_0": np.array([3], np.int32)}).shape == (1,)


def test_a_model_without_inputs_that_is_quantised_already(tmp_path: Path) -> None:
    path = asset("awkward/polygraphy_qdq_conv.onnx")
    artifact = build(path, tmp_path / "a", "int8", None)
    assert run(artifact, {}).shape == (1, 3, 1, 128)
    with pytest.raises(Unsupported, match="quantised already"):
        build(path, tmp_path / "b", "fp16", None)


# Artifacts.


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_another_process_builds_the_same_bytes(tmp_path: Path, precision: str) -> None:
    artifact = net(tmp_path, precision)
    script = (
        "import sys, numpy as np\nfrom pathlib import Path\n"
        "from hwbench.backend import Environment, ModelSource\n"
        "from hwbench.testing import models\nfrom hwbench_onnxruntime import OnnxRuntimeBackend\n"
        "source, target, precision = sys.argv[1:]\n"
        "OnnxRuntimeBackend().build(ModelSource('m', (), onnx=source),"
        " Environment('onnxruntime', precision=precision),"
        " {'input': models.samples(64, seed=1)}, Path(target))"
    )
    (tmp_path / "again").mkdir()
    arguments = [str(tmp_path / "conv_net.onnx"), str(tmp_path / "again"), precision]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONHASHSEED": "12345",
    }
    subprocess.run([sys.executable, "-c", script, *arguments], env=environment, check=True)
    again = (tmp_path / "again" / "model.onnx").read_bytes()
    assert again == (artifact.folder / "model.onnx").read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_artifacts_hold_nothing_made_for_this_cpu(tmp_path: Path, precision: str) -> None:
    model = onnx.load(str(net(tmp_path, precision).folder / "model.onnx"))
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert "Conv" in {node.op_type for node in model.graph.node}


def test_nodes_are_in_topological_order(tmp_path: Path) -> None:
    """The fp16 converter appends the Cast of the input after the nodes that read it."""
    model = onnx.load(str(net(tmp_path, "fp16").folder / "model.onnx"))
    known = {each.name for each in (*model.graph.input, *model.graph.initializer)}
    for node in model.graph.node:
        assert set(node.input) <= known
        known |= set(node.output)


def test_corrupting_the_artifact_is_editing_the_users_file(tmp_path: Path) -> None:
    """A second route: change the same element with onnx's own helpers and deploy that file."""
    artifact = net(tmp_path)
    flip = edits.make(("conv2.weight",), 0, [100], 1 << 29)
    (tmp_path / "b").mkdir()
    faulted = BACKEND.corrupt(artifact, flip, tmp_path / "b")
    model = onnx.load(str(tmp_path / "conv_net.onnx"))
    tensor = next(each for each in model.graph.initializer if each.name == "conv2.weight")
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1).view(np.uint32)[100] ^= np.uint32(1 << 29)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, str(tmp_path / "edited.onnx"))
    edited = build(tmp_path / "edited.onnx", tmp_path / "c", "fp32", None)
    feeds = {"input": models.samples(8)}
    assert run(faulted, feeds).tobytes() == run(edited, feeds).tobytes()
    assert run(faulted, feeds).tobytes() != run(artifact, feeds).tobytes()


def test_a_file_that_onnx_runtime_refuses_raises_its_own_error(tmp_path: Path) -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidProtobuf

    artifact = net(tmp_path)
    path = artifact.folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises((InvalidProtobuf, Fail)):
        BACKEND.open(artifact)


def test_edits_of_unknown_tensors_are_refused(tmp_path: Path) -> None:
    artifact = net(tmp_path)
    with pytest.raises(ValueError, match="stores no tensor 'nope'"):
        BACKEND.corrupt(artifact, edits.make(("nope",), 0, [0], 1), tmp_path)


# Sites.


def test_int8_sites_are_what_the_kernels_read(tmp_path: Path) -> None:
    artifact = net(tmp_path, "int8")
    weight = site(artifact, "conv1.weight_quantized")
    assert (weight.kind, weight.dtype, weight.shape) == ("weight", "int8", (8, 3, 3, 3))
    assert (weight.op_type, weight.layer) == ("Conv", "conv1")
    scale = site(artifact, "conv1.weight_scale")
    assert (scale.kind, scale.shape, scale.order) == ("scale", (8,), weight.order)
    bias = site(artifact, "conv1.bias_quantized")
    assert (bias.kind, bias.dtype, bias.order) == ("bias", "int32", weight.order)
    zero = site(artifact, "input_zero_point")
    assert (zero.kind, zero.dtype, zero.layer) == ("zero_point", "uint8", "conv1")
    # Stored numbers times their scales are the trained weights, to half a step.
    steps = BACKEND.stored(artifact, scale.name).reshape(-1, 1, 1, 1)
    numbers = BACKEND.stored(artifact, weight.name) * steps
    assert np.all(np.abs(numbers - models.weights()["conv1.weight"]) <= 0.501 * steps)


def test_constants_that_steer_operators_are_no_sites() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"], "reshape"),
        helper.make_node("MatMul", ["flat", "w"], ["y0"], "product"),
        helper.make_node("Add", ["y0", "b"], ["y1"], "shift"),
        helper.make_node("Clip", ["y1", "low"], ["y"], "clip"),
    ]
    arrays = {
        "shape": np.array([-1, 4]),
        "w": np.ones((4, 2), np.float32),
        "b": np.ones(2, np.float32),
        "low": np.array(0, np.float32),
    }
    model = _model(nodes, arrays)
    assert [(each.name, each.kind) for each in onnxfile.sites(model)] == [
        ("w", "weight"),
        ("b", "bias"),
    ]


def test_consumers_are_found_behind_operators_that_hand_on() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], "turn", perm=[1, 0]),
        helper.make_node("Cast", ["wt"], ["wf"], "widen", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wf"], ["y"], "product"),
    ]
    model = _model(nodes, {"w": np.ones((2, 4), np.float16)})
    (found,) = onnxfile.sites(model)
    assert (found.layer, found.order, found.dtype) == ("product", 2, "float16")
    (operator,) = onnxfile.operators(model)
    assert (operator.stored, operator.executed) == ("fp16", "fp32")


def _model(nodes: list[onnx.NodeProto], arrays: dict[str, Array]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_typed_fields_and_bfloat16_keep_their_bits(tmp_path: Path) -> None:
    """Files may store numbers as typed lists instead of raw bytes."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    model = _model(nodes, {})
    values = np.array([1.5, -2.0, 3.25, 0.5, 1.0, -1.0, 2.0, 8.0], np.float32)
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [4, 2], values)
    model.graph.initializer.append(tensor)
    onnxfile.save(model, tmp_path / "m.onnx")
    saved = onnxfile.read(tmp_path / "m.onnx")
    before = onnxfile.stored(onnxfile.tensor(saved, "w"))
    assert before.dtype == np.uint16
    assert np.array_equal((before.astype(np.uint32).ravel() << 16).view(np.float32), values)
    onnxfile.corrupt(saved, edits.make(("w",), 0, [3], 1 << 15))
    after = onnxfile.stored(onnxfile.tensor(saved, "w"))
    assert np.array_equal(np.flatnonzero(before != after), [3])
    assert int(before.ravel()[3] ^ after.ravel()[3]) == 1 << 15


# Options.


def test_misspelt_session_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"did you mean 'session.intra_op.allow_spinning'"):
        net(tmp_path, **{"session.intra_op.allow_spining": "0"})


def test_session_keys_reach_the_session(tmp_path: Path) -> None:
    """With quantised operators disabled, the int8 file is computed in fp32 and reported so."""
    artifact = net(tmp_path, "int8", **{"session.disable_quant_qdq": True})
    ops = BACKEND.open(artifact).actual.ops
    assert {(op.stored, op.executed) for op in ops} == {("int8", "fp32")}


def test_an_option_set_to_none_is_left_alone(tmp_path: Path) -> None:
    artifact = net(tmp_path, "int8", **{"session.disable_quant_qdq": None})
    assert BACKEND.open(artifact).actual.precision == "int8"


def test_quantisation_options(tmp_path: Path) -> None:
    options = {
        "quantize.per_channel": False,
        "quantize.reduce_range": True,
        "quantize.activation_type": "int8",
        "quantize.calibrate_method": "percentile",
    }
    artifact = net(tmp_path, "int8", **options)
    assert site(artifact, "conv1.weight_scale").shape in ((), (1,))
    assert np.abs(BACKEND.stored(artifact, "conv1.weight_quantized").astype(int)).max() <= 64
    assert site(artifact, "input_zero_point").dtype == "int8"
    expected = run(net(tmp_path), {"input": models.samples(8)})
    outputs = run(artifact, {"input": models.samples(8)})
    assert np.linalg.norm(outputs - expected) < 0.2 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize.reduce_rnge": True}, "did you mean 'quantize.reduce_range'"),
        ({"quantize.activation_type": "int4"}, "one of uint8, int8"),
    ],
)
def test_wrong_quantisation_options_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        net(tmp_path, "int8", **options)


@pytest.mark.parametrize("calibration", [None, {}])
def test_int8_without_calibration_rows_is_a_wrong_request(
    tmp_path: Path, calibration: Feeds | None
) -> None:
    path = str(models.conv_net(tmp_path).onnx)
    with pytest.raises(RequestError, match="calibration rows"):
        build(path, tmp_path / "a", "int8", calibration)


# What is really executed.


def test_fp16_on_the_cpu_is_reported_as_fp32(tmp_path: Path) -> None:
    actual = BACKEND.open(net(tmp_path, "fp16")).actual
    assert {(op.stored, op.executed) for op in actual.ops} == {("fp16", "fp32")}
    assert actual.precision == "fp32"


def test_operators_keep_the_artifacts_names(tmp_path: Path) -> None:
    for precision in ("fp32", "fp16", "int8"):
        ops = BACKEND.open(net(tmp_path, precision)).actual.ops
        assert [op.name for op in ops] == ["conv1", "conv2", "fc"]


def test_isa_is_the_best_the_cpu_has(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name : x\nflags\t\t: fpu sse4_1 avx avx2 fma\n")
    assert cpu_isa(tmp_path / "cpuinfo") == "avx2 (cpu)"
    assert cpu_isa(tmp_path / "absent") == "unknown"


def test_session_reports_threads_and_provider(tmp_path: Path) -> None:
    actual = BACKEND.open(net(tmp_path)).actual
    assert (actual.threads, actual.provider) == (1, "CPUExecutionProvider")


def test_the_small_net_is_the_same_everywhere(tmp_path: Path) -> None:
    content = Path(str(models.conv_net(tmp_path).onnx)).read_bytes()
    (tmp_path / "again").mkdir()
    again = Path(str(models.conv_net(tmp_path / "again").onnx)).read_bytes()
    assert hashlib.sha256(content).digest() == hashlib.sha256(again).digest()
