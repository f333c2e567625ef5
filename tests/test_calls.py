"""Models that do not take a batch of rows: fixed batches, constants, states, bare samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench import engine
from hwbench.backend import Environment, ModelSource, TensorSpec
from hwbench.calls import calling
from hwbench.collect import collect
from hwbench.data import prepare
from hwbench.edits import make
from hwbench.errors import RequestError, Unsupported
from hwbench.execute import Stop
from hwbench.manner import call_size, initial
from hwbench.replay import naive
from hwbench.spec import Spec
from hwbench.spec.models import DataSpec
from hwbench.testing import models

pytest.importorskip("onnxruntime")

from hwbench_onnxruntime import OnnxRuntimeBackend

BACKEND = OnnxRuntimeBackend()
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
ROWS = np.random.default_rng(3).normal(size=(10, 3)).astype(np.float32)
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def save(path: Path, inputs, outputs, nodes, **initializers) -> Path:
    made = []
    for i, (kind, takes, gives, attributes) in enumerate(nodes):
        made.append(helper.make_node(kind, takes, gives, name=f"n{i}", **attributes))
    graph = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(path),
    )
    return path


def linear(path: Path, batch) -> Path:
    return save(
        path,
        [("x", FLOAT, [batch, 3])],
        [("y", FLOAT, [batch, 4])],
        [("MatMul", ["x", "w"], ["y"], {})],
        w=WEIGHT,
    )


def summing(path: Path) -> Path:
    """``y = x @ w * gain + state``; the state is what came out before."""
    return save(
        path,
        [("x", FLOAT, [None, 3]), ("gain", FLOAT, []), ("state", FLOAT, [None, 4])],
        [("y", FLOAT, [None, 4]), ("after", FLOAT, [None, 4])],
        [
            ("MatMul", ["x", "w"], ["p"], {}),
            ("Mul", ["p", "gain"], ["g"], {}),
            ("Add", ["g", "state"], ["y"], {}),
            ("Identity", ["y"], ["after"], {}),
        ],
        w=WEIGHT,
    )


def wrapped(model: Path, folder: Path, rows=ROWS, **options):
    """The wrapped adapter, the artifact in fp32, and the dataset."""
    np.savez(folder / "rows.npz", x=rows)
    spec = DataSpec.model_validate({"npz": str(folder / "rows.npz"), **options})
    from hwbench import model as sources
    from hwbench.spec.models import ModelSpec

    signature = sources.signature(ModelSpec(onnx=str(model)))
    dataset = prepare(spec, signature)
    dataset.save(folder / "data")
    (folder / "artifact").mkdir()
    environment = Environment("onnxruntime")
    source = ModelSource("net", signature or (), onnx=str(model))
    artifact = BACKEND.build(source, environment, None, folder / "artifact")
    return calling(BACKEND, folder / "data"), artifact, dataset


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_fixed_batch_is_joined_from_several_calls(tmp_path, batch):
    backend, artifact, dataset = wrapped(linear(tmp_path / "m.onnx", batch), tmp_path)
    outputs = backend.open(artifact).run(dataset.batch(0, 10).feeds)
    np.testing.assert_allclose(outputs["y"], ROWS @ WEIGHT, rtol=1e-6)


def test_states_are_carried_and_constants_fed(tmp_path):
    options = {
        "inputs": {"x": "x"},
        "constants": {"gain": 2},
        "state": {"state": "after"},
    }
    backend, artifact, dataset = wrapped(summing(tmp_path / "m.onnx"), tmp_path, **options)
    session = backend.open(artifact)
    expected = np.cumsum(2 * (ROWS @ WEIGHT), axis=0)
    np.testing.assert_allclose(session.run(dataset.batch(0, 10).feeds)["y"], expected, rtol=1e-5)
    again = session.run(dataset.batch(0, 4).feeds)["y"]  # another sequence, from zero
    np.testing.assert_allclose(again, expected[:4], rtol=1e-5)
    with pytest.raises(Unsupported, match="state is carried"):
        backend.replayer(artifact, dataset.batch(0, 4).feeds, 8)


def test_a_model_without_a_batch_is_called_with_single_samples(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [("x", FLOAT, [3])],
        [("y", FLOAT, [4]), ("largest", FLOAT, [])],
        [
            ("MatMul", ["x", "w"], ["y"], {}),
            ("ReduceMax", ["y"], ["largest"], {"keepdims": 0}),
        ],
        w=WEIGHT,
    )
    backend, artifact, dataset = wrapped(path, tmp_path)
    outputs = backend.open(artifact).run(dataset.batch(0, 10).feeds)
    np.testing.assert_allclose(outputs["y"], ROWS @ WEIGHT, rtol=1e-6)
    np.testing.assert_allclose(outputs["largest"], (ROWS @ WEIGHT).max(1), rtol=1e-6)


def test_rows_that_differ_in_shape_are_an_error_in_words(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [("x", FLOAT, [1, 3])],
        [("where", INT, [None, None])],
        [("NonZero", ["x"], ["where"], {})],
    )
    rows = np.array([[1, 0, 0], [1, 1, 0]], np.float32)
    backend, artifact, dataset = wrapped(path, tmp_path, rows)
    with pytest.raises(RuntimeError, match="rows of shape"):
        backend.open(artifact).run(dataset.batch(0, 2).feeds)


@pytest.mark.parametrize("batch", [1, 3])
def test_replay_in_several_calls_equals_the_naive_route(tmp_path, batch):
    """Several faults in one weight, and the next batch after it."""
    source = models.conv_net(tmp_path)
    proto = onnx.load(str(source.onnx))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(proto, str(tmp_path / "fixed.onnx"))
    backend, artifact, dataset = wrapped(tmp_path / "fixed.onnx", tmp_path, models.samples(12))
    site = next(each for each in backend.sites(artifact) if each.kind == "weight")
    faults = make((site.name,), [0, 0, 0], [0, 1, 5], [1 << 30, 1 << 23, 1 << 31], lane=[0, 1, 3])
    replayer = backend.replayer(artifact, dataset.batch(0, 6).feeds, 64)
    for index in (0, 1):
        feeds = dataset.batch(index, 6).feeds
        replayer = replayer.on(feeds) if index else replayer
        golden = naive.golden(backend, artifact, feeds)
        assert {n: a.tobytes() for n, a in replayer.golden.items()} == {
            n: a.tobytes() for n, a in golden.items()
        }
        for lane, made in enumerate(replayer.run(faults)):
            mine = faults.where(np.asarray(faults.lane == lane))
            expected = naive.stored(backend, artifact, feeds, mine)
            assert {n: a.tobytes() for n, a in made.items()} == {
                n: a.tobytes() for n, a in expected.items()
            }
    assert replayer.methods[site.name].route != "whole"


@pytest.mark.parametrize(
    ("shapes", "ranks", "stateful", "size"),
    [
        ({"x": (None, 3)}, {"x": 2}, False, None),
        ({"x": (4, 3)}, {"x": 2}, False, 4),
        ({"x": (None, 3)}, {"x": 2}, True, 1),
        ({"x": (3,)}, {"x": 2}, False, 1),
        ({"a": (None, 3), "b": (2, 3)}, {"a": 2, "b": 2}, False, 2),
        ({"x": (None, 3), "sr": ()}, {"x": 2}, False, None),
        ({}, {}, False, 1),
    ],
)
def test_the_size_of_a_call(shapes, ranks, stateful, size):
    inputs = [TensorSpec(name, shape, "float32") for name, shape in shapes.items()]
    assert call_size(inputs, ranks, stateful) == size


@pytest.mark.parametrize(
    ("constants", "told"),
    [
        ({"gainn": 1}, "no input 'gainn'. Hint: did you mean 'gain'?"),
        ({"gain": "loud"}, "is no float32 number"),
        ({"gain": [1, 2]}, "has shape (2,), the model takes ()"),
        ({"rate": 1.5}, "is no int64 number"),
        ({"rate": 10**40}, "is no int64 number"),
        ({"huge": 0}, "too large"),
    ],
)
def test_constants_that_do_not_fit_are_refused(constants, told):
    inputs = [
        TensorSpec("gain", (), "float32"),
        TensorSpec("rate", (), "int64"),
        TensorSpec("huge", (10**12,), "int64"),
    ]
    with pytest.raises(RequestError) as caught:
        initial(constants, (), inputs)
    assert told in caught.value.line()


def swept(folder: Path, **content):
    spec = {
        "environments": [{"backend": "onnxruntime"}],
        "scenarios": ["clean", {"bitflip": {"count": 1}, "patterns": 2}],
        "latency": {"processes": 1, "min_duration_s": 0.01, "min_count": 2, "warmup_s": 0},
        "task": {"kind": "other"},
        "deadline_s": 60,
    }
    options = engine.Options(output=folder / "run", workers=1, cache=folder / "cache")
    made = Spec.model_validate({**spec, **content})
    return collect(engine.start(made, options, engine.Silent(), Stop()))


def test_a_model_with_a_state_is_swept(tmp_path):
    """Faults, latency and all; a sequence longer than a batch starts anew with every batch."""
    np.savez(tmp_path / "rows.npz", x=ROWS)
    data = {
        "npz": str(tmp_path / "rows.npz"),
        "inputs": {"x": "x"},
        "constants": {"gain": 1},
        "state": {"state": "after"},
        "batch": 5,
    }
    tables = swept(tmp_path, model={"onnx": str(summing(tmp_path / "m.onnx"))}, data=data)
    assert tables["cells"]["status"].tolist() == ["ok", "ok"]
    assert tables["cells"]["trials"].tolist() == [2, 4]
    assert tables["latency"]["status"].tolist() == ["ok"]


def test_a_model_without_inputs_is_swept_without_data(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [],
        [("y", FLOAT, [2, 4])],
        [("MatMul", ["c", "w"], ["y"], {})],
        c=ROWS[:2],
        w=WEIGHT,
    )
    tables = swept(tmp_path, model={"onnx": str(path)}, scenarios=["clean"])
    assert tables["cells"]["status"].tolist() == ["ok"]


def test_every_model_of_a_sweep_may_have_its_own_data(tmp_path):
    np.savez(tmp_path / "few.npz", x=ROWS[:4])
    np.savez(tmp_path / "rows.npz", x=ROWS, y=np.zeros(10, int))
    one = str(linear(tmp_path / "one.onnx", None))
    tables = swept(
        tmp_path,
        models={
            "fixed": {"onnx": str(linear(tmp_path / "two.onnx", 1))},
            "free": {"onnx": one, "data": {"npz": str(tmp_path / "few.npz")}},
        },
        data={"npz": str(tmp_path / "rows.npz"), "labels": "y"},
        task={"kind": "classification"},
        environments=[{"backend": "onnxruntime", "threads": [1, 2]}],
        latency=False,
    )
    cells = tables["cells"].set_index(["model", "environment", "scenario"])
    assert set(cells["status"]) == {"ok"}
    clean = cells.xs("clean", level="scenario")["n_samples"]
    assert clean["fixed"].tolist() == [10, 10] and clean["free"].tolist() == [4, 4]
    drift = tables["drift"].set_index(["model", "environment", "scenario"])
    here = drift.xs("clean", level="scenario")
    assert here["accuracy"].notna().groupby("model").all().to_dict() == {
        "fixed": True,
        "free": False,
    }
