"""A regression: real targets, their errors in the table, and what is no target."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench import data, engine
from hwbench.collect import collect
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.spec.load import parse
from hwbench.spec.models import DataSpec, Labels

SPEC = """
model: {onnx: line.onnx}
data: {npz: d.npz, labels: y, batch: 7}
environments: [{backend: onnxruntime}]
scenarios: [{noise: {snr_db: 0}}, {dataset: {npz: d.npz, limit: 10}}]
task: {kind: regression}
latency: false
"""


@pytest.fixture
def folder(tmp_path):
    """y = 2 x + 1 exactly, and data with a residual of 0.5 of either sign."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(np.array([[2.0]], np.float32), "w"),
            numpy_helper.from_array(np.array([1.0], np.float32), "b"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "line.onnx")
    x = np.arange(30, dtype=np.float32)[:, None]
    y = 2 * x[:, 0] + 1 + 0.5 * np.where(np.arange(30) % 2, 1, -1)
    np.savez(tmp_path / "d.npz", x=x, y=y, bad=np.where(y > 50, np.nan, y), two=np.stack([y, y], 1))
    return tmp_path


def test_errors_of_a_regression_are_those_by_hand(folder):
    options = engine.Options(output=folder / "run", workers=1, cache=folder / "cache")
    run = engine.start(parse(SPEC, "test", folder), options, engine.Silent(), Stop())
    drift = collect(run)["drift"].set_index("scenario")
    targets = np.load(folder / "d.npz")["y"]
    assert drift.loc["clean", "mae"] == pytest.approx(0.5)
    assert drift.loc["clean", "r2"] == pytest.approx(1 - 0.25 / targets.var())
    assert drift.loc["noise-inputs", "mae"] > 1
    assert drift.loc["noise-inputs", "r2"] < drift.loc["clean", "r2"]
    assert drift["accuracy"].isna().all()
    shift = collect(run)["shift"].iloc[0]
    assert shift["status"] == "ok"
    assert shift["confidence_shift_interval"] == "the output has no class axis"


@pytest.mark.parametrize(("array", "word"), [("bad", "NaN"), ("two", "one number a sample")])
def test_what_is_no_target_is_refused(folder, array, word):
    spec = DataSpec(npz=str(folder / "d.npz"), labels=Labels(array=array))
    with pytest.raises(RequestError, match=word):
        data.prepare(spec, None, labels="targets")


def test_classes_stay_whole_numbers(folder):
    spec = DataSpec(npz=str(folder / "d.npz"), labels=Labels(array="y"))
    with pytest.raises(RequestError, match="class indices"):
        data.prepare(spec, None)
