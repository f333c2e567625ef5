"""The OpenVINO adapter on a small network made here, and on a real one where it is at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hwbench import edits
from hwbench.backend import Artifact, Environment, ModelSource, TensorSpec
from hwbench.errors import RequestError, Unsupported
from hwbench_openvino import OpenVINOBackend

pytest.importorskip("openvino")

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT.parent / "shared" / "assets"
BACKEND = OpenVINOBackend()
ROWS = np.random.default_rng(3).normal(size=(40, 2, 8, 8)).astype(np.float32)
PRECISIONS = ("fp32", "fp16", "int8")
STORED = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
# The bit that does most harm to a value below 2: the highest of the exponent, or the sign.
HIGH_BIT = {"float32": 30, "float16": 14, "int8": 7}


def _parameters():
    rng = np.random.default_rng(7)

    def normal(*shape):
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    bias = rng.normal(size=6).astype(np.float32)
    return {
        "first.weight": normal(6, 2, 3, 3),
        "first.bias": bias,
        "second.weight": normal(6, 6, 3, 3),
        "second.bias": bias,  # equal to the first, so that they share bytes in the file
        "norm.gamma": rng.uniform(0.5, 2, 6).astype(np.float32),
        "norm.beta": rng.normal(size=6).astype(np.float32),
        "norm.mean": rng.normal(size=6).astype(np.float32),
        "norm.var": rng.uniform(0.5, 2, 6).astype(np.float32),
        "third.weight": normal(6, 6, 3, 3),
        "head.weight": normal(4, 6),
        "head.bias": rng.normal(size=4).astype(np.float32),
    }


def _network(path, batch="batch"):
    pads = [1, 1, 1, 1]
    norm = [f"norm.{part}" for part in ("gamma", "beta", "mean", "var")]
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"], "one", pads=pads),
        helper.make_node("Relu", ["a"], ["b"], "two"),
        helper.make_node("Conv", ["b", "second.weight", "second.bias"], ["c"], "three", pads=pads),
        helper.make_node("Relu", ["c"], ["d"], "four"),
        helper.make_node("Conv", ["d", "third.weight"], ["e"], "five", pads=pads),
        helper.make_node("BatchNormalization", ["e", *norm], ["f"], "six"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], "seven"),
        helper.make_node("Flatten", ["g"], ["h"], "eight"),
        helper.make_node("Gemm", ["h", "head.weight", "head.bias"], ["y"], "nine", transB=1),
    ]
    _save(path, nodes, _parameters(), [batch, 2, 8, 8], [batch, 4])
    return ModelSource("small", (TensorSpec("x", (None, 2, 8, 8), "float32"),), onnx=str(path))


def _save(path, nodes, parameters, shape_in, shape_out):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)],
        [numpy_helper.from_array(array, name) for name, array in parameters.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def _build(source, precision, folder, options=None, calibration=ROWS):
    _skip_unless(precision)
    folder.mkdir()
    environment = Environment("openvino", "cpu", precision, 1, options or {})
    feeds = {source.inputs[0].name: calibration} if precision == "int8" else None
    artifact = BACKEND.build(source, environment, feeds, folder)
    artifact.save()
    return Artifact.load(folder)


def _skip_unless(precision):
    capability = BACKEND.probe().precisions[precision]
    if capability.status != "supported":
        pytest.skip(capability.reason)


def _run(artifact, rows=ROWS):
    session = BACKEND.open(artifact)
    try:
        return session.run({session.inputs[0].name: rows})[session.outputs[0].name]
    finally:
        session.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return _network(tmp_path_factory.mktemp("onnx") / "small.onnx")


@pytest.fixture(scope="module", params=PRECISIONS)
def artifact(request, source, tmp_path_factory):
    return _build(source, request.param, tmp_path_factory.mktemp("ir") / request.param)


@pytest.fixture(scope="module")
def fp32(source, tmp_path_factory):
    return _build(source, "fp32", tmp_path_factory.mktemp("ir") / "fp32")


def test_importing_the_package_imports_no_runtime():
    code = (
        "import sys, hwbench_openvino; hwbench_openvino.OpenVINOBackend();"
        "print([m for m in ('openvino', 'nncf', 'onnx', 'torch') if m in sys.modules])"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "backends", "scenarios"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_probe_declares_what_is_missing_with_a_reason():
    probe = BACKEND.probe()
    assert "cpu" in probe.devices
    assert probe.precisions["fp32"].status == "supported"
    for capability in (*probe.features.values(), *probe.precisions.values()):
        assert capability.status == "supported" or capability.reason
    assert probe.features["live"].status == "unsupported"


def test_int8_without_nncf_is_unsupported_with_the_command(monkeypatch, source, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r'pip install "hwbench\[quantize\]"'):
        BACKEND.build(source, Environment("openvino", precision="int8"), None, tmp_path)


def test_int8_that_was_built_elsewhere_runs_without_nncf(monkeypatch, source, tmp_path):
    """A small board runs what a large machine quantised."""
    built = _build(source, "int8", tmp_path / "int8")
    here = _run(built)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert BACKEND.probe().precisions["int8"].status == "unsupported"
    np.testing.assert_array_equal(_run(built), here)


@pytest.mark.parametrize(("device", "precision"), [("npu:7", "fp32"), ("cpu", "fp4")])
def test_unknown_device_or_precision_is_unsupported(source, tmp_path, device, precision):
    environment = Environment("openvino", device, precision)
    with pytest.raises(Unsupported, match=f"{device if precision == 'fp32' else precision}"):
        BACKEND.build(source, environment, None, tmp_path)


def test_fp32_computes_what_onnx_defines(source, fp32):
    reference = ReferenceEvaluator(source.onnx).run(None, {"x": ROWS})[0]
    np.testing.assert_allclose(_run(fp32), reference, rtol=0, atol=1e-5)


def test_outputs_have_their_onnx_names_and_a_dynamic_batch(artifact):
    assert artifact.inputs == (TensorSpec("x", (None, 2, 8, 8), "float32"),)
    assert artifact.outputs == (TensorSpec("y", (None, 4), "float32"),)
    session = BACKEND.open(artifact)
    whole = session.run({"x": ROWS})["y"]
    assert whole.shape == (40, 4)
    assert whole.dtype == np.float32
    assert session.run({"x": ROWS[:3]})["y"].tobytes() == whole[:3].tobytes()


def test_outputs_are_the_callers_own(fp32):
    session = BACKEND.open(fp32)
    first = session.run({"x": ROWS})["y"]
    kept = first.copy()
    session.run({"x": -ROWS})
    session.close()
    assert first.tobytes() == kept.tobytes()
    with pytest.raises(RuntimeError, match="closed"):
        session.run({"x": ROWS})


def test_a_fixed_batch_stays_fixed(tmp_path):
    source = _network(tmp_path / "fixed.onnx", batch=8)
    artifact = _build(source, "int8", tmp_path / "ir")
    assert artifact.inputs[0].shape == (8, 2, 8, 8)
    assert _run(artifact, ROWS[:8]).shape == (8, 4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_building_twice_gives_equal_bytes(source, tmp_path, precision):
    first, second = (_build(source, precision, tmp_path / name) for name in "ab")
    for name in ("model.xml", "model.bin", "artifact.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_sites_are_named_after_the_initializers(artifact):
    sites = {site.name: site for site in BACKEND.sites(artifact)}
    assert len(sites) == len(BACKEND.sites(artifact))
    parameters = _parameters()
    for name in ("first", "second", "third", "head"):
        weight = sites[f"{name}.weight"]
        assert weight.kind == "weight"
        assert weight.dtype == STORED[artifact.environment.precision]
        assert weight.size == parameters[weight.name].size
        assert weight.op_type == ("MatMul" if name == "head" else "Convolution")
    for name in ("first.bias", "second.bias", "head.bias"):
        assert sites[name].kind == "bias"
    orders = [site.order for site in BACKEND.sites(artifact)]
    assert orders == sorted(orders)


def test_fp32_sites_hold_the_initializers(fp32):
    for name, expected in _parameters().items():
        if name.startswith(("first", "second", "head")):
            np.testing.assert_array_equal(BACKEND.stored(fp32, name).ravel(), expected.ravel())


def test_int8_has_scales_of_weights_and_of_activations(source, tmp_path):
    sites = {site.name: site for site in BACKEND.sites(_build(source, "int8", tmp_path / "ir"))}
    assert sites["first.weight/scale"].kind == "scale"
    assert sites["first.weight/scale"].size == 6
    ranges = [site for site in sites.values() if site.op_type == "FakeQuantize"]
    assert ranges
    assert all(site.kind == "scale" for site in ranges)


def test_a_flip_lands_in_that_bit_alone_and_twice_is_the_identity(artifact, tmp_path):
    golden = _run(artifact)
    stored = {site.name: BACKEND.stored(artifact, site.name) for site in BACKEND.sites(artifact)}
    for name in ("first.weight", "second.bias", "head.weight"):
        bit = HIGH_BIT[stored[name].dtype.name]
        flip = edits.make((name,), 0, 3, 1 << bit)
        folders = [tmp_path / f"{name}-{count}" for count in (1, 2)]
        for folder in folders:
            folder.mkdir()
        once = BACKEND.corrupt(artifact, flip, folders[0])
        twice = BACKEND.corrupt(Artifact.load(once.folder), flip, folders[1])
        expected = {**stored, name: edits.apply(stored[name], flip)}
        for each, array in expected.items():
            assert BACKEND.stored(once, each).tobytes() == array.tobytes()
        assert _run(once).tobytes() != golden.tobytes()
        assert _run(twice).tobytes() == golden.tobytes()


def test_a_fault_reaches_one_of_two_constants_that_share_their_bytes(fp32, tmp_path):
    import xml.etree.ElementTree as ET

    layers = {each.get("name"): each for each in ET.parse(fp32.folder / "model.xml").iter("layer")}
    offsets = [layers[name].find("data").get("offset") for name in ("first.bias", "second.bias")]
    assert offsets[0] == offsets[1]
    write = edits.make(("second.bias",), 0, 2, 0x41000000, edits.Op.WRITE)  # 8.0
    damaged = BACKEND.corrupt(fp32, write, tmp_path)
    parameters = _parameters()
    parameters["second.bias"] = parameters["second.bias"].copy()
    parameters["second.bias"][2] = 8.0
    for name in ("first.bias", "second.bias"):
        np.testing.assert_array_equal(BACKEND.stored(damaged, name).ravel(), parameters[name])


def test_a_fault_means_what_it_means_in_onnx(source, fp32, tmp_path):
    """The second route: the damaged value in the ONNX file, run by the reference evaluator."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    flip = edits.make(("second.weight",), 0, 17, 1 << 26)
    model = onnx.load(source.onnx)
    for tensor in model.graph.initializer:
        if tensor.name == "second.weight":
            array = edits.apply(numpy_helper.to_array(tensor), flip)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    expected = ReferenceEvaluator(model).run(None, {"x": ROWS})[0]
    found = _run(BACKEND.corrupt(fp32, flip, folder))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_fault_lands_in_a_nested_body(tmp_path):
    weights = np.eye(4, dtype=np.float32)
    bodies = {}
    for name, factor in (("then", 1), ("else", 2)):
        made = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, ["batch", 4])
        tensor = numpy_helper.from_array(weights * factor, f"{name}.weight")
        node = helper.make_node("MatMul", ["x", f"{name}.weight"], [f"{name}.y"], f"{name}.node")
        bodies[f"{name}_branch"] = helper.make_graph([node], name, [], [made], [tensor])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], "branch", **bodies),
    ]
    path = tmp_path / "if.onnx"
    _save(path, nodes, {"zero": np.float32(0)}, ["batch", 4], ["batch", 4])
    source = ModelSource("nested", (TensorSpec("x", (None, 4), "float32"),), onnx=str(path))
    artifact = _build(source, "fp32", tmp_path / "ir")
    assert {"then.weight", "else.weight"} <= {site.name for site in BACKEND.sites(artifact)}
    write = edits.make(("else.weight",), 0, 0, 0x41000000, edits.Op.WRITE)  # 8.0
    folder = tmp_path / "damaged"
    folder.mkdir()
    damaged = BACKEND.corrupt(artifact, write, folder)
    rows = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(_run(damaged, rows), rows)
    np.testing.assert_array_equal(_run(damaged, -rows)[:, 0], [-8, -8])


