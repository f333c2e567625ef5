"""The shipped model: both forms agree, the accuracy is the one recorded, the data are real."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file

from hwbench.builtin import DIGITS_DATA, DIGITS_ONNX, DIGITS_TRAINING, DIGITS_WEIGHTS


@pytest.fixture(scope="module")
def data() -> Mapping[str, Any]:
    with np.load(DIGITS_DATA) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def onnx_logits(data):
    evaluator = ReferenceEvaluator(onnx.load(DIGITS_ONNX))
    return evaluator.run(None, {"input": (data["x_test"] / 16).astype(np.float32)})[0]


def test_onnx_reaches_the_recorded_accuracy(data, onnx_logits):
    record = json.loads(DIGITS_TRAINING.read_text())
    correct = int((onnx_logits.argmax(1) == data["y_test"]).sum())
    assert correct == record["correct"]["test"]
    assert record["test_accuracy"] == round(correct / 597, 6)
    assert record["test_accuracy"] >= 0.97


def test_torch_and_onnx_agree(data, onnx_logits):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from safetensors.torch import load_file as load_tensors

    from hwbench_torch.digits import digits_cnn

    model = digits_cnn()
    model.load_state_dict(load_tensors(DIGITS_WEIGHTS))
    with torch.no_grad():
        logits = model(torch.from_numpy((data["x_test"] / 16).astype(np.float32))).numpy()
    np.testing.assert_allclose(logits, onnx_logits, rtol=1e-5, atol=1e-5)


def test_both_forms_hold_the_same_bytes():
    graph = onnx.load(DIGITS_ONNX).graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    weights = load_file(DIGITS_WEIGHTS)
    assert stored.keys() == weights.keys()
    assert all(stored[name].tobytes() == weights[name].tobytes() for name in weights)


def test_signature():
    model = onnx.load(DIGITS_ONNX)
    onnx.checker.check_model(model, full_check=True)
    (source,), (target,) = model.graph.input, model.graph.output
    dims = source.type.tensor_type.shape.dim
    assert (source.name, target.name) == ("input", "logits")
    assert [dims[0].dim_param, *(each.dim_value for each in dims[1:])] == ["N", 1, 8, 8]
    assert model.opset_import[0].version == 17


def test_data_are_the_rows_that_scikit_learn_ships(data):
    """Every image is a row of the table, none is in two splits, none was trained on."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    from hwbench.builtin.train_digits import split_rows

    bunch = datasets.load_digits()
    rows = split_rows(bunch.target)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(1797))
    for name in ("test", "calibration"):
        assert data[f"x_{name}"].dtype == np.uint8
        np.testing.assert_array_equal(data[f"x_{name}"][:, 0], bunch.images[rows[name]])
        np.testing.assert_array_equal(data[f"y_{name}"], bunch.target[rows[name]])
        assert np.bincount(data[f"y_{name}"]).min() >= 0.09 * len(rows[name])


def test_the_onnx_file_is_what_the_script_builds():
    from hwbench.builtin.train_digits import onnx_model

    built = onnx_model(load_file(DIGITS_WEIGHTS)).SerializeToString(deterministic=True)
    assert built == DIGITS_ONNX.read_bytes()
