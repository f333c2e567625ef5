"""Hostile files: mutated models, data and specs end in one line or in an outcome, and nowhere else.

Every file is made from a seed. A file is judged by what happens to it: ``hwbench plan``'s checks,
and, if they let it pass, a whole sweep in worker processes.
"""

from __future__ import annotations

import io
import pickle
import random
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench import engine
from hwbench.collect import collect
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.spec import load

pytest.importorskip("onnxruntime")

DEADLINE_S = 20
FEW, MANY = 60, 1000
STATUSES = {"ok", "unsupported", "error", "crash", "oom", "timeout", "invalid"}
ODD_VALUES = [
    *("2", "3", "1", "0.5", "-1", "1.0e+400", "1" + "0" * 400, "0x" + "f" * 64, ".nan", "null"),
    *("[]", "{}", "[[[[]]]]", "'\\0'", "../../../etc/passwd", "/dev/zero", "/etc/passwd"),
    *("!!python/object/apply:os.system [ls]", "&a [*a]", "*nothing", "2024-99-99", "yes"),
    *('"\\0"', "'" + "x" * 5000 + "'", "\N{SNOWMAN}", "{? [a] : b}"),
]
SPEC = """\
name: fuzzed
model: {onnx: model.onnx}
data: {npz: rows.npz, labels: y, batch: 8, preprocess: {scale: 1.5}}
environments: [{backend: onnxruntime, precision: [fp32]}]
scenarios:
  - clean
  - {bitflip: {rate: 0.01}, patterns: 1}
latency: false
deadline_s: 20
seed: 3
"""