def test_a_site_that_does_not_exist_is_a_wrong_request(fp32, tmp_path):
    with pytest.raises(RequestError, match="no site 'nowhere'"):
        BACKEND.corrupt(fp32, edits.make(("nowhere",), 0, 0, 1), tmp_path)


@pytest.mark.parametrize("precision", [*PRECISIONS, "bf16"])
def test_actual_is_what_was_asked(source, tmp_path, precision):
    session = BACKEND.open(_build(source, precision, tmp_path / "ir"))
    session.run({"x": ROWS})
    actual = session.actual
    assert actual.precision == precision
    assert actual.threads == 1
    assert actual.provider == "CPU"
    assert len(actual.ops) == 4
    assert {op.stored for op in actual.ops} == {"fp32" if precision == "bf16" else precision}


def test_actual_tells_bf16_when_the_precision_hint_is_left_to_the_plugin(source, fp32, tmp_path):
    _skip_unless("bf16")
    left = {"INFERENCE_PRECISION_HINT": None}
    silent = replace(fp32, environment=replace(fp32.environment, options=left))
    assert BACKEND.open(silent).actual.precision == "bf16"
    # The second route: it computes what an explicit bf16 computes, to the bit.
    assert _run(silent).tobytes() == _run(_build(source, "bf16", tmp_path / "ir")).tobytes()
    assert np.abs(_run(silent) - _run(fp32)).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"NUM_STREEMS": 1}, "no option 'NUM_STREEMS'.*Hint.*NUM_STREAMS"),
        ({"EXECUTION_DEVICES": "CPU"}, "no option 'EXECUTION_DEVICES'"),
        ({"INFERENCE_PRECISION_HINT": "f8"}, "does not take INFERENCE_PRECISION_HINT='f8'"),
        ({"INFERENCE_NUM_THREADS": -1}, "does not take INFERENCE_NUM_THREADS"),
    ],
)
def test_a_wrong_option_is_a_wrong_request(fp32, options, match):
    environment = replace(fp32.environment, options=options)
    with pytest.raises(RequestError, match=match):
        BACKEND.open(replace(fp32, environment=environment))


