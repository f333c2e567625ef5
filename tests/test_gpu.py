"""GPU: decisions from what providers report, tried anywhere; and the devices, where they are."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hwbench import nvml
from hwbench.backend import GPU_MEMORY, Environment, ModelSource, TensorSpec
from hwbench.edits import make, none
from hwbench.errors import Unsupported
from hwbench.scenario import Launch
from hwbench.testing import models
from hwbench_onnxruntime import OnnxRuntimeBackend, devices
from hwbench_scenarios.gpumemory import GpuMemory

CUDA0 = Environment("onnxruntime", "cuda:0")
TRT0 = Environment("onnxruntime", "tensorrt:0")
CPU0 = Environment("onnxruntime")
IMAGES = (TensorSpec("input", (None, 1, 8, 8), "float32"),)
DIGITS = ModelSource("digits", IMAGES, torch="hwbench_torch.digits:digits_cnn")
BOTH = [devices.CUDA, devices.CPU]


@pytest.mark.parametrize(
    ("environment", "providers", "assigned", "expected"),
    [
        (CUDA0, BOTH, {"conv": devices.CUDA, "fc": devices.CUDA}, "cuda:0"),
        (CUDA0, [devices.CPU], {"conv": devices.CPU, "fc": devices.CPU}, "cpu"),
        (CUDA0, [devices.CPU], {}, "cpu"),
        (CUDA0, BOTH, {"conv": devices.CUDA, "fc": devices.CPU}, "cpu"),
        # What has no weights (shapes) belongs on the processor.
        (CUDA0, BOTH, {"conv": devices.CUDA, "shape": devices.CPU}, "cuda:0"),
        (TRT0, [devices.TENSORRT, devices.CPU], {"conv": devices.TENSORRT}, "tensorrt:0"),
        (TRT0, BOTH, {"conv": devices.CUDA}, "cpu"),
        (CPU0, [devices.CPU], {"conv": devices.CPU}, "cpu"),
    ],
)
def test_a_quiet_fallback_to_the_processor_is_seen(environment, providers, assigned, expected):
    assert devices.ran_on(environment, providers, ["conv", "fc"], assigned) == expected


def test_assignments_are_what_a_session_records(tmp_path):
    import onnxruntime as ort

    from hwbench.builtin import DIGITS_ONNX

    settings = ort.SessionOptions()
    settings.add_session_config_entry(devices.RECORD, "1")
    session = ort.InferenceSession(str(DIGITS_ONNX), settings, providers=[devices.CPU])
    found = devices.assignments(session)
    assert set(found.values()) == {devices.CPU}
    assert devices.ran_on(CUDA0, session.get_providers(), found, found) == "cpu"


def test_tf32_is_a_precision_of_its_own():
    _, plain = devices.provider_of(CUDA0, {})
    _, tf32 = devices.provider_of(Environment("onnxruntime", "cuda:1", "tf32"), {})
    assert (plain["use_tf32"], tf32["use_tf32"], tf32["device_id"]) == ("0", "1", "1")
    assert devices.executed("fp32", {devices.CUDA: {"use_tf32": "1"}}) == "tf32"
    assert devices.executed("fp32", {devices.CUDA: {"use_tf32": "0"}}) == "fp32"
    assert devices.executed("fp16", {devices.CUDA: {"use_tf32": "1"}}) == "fp16"


def test_the_bound_on_gpu_memory_reaches_the_provider():
    launch = Launch(["python"], {}, OnnxRuntimeBackend())
    with GpuMemory(limit_mib=512).enforce(launch):
        _, options = devices.provider_of(CUDA0, launch.variables)
    assert options["gpu_mem_limit"] == str(512 * 2**20)
    assert GPU_MEMORY in launch.variables


def test_a_runtime_without_a_bound_refuses():
    from hwbench_openvino import OpenVINOBackend

    assert "no bound on the GPU memory" in GpuMemory(limit_mib=1).refuses(OpenVINOBackend())


def test_a_bound_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        GpuMemory(limit_mib=0)


class NVMLError(Exception):
    pass


def fake_nvml(ecc):
    """A driver that knows two cards; the second has no power sensor."""

    def power(card):
        if card == 1:
            raise NVMLError
        return 250_000

    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_VOLATILE_ECC=0,
        NVML_TEMPERATURE_GPU=0,
        NVML_CLOCK_SM=1,
        NVML_MEMORY_ERROR_TYPE_CORRECTED=0,
        NVML_MEMORY_ERROR_TYPE_UNCORRECTED=1,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=int,
        nvmlDeviceGetHandleByUUID=lambda name: {"GPU-b": 1}[name],
        nvmlDeviceGetTemperature=lambda card, which: 40 + card,
        nvmlDeviceGetClockInfo=lambda card, which: 1980,
        nvmlDeviceGetPowerUsage=power,
        nvmlDeviceGetTotalEccErrors=lambda card, kind, since: ecc[kind],
    )


@pytest.fixture
def driver(monkeypatch):
    ecc = [5, 0]
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(ecc))
    monkeypatch.setattr(nvml, "find_spec", lambda name: True)
    return ecc


def test_sensors_and_errors_meanwhile(driver):
    before = nvml.read("cuda:0", {})
    driver[0] = 8
    found = nvml.between(before, nvml.read("cuda:0", {}))
    assert found["gpu_ecc_corrected"] == 3
    assert found["gpu_ecc_uncorrected"] == 0
    assert (found["gpu_temperature_c"], found["gpu_power_w"]) == (40, 250.0)


@pytest.mark.parametrize("shown", ["1", "GPU-b"])
def test_a_card_is_the_one_that_the_runtime_means(driver, shown):
    assert nvml.read("cuda:0", {"CUDA_VISIBLE_DEVICES": shown}).temperature_c == 41


def test_a_sensor_that_a_card_lacks_is_null(driver):
    assert nvml.read("cuda:1", {}) == nvml.Gpu(41, 1980, None, 5, 0)


def test_without_a_driver_there_is_nothing(driver, monkeypatch):
    def refused():
        raise NVMLError

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", refused)
    assert nvml.read("cuda:0", {}) == nvml.NOTHING
    assert nvml.read("cpu") == nvml.NOTHING


torch = pytest.importorskip("torch", reason="torch is not installed")

from hwbench_torch import TorchBackend, probe  # noqa: E402

COMPILED = Environment("torch", options={"compile": True})
needs_compiler = pytest.mark.skipif(
    probe._compiler().status != "supported", reason="inductor finds no C++ compiler"
)


def images(rows):
    return {"input": np.random.default_rng(0).random((rows, 1, 8, 8), dtype=np.float32)}


def first(outputs):
    return next(iter(outputs.values()))


@needs_compiler
def test_compiled_gives_what_eager_gives(tmp_path):
    backend, feeds = TorchBackend(), images(4)
    outputs = []
    for number, environment in enumerate((Environment("torch"), COMPILED)):
        folder = tmp_path / str(number)
        folder.mkdir()
        session = backend.open(backend.build(DIGITS, environment, None, folder))
        outputs.append(first(session.run(feeds)))
    assert session.actual.provider == "inductor"
    assert session.actual.precision in ("fp32", "none")  # kernels compiled in have no name
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(Unsupported, match="packs weights"):
        session.live(make(("conv1.weight",), 0, [0], 1))


@needs_compiler
def test_faults_in_a_compiled_program_run_whole(tmp_path):
    backend, feeds = TorchBackend(), images(4)
    artifact = backend.build(DIGITS, COMPILED, None, tmp_path)
    site = next(each for each in backend.sites(artifact) if each.kind == "weight")
    replayer = backend.replayer(artifact, feeds, 64)
    assert replayer.method(site.name).route == "whole"
    assert "cannot be cut" in replayer.method(site.name).refused[0]


def test_without_a_compiler_the_option_is_unsupported(tmp_path, monkeypatch):
    monkeypatch.setattr(probe.shutil, "which", lambda name: None)
    with pytest.raises(Unsupported, match=r"needs a C\+\+ compiler"):
        TorchBackend().build(DIGITS, COMPILED, None, tmp_path)


def test_the_reference_graph_is_not_compiled(tmp_path):
    environment = Environment("torch", precision="int8-ref", options={"compile": True})
    if probe._quantiser().status != "supported":
        pytest.skip("torchao is not installed")
    with pytest.raises(Unsupported, match="ask for int8"):
        TorchBackend().build(DIGITS, environment, None, tmp_path)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_torch_on_cuda_runs_what_was_asked(precision, tmp_path):
    backend, feeds = TorchBackend(), images(4)
    artifact = backend.build(DIGITS, Environment("torch", "cuda:0", precision), None, tmp_path)
    session = backend.open(artifact)
    once, again = session.run(feeds), session.run(feeds)
    assert session.actual.device == "cuda:0"
    assert session.actual.precision == precision
    assert first(once).tobytes() == first(again).tobytes()


@pytest.mark.gpu
@needs_cuda
def test_faults_in_device_memory_land_and_are_taken_back(tmp_path):
    backend, feeds = TorchBackend(), images(4)
    artifact = backend.build(DIGITS, Environment("torch", "cuda:0"), None, tmp_path)
    session, site = backend.open(artifact), backend.sites(artifact)[0]
    golden, before = first(session.run(feeds)), session.loaded(site.name)
    session.live(make((site.name,), 0, [0], 1 << 30))
    after = session.loaded(site.name)
    assert (after.reshape(-1)[0] ^ before.reshape(-1)[0]) == 1 << 30
    assert first(session.run(feeds)).tobytes() != golden.tobytes()
    session.live(none())
    assert session.loaded(site.name).tobytes() == before.tobytes()
    assert first(session.run(feeds)).tobytes() == golden.tobytes()


@pytest.mark.gpu
@needs_cuda
def test_a_bound_on_gpu_memory_is_met(monkeypatch):
    from hwbench_torch.session import _bound_gpu_memory

    monkeypatch.setenv(GPU_MEMORY, "256")
    _bound_gpu_memory("cuda:0")
    try:
        with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
            torch.zeros(2**28, device="cuda:0")  # 1 GiB
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, "cuda:0")


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:0", "tensorrt:0"])
def test_onnxruntime_on_a_gpu_runs_there(device, tmp_path):
    if device not in devices.devices():
        pytest.skip(f"this ONNX Runtime has no device {device}")
    backend, source = OnnxRuntimeBackend(), models.conv_net(tmp_path)
    folder = tmp_path / "artifact"
    folder.mkdir()
    session = backend.open(backend.build(source, Environment("onnxruntime", device), None, folder))
    assert session.actual.device == device
