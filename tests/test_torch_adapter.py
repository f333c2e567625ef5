"""The torch adapter against torch itself: same outputs, same bits, honest reports."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwbench.backend import Artifact, Environment, ModelSource, TensorSpec
from hwbench.edits import Edits, make, none
from hwbench.errors import RequestError, Unsupported

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from hwbench_torch import TorchBackend  # noqa: E402
from hwbench_torch.modules import load_module  # noqa: E402

IMAGES = TensorSpec("input", (None, 1, 8, 8), "float32")
ROWS = (TensorSpec("x", (None, 4), "float32"),)
DIGITS = ModelSource("digits", (IMAGES,), torch="hwbench_torch.digits:digits_cnn")
BACKEND = TorchBackend()
QUANTISER = pytest.param(
    "int8-ref",
    marks=pytest.mark.skipif(
        BACKEND.probe().precisions["int8-ref"].status != "supported", reason="torchao is absent"
    ),
)
PRECISIONS = ["fp32", "bf16", "fp16", QUANTISER]
SIGN = {"float32": 31, "bfloat16": 15, "float16": 15, "int8": 7, "int64": 3}


class Counting(nn.Module):
    """Changes a buffer at every inference."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count.add_(1)
        return x + self.count


class OneBatch(nn.Module):
    """Works for a batch of two only."""

    def forward(self, x):
        return x.reshape(2, 4)