@pytest.mark.parametrize(
    "feeds", [{}, {"z": ROWS}, {"x": ROWS, "z": ROWS}, {"x": ROWS.astype(np.float64)}]
)
def test_wrong_feeds_are_refused(fp32, feeds):
    with pytest.raises(RuntimeError, match="takes"):
        BACKEND.open(fp32).run(feeds)


def test_an_output_without_rows_is_an_error_not_a_result(fp32):
    """OpenVINO 2026.4 gives 0 rows when oneDNN is capped to AVX2 under the default bf16."""
    code = (
        "import sys, numpy as np; from dataclasses import replace; from pathlib import Path;"
        "from hwbench.backend import Artifact; from hwbench_openvino import OpenVINOBackend;"
        "artifact = Artifact.load(Path(sys.argv[1]));"
        "options = {'INFERENCE_PRECISION_HINT': None};"
        "environment = replace(artifact.environment, options=options);"
        "session = OpenVINOBackend().open(replace(artifact, environment=environment));"
        "print(session.run({'x': np.ones((5, 2, 8, 8), np.float32)})['y'].shape)"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "backends", "scenarios"))
    done = subprocess.run(
        [sys.executable, "-c", code, str(fp32.folder)],
        env={**os.environ, "PYTHONPATH": path, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        assert "RuntimeError: OpenVINO gave output 'y' the shape" in done.stderr
    else:
        assert done.stdout.strip() == "(5, 4)"


def test_int8_needs_calibration_rows_of_every_input(source, tmp_path):
    _skip_unless("int8")
    environment = Environment("openvino", precision="int8")
    with pytest.raises(RequestError, match="needs calibration rows"):
        BACKEND.build(source, environment, None, tmp_path)
    with pytest.raises(RequestError, match="rows of the input x"):
        BACKEND.build(source, environment, {"z": ROWS}, tmp_path)


def test_quantising_prints_nothing(source, tmp_path, capfd):
    _build(source, "int8", tmp_path / "ir")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_a_model_openvino_cannot_convert_is_unsupported_in_one_line(tmp_path):
    path = tmp_path / "odd.onnx"
    _save(path, [helper.make_node("Odd", ["x"], ["y"], domain="nowhere")], {}, ["n", 4], ["n", 4])
    source = ModelSource("odd", (TensorSpec("x", (None, 4), "float32"),), onnx=str(path))
    with pytest.raises(Unsupported, match=r"OpenVINO cannot convert odd: .*Odd") as caught:
        BACKEND.build(source, Environment("openvino"), None, tmp_path)
    assert "\n" not in caught.value.reason


@pytest.fixture(scope="module")
def cifar10():
    files = [
        ASSETS / "models/resnet8_cifar10_mlperftiny.onnx",
        ASSETS / "data/cifar10_test_lossless_1017.npz",
        ASSETS / "data/cifar10_train_calib_500.npz",
    ]
    missing = [path.name for path in files if not path.exists()]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not at hand")
    test, train = (np.load(path) for path in files[1:])
    rows, calibration = (
        np.ascontiguousarray(each["x"].transpose(0, 3, 1, 2), np.float32) for each in (test, train)
    )
    inputs = (TensorSpec("input", (None, 3, 32, 32), "float32"),)
    return ModelSource("resnet8", inputs, onnx=str(files[0])), rows, test["y"], calibration


@pytest.mark.parametrize(("precision", "points"), [("fp32", 0.005), ("fp16", 0.5), ("int8", 1.5)])
def test_resnet8_keeps_its_accuracy(cifar10, tmp_path, precision, points):
    source, rows, labels, calibration = cifar10
    artifact = _build(source, precision, tmp_path / "ir", calibration=calibration)
    session = BACKEND.open(artifact)
    logits = np.concatenate(
        [session.run({"input": part})["logits"] for part in np.array_split(rows, 16)]
    )
    top1 = 100 * float((logits.argmax(axis=1) == labels).mean())
    assert top1 == pytest.approx(88.004, abs=points)
    assert session.actual.precision == precision
