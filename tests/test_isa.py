"""Lesser instruction sets: what ran, what it computed, and why int8 lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import images, resnet20
from hwbench import cpuid
from hwbench.backend import Artifact, Environment, ModelSource, TensorSpec
from hwbench.collect import collect
from hwbench.collect import isa as table
from hwbench.fingerprint import cpu_flags
from hwbench.registry import backend
from hwbench.scenario import Launch
from hwbench.spec.cases import expand
from hwbench_scenarios.isa import EMULATED, Isa

from .test_execute import processes, records, run

CAN = {ceiling: Isa(ceiling).check() for ceiling in ("avx2", "haswell")}
needs_qemu = pytest.mark.skipif(CAN["haswell"].status != "supported", reason=CAN["haswell"].reason)
needs_avx2 = pytest.mark.skipif(CAN["avx2"].status != "supported", reason=CAN["avx2"].reason)
needs_vnni = pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni"} & cpu_flags(),
    reason="this CPU has no VNNI, so int8 saturates natively too",
)
INSIDE, OUTSIDE = 64, 8


# CPUID and the emulator.


@pytest.mark.skipif(cpuid.read() is None, reason="not an x86-64 Linux")
def test_cpuid_agrees_with_the_system():
    cpu = cpuid.read()
    assert cpu
    assert set(cpu.flags) == {name for name, *_ in cpuid.FLAGS} & cpu_flags()


@needs_qemu
@pytest.mark.parametrize("model", list(EMULATED))
def test_an_emulated_cpu_says_so_itself(model):
    launch = Launch([sys.executable, "-c", _TELL], dict(os.environ), backend("onnxruntime"))
    with Isa(model).enforce(launch) as enforced:
        told = subprocess.run(launch.argv, env=launch.variables, capture_output=True, text=True)
    name, flags = json.loads(told.stdout)
    assert "avx2" in flags and "avx512f" not in flags
    assert {"haswell": "Haswell", "skylake-server": "Skylake", "epyc": "EPYC"}[model] in name
    assert enforced.emulated


_TELL = (
    "import json; from hwbench import cpuid; c = cpuid.read(); print(json.dumps([c.name, c.flags]))"
)


@needs_qemu
def test_only_the_interpreter_is_emulated():
    """What an emulated program ``exec``s runs natively, so nothing may stand in between."""
    launch = Launch(["taskset", "-c", "0", sys.executable, "-m", "x"], {}, backend("onnxruntime"))
    with Isa("haswell").enforce(launch):
        at = launch.argv.index(sys.executable)
        assert launch.argv[at - 2 : at] == ["-cpu", "Haswell"] and launch.argv[0] == "taskset"


def test_without_an_emulator_there_is_a_reason(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = Isa("haswell").check()
    assert found.status == "unsupported" and "apt-get install qemu-user" in found.reason


def test_a_list_of_instruction_sets_gives_distinct_cells():
    entry = {"isa": ["native", "avx2", "sse4", "haswell", "epyc"]}
    ids = [case.id for case in expand([entry])][1:]
    assert len(set(ids)) == 5
    assert ids[1:] == [
        "isa@vector_bits=256",
        "isa@vector_bits=128",
        "isa-haswell@vector_bits=256",
        "isa-epyc@vector_bits=256",
    ]


@needs_qemu
def test_under_emulation_there_is_accuracy_and_no_latency(rig):
    store = run(
        rig,
        "run",
        scenarios=[{"isa": "haswell"}],
        latency={"processes": 1, "min_duration_s": 0.01},
        deadline_s=300,
    )
    tables = collect(store)
    cell = tables["cells"].set_index("scenario").loc["isa-haswell"]
    assert cell["status"] == "ok"
    (ran,) = [row for row in processes(store, kind="accuracy") if row["conditions"]]
    assert ran["emulated"] and "Haswell" in ran["cpu_name"] and "avx512f" not in ran["cpu_isa"]
    (row,) = tables["latency"].query("scenario == 'isa-haswell'").to_dict("records")
    assert row["status"] == "unsupported" and "emulated" in row["note"]
    assert np.isnan(row["latency_p50_ms"])


# Saturation, to the bit.


def layer(folder: Path) -> tuple[ModelSource, np.ndarray]:
    """One 1x1 convolution of non-negative inputs, large enough to overflow 16 bits."""
    rng = np.random.default_rng(7)
    weight = rng.normal(0, 1, (OUTSIDE, INSIDE, 1, 1)).astype(np.float32)
    x = rng.uniform(0, 1, (64, INSIDE, 2, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", INSIDE, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", OUTSIDE, 2, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(folder / "layer.onnx"))
    shape = (None, INSIDE, 2, 2)
    return ModelSource(
        "layer", (TensorSpec("x", shape, "float32"),), onnx=str(folder / "layer.onnx")
    ), x


def products(codes: Any, weight: Any, *, saturate: bool) -> Any:
    """Sums of u8 x s8 over channels as vpmaddubsw makes them: pairs in 16 bits, then 32.

    Args:
        codes: uint8, shape (n, channels, ...).
        weight: int8, shape (outside, channels).
        saturate: whether a pair is cut to 16 bits, as without VNNI.
    """
    each = codes.astype(np.int32)[:, None] * weight.astype(np.int32)[None, :, :, None, None]
    pairs = each.reshape(*each.shape[:2], -1, 2, *each.shape[3:]).sum(axis=3)
    return (np.clip(pairs, -32768, 32767) if saturate else pairs).sum(axis=2)


@needs_qemu
@needs_vnni
@pytest.mark.parametrize(("model", "saturates"), [("", False), ("haswell", True)])
def test_onnxruntime_saturates_without_vnni_to_the_bit(tmp_path, model, saturates):
    """The second route: NumPy's own sums of pairs, of the codes the artifact stores."""
    source, x = layer(tmp_path)
    folder = tmp_path / "int8"
    folder.mkdir()
    environment = Environment("onnxruntime", precision="int8")
    backend("onnxruntime").build(source, environment, {"x": x}, folder).save()
    stored = {
        each.name: numpy_helper.to_array(each)
        for each in onnx.load(folder / "model.onnx").graph.initializer
    }
    weight = next(each for each in stored.values() if each.dtype == np.int8 and each.ndim == 4)
    scale, zero = stored["x_scale"], stored["x_zero_point"]
    codes = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
    exact, cut = (products(codes, weight[:, :, 0, 0], saturate=each) for each in (False, True))
    assert (exact != cut).mean() > 0.01  # the layer is one that can tell
    made = outputs(folder, x, model)
    wanted = cut if saturates else exact
    wanted = wanted - int(zero) * weight[:, :, 0, 0].sum(axis=1, dtype=np.int32)[:, None, None]
    rounded = requantised(wanted, stored, float(scale))
    assert np.array_equal(made, rounded)