def write_model(path: Path) -> None:
    """A convolution, a subgraph, a constant node and an outer product of weights."""
    rng = np.random.default_rng(0)
    weights = {
        "conv.w": rng.normal(size=(4, 2, 3, 3)).astype(np.float32),
        "fc.w": rng.normal(size=(3, 4)).astype(np.float32),
        "fc.b": rng.normal(size=3).astype(np.float32),
        "yes": np.array(True),
    }
    inner = [
        helper.make_graph(
            [helper.make_node(op, ["c"], [f"{op}_out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)],
        )
        for op in ("Relu", "Neg")
    ]
    branches = {"then_branch": inner[0], "else_branch": inner[1]}
    nodes = [
        helper.make_node("Conv", ["x", "conv.w"], ["c"], "conv"),
        helper.make_node("If", ["yes"], ["r"], "choose", **branches),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def write_all(folder: Path) -> None:
    rng = np.random.default_rng(1)
    write_model(folder / "model.onnx")
    rows = rng.normal(size=(16, 2, 6, 6)).astype(np.float32)
    np.savez(folder / "rows.npz", x=rows, y=rng.integers(3, size=16))
    (folder / "spec.yaml").write_text(SPEC)


def bytes_changed(content: bytes, dice: random.Random) -> bytes:
    """Some bytes flipped, cut, doubled or put in."""
    made = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        at, kind = dice.randrange(len(made) or 1), dice.randrange(5)
        if kind == 0 and made:
            made[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and made:
            made[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            made[at:at] = dice.randbytes(dice.randrange(16))
        elif kind == 3:
            del made[at : at + dice.randrange(32)]
        else:
            made[at:at] = made[at : at + dice.randrange(64)]
    return bytes(made if dice.random() > 0.05 else made[: dice.randrange(len(made) + 1)])


def hostile_model(content: bytes, dice: random.Random) -> bytes:
    """Bytes changed, or a file that parses and means something else."""
    if dice.random() < 0.5:
        return bytes_changed(content, dice)
    model = onnx.ModelProto.FromString(content)
    graph, huge = model.graph, dice.choice((-1, 0, 3, 2**31, 2**40, 2**62))
    tensor = dice.choice(graph.initializer)
    node = dice.choice(graph.node)
    act = dice.randrange(10)
    if act == 0:
        tensor.dims[:] = [huge] * dice.randrange(5)
    elif act == 1:
        tensor.data_type = dice.randrange(25)
    elif act == 2:
        graph.input[0].type.tensor_type.shape.dim[dice.randrange(4)].dim_value = huge
    elif act == 3:
        graph.input[0].type.tensor_type.elem_type = dice.randrange(25)
    elif act == 4:
        tensor.ClearField("raw_data")
        place = dice.choice(("../../etc/passwd", "/etc/passwd", "link", "model.onnx", "", "a\0b"))
        entries = {"location": place, "offset": str(huge), "length": str(abs(huge))}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = TensorProto.EXTERNAL
    elif act == 5:
        node.input[0] = dice.choice(("nowhere", node.output[0], "", "logits"))
    elif act == 6:
        node.op_type = dice.choice(("Nothing", "Loop", "Scan", "Cos", "ConstantOfShape", "LSTM"))
    elif act == 7:
        model.opset_import[0].version = dice.choice((-1, 0, 1, 9, 99, 2**31))
    elif act == 8:
        graph.node.extend([node] * dice.choice((1, 3, 100)))
    else:
        field = dice.choice((graph.initializer, graph.node, graph.input, graph.output))
        del field[dice.randrange(len(field)) :]
    return bytes(model.SerializeToString())


def hostile_npz(content: bytes, dice: random.Random) -> bytes:
    """Bytes changed, or an archive whose members lie."""
    if dice.random() < 0.6:
        return bytes_changed(content, dice)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, member)
        act = dice.randrange(5)
        if act == 0:
            header = member.replace(b"(16,)", b"(%d,)" % dice.choice((15, 17, 99999)), 1)
            new.writestr("z.npy", header)
        elif act == 1:
            new.writestr("z.npy", b"\x80\x04]\x94.")
        elif act == 2:
            new.writestr("../../outside.npy", member)
        elif act == 3:
            new.writestr("z.npy", bytes_changed(member, dice))
        else:
            new.writestr("z.npy", bytes(10**6), zipfile.ZIP_DEFLATED)
    return made.getvalue()


def hostile_spec(content: bytes, dice: random.Random) -> bytes:
    """Bytes changed, or values that nobody writes."""
    text = content.decode()
    if dice.random() < 0.3:
        return bytes_changed(content, dice)
    words = [word for word in text.replace(",", " ").split() if word[0].isalnum() or word[0] == "{"]
    for _ in range(dice.choice((1, 1, 2))):
        text = text.replace(dice.choice(words), dice.choice(ODD_VALUES), 1)
    return text.encode()


Mutation = Callable[[bytes, random.Random], bytes]
KINDS: dict[str, Mutation] = {
    "model.onnx": hostile_model,
    "rows.npz": hostile_npz,
    "spec.yaml": hostile_spec,
}


def judged(folder: Path, cache: Path) -> str:
    """What happens to the files of a folder: ``refused``, or the statuses of the sweep's cells.

    Raises:
        AssertionError: an answer of several lines, or a status that is none.
    """
    options = engine.Options(output=folder / "run", workers=1, cache=cache)
    try:
        store = engine.start(load(folder / "spec.yaml"), options, engine.Silent(), Stop())
    except RequestError as error:
        assert "\n" not in error.line() and "Traceback" not in error.line()
        return "refused"
    found = collect(store)["cells"]["status"].unique().tolist()
    assert set(found) <= STATUSES, found
    return "+".join(sorted(found))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, the run's and the cache's own left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"run", "cache"} & set(path.relative_to(folder).parts)
    }


def fuzzed(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Judge so many files; returns how often each kind ended how."""
    monkeypatch.chdir(tmp_path)
    found: Counter[tuple[str, str]] = Counter()
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        home = tmp_path / f"{number}"
        folder = home / "a" / "b"
        folder.mkdir(parents=True)
        write_all(folder)
        (folder / "link").symlink_to("/etc/passwd")
        file = folder / kind
        file.write_bytes(KINDS[kind](file.read_bytes(), random.Random(number)))
        before = tree(home)
        found[kind, judged(folder, tmp_path / "cache")] += 1
        assert tree(home) == before, f"{number}: something was written outside the run"
        assert {path.name for path in tmp_path.iterdir()} <= {home.name, "cache"}, number
        shutil.rmtree(home)
    return found


def test_mutated_files_are_refused_or_have_an_outcome(tmp_path, monkeypatch):
    found = fuzzed(tmp_path, FEW, monkeypatch)
    assert sum(found.values()) == FEW
    for kind in KINDS:
        assert found[kind, "refused"], found
    assert sum(n for (_, how), n in found.items() if how == "ok")  # some do no harm
    assert sum(n for (_, how), n in found.items() if "error" in how)  # some only fail in workers


@pytest.mark.slow
def test_a_thousand_mutated_files(tmp_path, monkeypatch):
    found = fuzzed(tmp_path, MANY, monkeypatch)
    print(sorted(found.items()))
    assert sum(found.values()) == MANY


# What must be refused, each by itself.


def refusal(folder: Path) -> str:
    with pytest.raises(RequestError) as caught:
        options = engine.Options(output=folder / "run", cache=folder / "cache")
        engine.start(load(folder / "spec.yaml"), options, engine.Silent(), Stop())
    assert not (folder / "run").exists()
    return caught.value.line()


def inside_the_subgraph(model):
    return model.graph.node[1].attribute[0].g.initializer.add(name="hidden", data_type=1, dims=[1])


def in_an_attribute(model):
    node = helper.make_node("Constant", [], ["hidden"], value=numpy_helper.from_array(np.ones(1)))
    model.graph.node.append(node)
    return model.graph.node[-1].attribute[0].t


@pytest.mark.parametrize(
    "tensor", [lambda model: model.graph.initializer[0], inside_the_subgraph, in_an_attribute]
)
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("../../etc/passwd", "lies outside the model's folder"),
        ("/etc/passwd", "lies outside the model's folder"),
        ("link", "lies outside the model's folder"),
        ("folder/../../x", "lies outside the model's folder"),
        ("missing.bin", "missing.bin: No such file"),
        ("a\0b", "is no path"),
    ],
)
def test_external_data_lie_in_the_models_folder(tmp_path, tensor, place, told):
    write_all(tmp_path)
    (tmp_path / "link").symlink_to("/etc/passwd")
    model = onnx.load(str(tmp_path / "model.onnx"))
    chosen = tensor(model)
    chosen.ClearField("raw_data")
    chosen.external_data.add(key="location", value=place)
    chosen.data_location = TensorProto.EXTERNAL
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert told in refusal(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("seed: 3", "seed: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("seed: 3", "seed: &a [*a]", ""),
        ("patterns: 1", "patterns: 1000000000000", "at most 1,000,000"),
        ("batch: 8", "batch: 100000000000000000000", "data.batch"),
        ("deadline_s: 20", "deadline_s: .inf", "deadline_s"),
        ("model.onnx", "/dev/zero", "/dev/zero: is no file"),
        ("rows.npz", "/dev/zero", "/dev/zero: is no file"),
        ("model.onnx", '"\\0"', "is no path"),
        ("name: fuzzed", "name: fuzzed\nseed: 1", "given twice"),
    ],
)
def test_specs_that_nobody_means_are_refused(tmp_path, old, new, told):
    write_all(tmp_path)
    assert SPEC.count(old) == 1
    (tmp_path / "spec.yaml").write_text(SPEC.replace(old, new))
    assert told in refusal(tmp_path)


def test_anchors_that_stand_for_billions_are_refused(tmp_path):
    write_all(tmp_path)
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "spec.yaml").write_text(SPEC + "\n".join(levels))
    assert "stands for more than 100,000 values" in refusal(tmp_path)


def test_a_batch_that_memory_cannot_hold_is_refused(tmp_path):
    write_all(tmp_path)
    model = onnx.load(str(tmp_path / "model.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert "does not fit this machine's memory" in refusal(tmp_path)


def test_pickles_are_refused(tmp_path):
    write_all(tmp_path)
    np.savez(tmp_path / "rows.npz", x=np.array([{"a": 1}], dtype=object))
    assert "holds Python objects (pickle), which are never loaded" in refusal(tmp_path)


@pytest.mark.parametrize("form", ["torch.save", "torch.save of old", "pickle"])
@pytest.mark.parametrize("name", ["model.onnx", "model.pt"])
def test_pickles_given_as_a_model_are_refused(tmp_path, form, name):
    """What would run on unpickling does not, whatever the file is called."""
    write_all(tmp_path)
    marker = tmp_path / "ran"
    write_pickle(tmp_path / name, marker, form)
    (tmp_path / "spec.yaml").write_text(SPEC.replace("model.onnx", name))
    assert "as torch.save writes them: they may run code and are never loaded" in refusal(tmp_path)
    assert not marker.exists()
    if form == "pickle":
        pickle.loads((tmp_path / name).read_bytes())  # the danger is real
        assert marker.exists()


def test_a_pickle_given_as_a_program_is_refused(tmp_path):
    write_all(tmp_path)
    marker = tmp_path / "ran"
    write_pickle(tmp_path / "model.pt2", marker, "torch.save")
    (tmp_path / "spec.yaml").write_text(SPEC.replace("onnx: model.onnx", "pt2: model.pt2"))
    assert "holds 'model/data.pkl', which is no part of a program" in refusal(tmp_path)
    assert not marker.exists()


class _Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def write_pickle(path, marker, form):
    """A file that creates ``marker`` when it is unpickled."""
    if form == "pickle":
        path.write_bytes(pickle.dumps(_Runs(marker)))
        return
    torch = pytest.importorskip("torch")
    torch.save(_Runs(marker), path, _use_new_zipfile_serialization=form == "torch.save")
