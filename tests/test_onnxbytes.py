"""Tensors read and changed in the file give what the parsed model gives."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench import files, onnxbytes, onnxfile
from hwbench.builtin import DIGITS_ONNX
from hwbench.edits import make


def nested(rng):
    """Weights inside both branches of an If, of one name, and one beside them."""

    def branch(name, factor):
        weight = numpy_helper.from_array(np.full((4, 3), factor, dtype=np.float32), "w")
        node = helper.make_node("MatMul", ["x", "w"], [f"{name}_y"])
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [value], [weight])

    condition = numpy_helper.from_array(np.array(True), "c")
    half = numpy_helper.from_array(rng.normal(size=3).astype(np.float16), "h")
    node = helper.make_node(
        "If", ["c"], ["z"], then_branch=branch("a", 1.0), else_branch=branch("b", 2.0)
    )
    cast = helper.make_node("Cast", ["h"], ["hf"], to=TensorProto.FLOAT)
    add = helper.make_node("Add", ["z", "hf"], ["y"])
    graph = helper.make_graph(
        [node, cast, add],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [condition, half],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.fixture(params=["nested", "digits"])
def path(request, tmp_path):
    digits = request.param == "digits"
    model = onnxfile.load(DIGITS_ONNX) if digits else nested(np.random.default_rng(0))
    onnxfile.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_the_skeleton_has_the_same_sites_and_none_of_the_bytes(path):
    skeleton = onnxbytes.skeleton(path)
    assert onnxfile.sites(skeleton) == onnxfile.sites(onnxfile.read(path))
    assert len(onnxfile.sites(skeleton)) >= 3
    tensors = onnxfile.index(skeleton).tensors.values()
    assert all(len(each.raw_data) in (0, 16) for each in tensors)


def test_tensors_are_read_where_they_lie(path):
    model = onnxfile.read(path)
    for name, tensor in onnxfile.index(model).tensors.items():
        if tensor.HasField("raw_data"):
            found = onnxbytes.stored(path, name)
            expected = onnxfile.stored(tensor)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert found.tobytes() == expected.tobytes()


def test_edits_in_the_file_give_the_bytes_of_the_parsed_route(path, tmp_path):
    model = onnxfile.read(path)
    for number, site in enumerate(onnxfile.sites(model)):
        edits = make((site.name,), 0, [0, site.size - 1], 1 << (site.bits - 1))
        onnxfile.corrupt(model, edits)
        target = tmp_path / f"{number}.onnx"
        onnxbytes.corrupt(path, target, edits)
        path = target
    onnxfile.write(model, tmp_path / "parsed.onnx")
    assert path.read_bytes() == (tmp_path / "parsed.onnx").read_bytes()


def test_the_original_stays_as_it_is(path, tmp_path):
    before = path.read_bytes()
    name = onnxfile.sites(onnxfile.read(path))[0].name
    onnxbytes.corrupt(path, tmp_path / "bad.onnx", make((name,), 0, [0], 1))
    assert path.read_bytes() == before
    assert (tmp_path / "bad.onnx").read_bytes() != before


def test_absent_tensors_and_rows_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="stores no tensor"):
        onnxbytes.stored(path, "nothing")
    with pytest.raises(ValueError, match="stores no tensor"):
        onnxbytes.corrupt(path, tmp_path / "x", make(("nothing",), 0, [0], 1))


def test_bfloat16_is_read_as_its_bits(tmp_path):
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [2, 2], [1.0, -2.0, 0.5, 3.0])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, [None, 2]) for n in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [tensor])
    path = tmp_path / "b.onnx"
    onnxfile.save(helper.make_model(graph), path)
    assert onnxbytes.stored(path, "w").tolist() == [[0x3F80, 0xC000], [0x3F00, 0x4040]]


def test_a_clone_is_a_file_of_its_own(tmp_path):
    (tmp_path / "a").write_bytes(b"before")
    files.clone(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b").write_bytes(b"after")
    assert (tmp_path / "a").read_bytes() == b"before"