def requantised(sums: Any, stored: dict[str, Any], scale: float) -> Any:
    """32-bit sums to the output's codes and back to floats, as QLinearConv does."""
    weights = next(v for k, v in stored.items() if k.startswith("w") and k.endswith("_scale"))
    to, zero = stored["y_scale"], stored["y_zero_point"]
    factor = (np.float32(scale) * weights / to).astype(np.float32)[:, None, None]
    codes = np.clip(np.rint(sums.astype(np.float32) * factor) + int(zero), 0, 255)
    return ((codes - int(zero)) * to).astype(np.float32)


def outputs(folder: Path, x: Any, model: Any) -> Any:
    """What a fresh process gives, emulated or not."""
    np.save(folder / "x.npy", x)
    adapter = backend(Artifact.load(folder).environment.backend)
    launch = Launch([sys.executable, "-c", _RUN, str(folder)], dict(os.environ), adapter)
    with Isa(model or "native").enforce(launch):
        subprocess.run(launch.argv, env=launch.variables, check=True, capture_output=True)
    return np.load(folder / "y.npy")


_RUN = """
import sys
from pathlib import Path
import numpy as np
from hwbench.backend import Artifact
from hwbench.registry import backend
folder = Path(sys.argv[1])
artifact = Artifact.load(folder)
session = backend(artifact.environment.backend).open(artifact)
made = session.run({session.inputs[0].name: np.load(folder / "x.npy")})
np.save(folder / "y.npy", next(iter(made.values())))
"""