class Tied(nn.Module):
    """Two layers that share a weight; a mapping as result."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        hidden = self.first(x)
        return {"hidden": hidden, "result": self.second(hidden)}


def images(n: int = 16) -> np.ndarray:
    return np.random.default_rng(7).random((n, 1, 8, 8), dtype=np.float32)


def environment(precision: str = "fp32") -> Environment:
    return Environment("torch", precision=precision)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """One artifact a precision, built on first use."""
    built: dict[str, Artifact] = {}

    def get(precision: str) -> Artifact:
        if precision not in built:
            folder = tmp_path_factory.mktemp(precision)
            calibration = {"input": images(64)} if precision.startswith("int8") else None
            built[precision] = BACKEND.build(DIGITS, environment(precision), calibration, folder)
        return built[precision]

    return get


def logits(artifact: Artifact, x: np.ndarray) -> np.ndarray:
    session = BACKEND.open(artifact)
    try:
        return session.run({"input": x})["logits"]
    finally:
        session.close()


def sign_flips(artifact: Artifact) -> Edits:
    """One flip in every second stored tensor: sign bits, and a low bit of zero points."""
    sites = BACKEND.sites(artifact)[::2]
    bits = [1 << SIGN[site.dtype] for site in sites]
    middle = [site.size // 2 for site in sites]
    return make(tuple(site.name for site in sites), range(len(sites)), middle, bits)


def test_importing_the_adapter_imports_no_torch():
    code = (
        "import sys; from hwbench_torch import TorchBackend; TorchBackend();"
        "assert not {'torch', 'torchao', 'safetensors'} & set(sys.modules), 'imported'"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ)


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_fp32_equals_the_plain_module_to_the_bit(artifacts, batch):
    x = images(batch)
    with torch.inference_mode():
        torch.set_num_threads(1)
        expected = load_module(DIGITS)(torch.from_numpy(x)).numpy()
    assert logits(artifacts("fp32"), x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_equal_the_module_cast_by_torch_to_the_bit(artifacts, precision):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.inference_mode():
        torch.set_num_threads(1)
        expected = load_module(DIGITS).to(dtype)(torch.from_numpy(images()).to(dtype)).float()
    result = logits(artifacts(precision), images())
    assert result.dtype == np.float32
    assert result.tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("precision", [QUANTISER])
def test_quantised_weights_are_the_float_weights_on_their_scale(artifacts, precision):
    artifact = artifacts(precision)
    stored = BACKEND.stored(artifact, "conv2.weight").astype(np.float32)
    scale = BACKEND.stored(artifact, "conv2.weight.scale").reshape(-1, 1, 1, 1)
    original = load_module(DIGITS).state_dict()["conv2.weight"].numpy()
    assert BACKEND.stored(artifact, "conv2.weight").dtype == np.int8
    assert np.all(np.abs(stored * scale - original) <= scale * 0.5001)
    assert not (BACKEND.stored(artifact, "conv2.weight.zero_point")).any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sites_are_the_modules_tensors_in_order(artifacts, precision):
    sites = BACKEND.sites(artifacts(precision))
    weights = [site for site in sites if site.kind == "weight"]
    layers = ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert [site.name for site in weights] == [f"{layer}.weight" for layer in layers]
    assert [site.layer for site in weights] == layers
    assert [site.op_type for site in weights] == ["conv2d"] * 3 + ["linear"] * 2
    assert [site.order for site in sites] == sorted(site.order for site in sites)
    shapes = {name: tuple(each.shape) for name, each in load_module(DIGITS).state_dict().items()}
    assert all(site.shape == shapes[site.name] for site in sites if site.name in shapes)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_flip_shows_and_flipping_back_restores(artifacts, precision, tmp_path):
    artifact, x = artifacts(precision), images()
    edits = sign_flips(artifact)
    folders = [tmp_path / "once", tmp_path / "twice"]
    for folder in folders:
        folder.mkdir()
    once = BACKEND.corrupt(artifact, edits, folders[0])
    twice = BACKEND.corrupt(Artifact.load(folders[0]), edits, folders[1])
    clean = logits(artifact, x).tobytes()
    assert logits(once, x).tobytes() != clean
    assert logits(twice, x).tobytes() == clean
    weights = [each.folder / "weights.safetensors" for each in (artifact, twice)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_live_equals_corrupt_and_is_taken_back_exactly(artifacts, precision, tmp_path):
    artifact, x = artifacts(precision), images()
    edits = sign_flips(artifact)
    corrupted = BACKEND.corrupt(artifact, edits, tmp_path)
    session = BACKEND.open(artifact)
    clean = session.run({"input": x})["logits"]
    session.live(make(edits.sites, 0, [0], [1]))  # replaced, not added to, by what follows
    session.live(edits)
    assert session.run({"input": x})["logits"].tobytes() == logits(corrupted, x).tobytes()
    for site in BACKEND.sites(artifact):
        expected = BACKEND.stored(corrupted, site.name).tobytes()
        assert session.loaded(site.name).tobytes() == expected
    session.live(none())
    assert session.run({"input": x})["logits"].tobytes() == clean.tobytes()
    for site in BACKEND.sites(artifact):
        assert session.loaded(site.name).tobytes() == BACKEND.stored(artifact, site.name).tobytes()


@pytest.mark.parametrize(
    ("precision", "stored", "executed"),
    [
        ("fp32", "fp32", "fp32"),
        ("bf16", "bf16", "bf16"),
        ("fp16", "fp16", "fp16"),
        pytest.param("int8-ref", "int8", "fp32", marks=QUANTISER.marks),
    ],
)
def test_actual_is_what_ran(artifacts, precision, stored, executed):
    actual = BACKEND.open(artifacts(precision)).actual
    assert [op.name for op in actual.ops] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert {op.stored for op in actual.ops} == {stored}
    assert actual.precision == executed
    assert (actual.provider, actual.threads, actual.device) == ("eager", 1, "cpu")


def test_onnx_conversion_gives_close_outputs_under_the_same_names(tmp_path, artifacts):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = BACKEND.convert(DIGITS, "onnx", tmp_path)
    assert model.onnx is not None
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]  # weights inside
    session = onnxruntime.InferenceSession(model.onnx, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        result = session.run(["logits"], {"input": images(batch)})[0]
        np.testing.assert_allclose(result, logits(artifacts("fp32"), images(batch)), atol=1e-6)
    assert [each.name for each in session.get_inputs()] == ["input"]


def test_shared_weights_are_one_site_and_mappings_name_outputs(tmp_path):
    model = ModelSource("tied", ROWS, torch=f"{__name__}:Tied")
    artifact = BACKEND.build(model, environment(), None, tmp_path)
    assert [site.kind for site in BACKEND.sites(artifact)].count("weight") == 1
    session = BACKEND.open(artifact)
    assert sorted(session.run({"x": np.ones((3, 4), np.float32)})) == ["hidden", "result"]
    assert len(session.actual.ops) == 2


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("Counting", "changes count while it infers"),
        ("OneBatch", "dimension of the inputs is fixed"),
    ],
)
def test_modules_that_cannot_be_compared_are_refused(tmp_path, factory, reason):
    model = ModelSource("m", ROWS, torch=f"{__name__}:{factory}")
    with pytest.raises(Unsupported, match=reason):
        BACKEND.build(model, environment(), None, tmp_path)


def test_onnx_only_models_and_unknown_requests_are_refused(tmp_path, artifacts):
    onnx_only = ModelSource("m", (IMAGES,), onnx="m.onnx")
    with pytest.raises(Unsupported, match=r"cannot import ONNX.*Hint"):
        BACKEND.build(onnx_only, environment(), None, tmp_path)
    for asked in (environment("int4"), environment("tf32"), Environment("torch", "tpu")):
        with pytest.raises(Unsupported):
            BACKEND.build(DIGITS, asked, None, tmp_path)
    with pytest.raises(RequestError, match="no option nthreads"):
        BACKEND.build(DIGITS, Environment("torch", options={"nthreads": 1}), None, tmp_path)
    with pytest.raises(Unsupported, match="not a tensor stored"):
        BACKEND.corrupt(artifacts("fp32"), make(("input",), 0, [0], [1]), tmp_path)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.at.all:make", "there is no module nowhere"),
        ("hwbench_torch.digits:digits", "has no callable digits"),
        ("hwbench_torch.digits", "is not package.module:factory"),
        ("builtins:dict", "gave a dict, not an nn.Module"),
    ],
)
def test_wrong_factories_are_one_clear_line(reference, message):
    with pytest.raises(RequestError, match=message) as caught:
        load_module(ModelSource("m", (IMAGES,), torch=reference))
    assert "\n" not in str(caught.value)


def test_weights_must_fit_and_carry_no_code(tmp_path):
    paths = {
        name: tmp_path / name for name in ("good.pt", "short.pt", "evil.pt", "bad.safetensors")
    }
    state = {name: tensor + 1 for name, tensor in load_module(DIGITS).state_dict().items()}
    torch.save(state, paths["good.pt"])
    torch.save({**state, "fc2.bias": torch.zeros(3)}, paths["short.pt"])
    paths["evil.pt"].write_bytes(pickle.dumps(print))
    paths["bad.safetensors"].write_bytes(b"no")

    def load(path: Path) -> nn.Module:
        model = ModelSource("m", (IMAGES,), torch=DIGITS.torch, weights=str(path))
        return load_module(model)

    assert torch.equal(load(paths["good.pt"]).state_dict()["fc1.bias"], state["fc1.bias"])
    for name, message in (
        ("short.pt", r"of another shape \(fc2.bias \(3,\) for \(10,\)\)"),
        ("evil.pt", "refused"),
        ("bad.safetensors", "is no safetensors file"),
        ("absent.pt", "no such weights file"),
    ):
        with pytest.raises(RequestError, match=message):
            load(tmp_path / name)


@pytest.mark.slow
@pytest.mark.skipif(
    BACKEND.probe().precisions["int8"].status != "supported", reason="int8 needs torchao and C++"
)
def test_compiled_int8_runs_int8_kernels_and_sees_corruption(artifacts, tmp_path):
    reference, compiled, x = artifacts("int8-ref"), artifacts("int8"), images()
    session = BACKEND.open(compiled)
    clean = session.run({"input": x})["logits"]
    actual = session.actual
    assert actual.provider == "inductor"
    assert {op.executed for op in actual.ops} == {"int8"}
    assert all(op.kernel.startswith("onednn::q") for op in actual.ops)
    np.testing.assert_allclose(clean, logits(reference, x), atol=2e-3)
    edits = make(("fc2.weight",), 0, [5], [1 << 7])
    for name in ("reference", "compiled"):
        (tmp_path / name).mkdir()
    damaged = logits(BACKEND.corrupt(compiled, edits, tmp_path / "compiled"), x)
    expected = logits(BACKEND.corrupt(reference, edits, tmp_path / "reference"), x)
    assert damaged.tobytes() != clean.tobytes()
    np.testing.assert_allclose(damaged, expected, atol=2e-3)
    with pytest.raises(Unsupported, match="packs int8 weights"):
        session.live(edits)


def test_gradients_are_the_slopes_of_the_loss(artifacts, tmp_path):
    from hwbench.edits import Op
    from hwbench.replay import naive
    from hwbench.worker.search import losses

    artifact, feeds, targets = artifacts("fp32"), {"input": images()}, np.arange(16) % 10
    found = BACKEND.gradients(artifact, feeds, "logits", targets, probabilities=False)
    assert set(found) == {site.name for site in BACKEND.sites(artifact)}
    for name in ("fc2.weight", "conv3.weight"):
        place = int(np.abs(found[name]).argmax())
        value = BACKEND.stored(artifact, name).view(np.float32).flat[place]
        sides = []
        for step in (1e-3, -1e-3):
            moved = int(np.float32(value + step).view(np.uint32))
            edit = make((name,), 0, [place], moved, Op.WRITE)
            made = naive.stored(BACKEND, artifact, feeds, edit)["logits"]
            sides.append(losses(made, targets, False).mean())
        assert found[name].flat[place] == pytest.approx((sides[0] - sides[1]) / 2e-3, rel=0.02)


def test_half_precision_has_gradients_and_what_is_quantised_has_none(artifacts):
    feeds, targets = {"input": images()}, np.arange(16) % 10
    found = BACKEND.gradients(artifacts("bf16"), feeds, "logits", targets, probabilities=False)
    assert set(found) == {site.name for site in BACKEND.sites(artifacts("bf16"))}
    assert all(np.isfinite(each).all() and each.any() for each in found.values())
    quantised = replace(artifacts("bf16"), environment=environment("int8"))
    with pytest.raises(Unsupported, match="rounding has none"):
        BACKEND.gradients(quantised, feeds, "logits", targets, probabilities=False)