@needs_avx2
@needs_vnni
def test_openvino_saturates_without_vnni_and_reduce_range_buys_it_back(tmp_path):
    """With VNNI at AVX-512 its int8 outputs repeat AMX's bytes: what differs is saturation."""
    source, x = resnet20(tmp_path), images(16)
    for reduced in (False, True):
        folder = tmp_path / f"int8-{reduced}"
        folder.mkdir()
        options = {"quantize.reduce_range": reduced}
        environment = Environment("openvino", precision="int8", options=options)
        backend("openvino").build(source, environment, {"input": images(64, seed=1)}, folder).save()
        native, capped = outputs(folder, x, ""), outputs(folder, x, "avx2")
        if reduced:
            assert np.array_equal(native, capped)
        else:
            assert sqnr_db(native, capped) < 40


def sqnr_db(signal: np.ndarray, other: np.ndarray) -> float:
    noise = ((signal.astype(float) - other) ** 2).sum()
    return float(10 * np.log10((signal.astype(float) ** 2).sum() / noise))


@pytest.mark.skipif(
    "amx_bf16" not in cpu_flags(), reason="OpenVINO's default is bf16 with AMX only"
)
def test_openvino_without_rows_is_an_error_never_a_score(rig, monkeypatch):
    """OneDNN capped alone, with the plugin's default precision: an output of no rows."""
    np.savez(rig.folder / "images.npz", x=images(8))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    chosen = {"backend": "openvino", "options": {"INFERENCE_PRECISION_HINT": None}}
    store = run(
        rig,
        "run",
        model={"onnx": resnet20(rig.folder).onnx},
        data={"npz": str(rig.folder / "images.npz"), "batch": 8},
        environments=[{**chosen, "allow": ["fp32-as-bf16"]}],
        scenarios=["clean"],
    )
    (cell,) = collect(store)["cells"].to_dict("records")
    assert cell["status"] == "error" and "shape" in cell["note"]
    assert not [each for each in records(store) if each["outcome"] == "ok"]


# The diagnosis, from rows.


def row(precision: str, db: float, **more: Any) -> dict[str, Any]:
    names = {"model": "m", "scenario": "isa", "severity": 256.0, "severity_name": "vector_bits"}
    name = more.pop("environment", precision)
    kept = {"emulated": False, "cpu_isa": "avx512_vnni avx2", "kernels": "jit_avx2_I8"}
    return {
        **names,
        "environment": name,
        "precision": precision,
        "sqnr_golden_db": db,
        **{**kept, **more},
    }


def judged(rows: list[dict[str, Any]], reduced: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    environments = {
        ("m", each["environment"]): {
            "backend": "b",
            "device": "cpu",
            "threads": 1,
            "precision": each["precision"],
            "options": {"quantize.reduce_range": each["environment"] in reduced},
        }
        for each in rows
    }
    return {each["environment"]: table._judged(each, rows, environments) for each in rows}


def test_int8_that_loses_what_fp32_keeps_saturates():
    found = judged([row("fp32", float("inf")), row("int8", 21.0)])["int8"]
    assert found["saturates"] is True
    assert "overflow 16 bits without VNNI" in found["diagnosis"]
    assert "reduce_range: true" in found["diagnosis"]


def test_what_reduce_range_measured_is_said():
    rows = [row("fp32", 130.0), row("int8", 21.0), row("int8", float("inf"), environment="rr")]
    found = judged(rows, reduced=("rr",))
    assert "buys it back (equal bytes)" in found["int8"]["diagnosis"]
    assert found["rr"]["saturates"] is False and found["rr"]["diagnosis"] is None


@pytest.mark.parametrize(
    ("rows", "saturates"),
    [
        ([row("fp32", 30.0), row("int8", 21.0)], False),
        ([row("int8", 21.0)], None),
        ([row("fp32", 130.0), row("int8", 21.0, kernels="jit_avx512_amx_I8")], False),
        ([row("fp32", 130.0), row("int8", 21.0, emulated=True, cpu_isa="avx512_vnni")], False),
        ([row("fp32", 130.0), row("int8", 100.0)], False),
    ],
)
def test_other_losses_are_not_called_saturation(rows, saturates):
    found = judged(rows)["int8"]
    assert found["saturates"] is saturates
    assert "saturates on" not in (found["diagnosis"] or "")
