"""Models from exported programs and model libraries, through to the tables of a sweep."""

from __future__ import annotations

import io
import json
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hwbench import model as models
from hwbench import programfile
from hwbench.backend import ModelSource, TensorSpec
from hwbench.collect import collect
from hwbench.engine import Options, Silent, start
from hwbench.errors import RequestError, Unsupported
from hwbench.execute import Stop
from hwbench.spec import Spec
from hwbench.spec.models import ModelSpec

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from hwbench_torch import libraries  # noqa: E402
from hwbench_torch.modules import load_module  # noqa: E402

IMAGE = (1, 8, 8)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 * 36, 3)
        self.register_buffer("gain", torch.full((3,), 2.0), persistent=False)

    def forward(self, image):
        return self.fc(self.conv(image).relu().flatten(1)) * self.gain


@pytest.fixture
def program(tmp_path):
    """An exported program with a free batch dimension."""
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        Small().eval(), (torch.zeros(2, *IMAGE),), dynamic_shapes=({0: batch},)
    )
    path = tmp_path / "small.pt2"
    torch.export.save(exported, path)
    return path


def rewritten(path, target, *, drop=(), json_edit=None, extra=None):
    """The archive with some entries changed, as somebody with bad intentions would."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            name, content = entry.filename, old.read(entry)
            if name.endswith(tuple(drop)) and drop:
                continue
            if json_edit and name.endswith(json_edit[0]):
                found = json.loads(content)
                json_edit[1](found)
                content = json.dumps(found).encode()
            new.writestr(name, content)
        for name, content in (extra or {}).items():
            new.writestr(name, content)
    return target


def pickled(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Opens:
    """What a pickle would run."""

    marker = ""

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def first_node(description):
    return description["graph_module"]["graph"]["nodes"][0]


def set_target(name):
    return lambda found: first_node(found).update(target=name)


def set_size(found):
    values = found["graph_module"]["graph"]["tensor_values"]
    values["image"]["sizes"][0] = {"as_expr": {"expr_str": "__import__(chr(111)+chr(115))"}}


def set_pickle(found):
    next(iter(found["config"].values()))["use_pickle"] = True


def set_object(found):
    next(iter(found["config"].values()))["path_name"] = "script_obj_0"


HOSTILE = [
    pytest.param(("models/model.json", set_target("torch.hub.os.system")), "no operator", id="os"),
    pytest.param(
        ("models/model.json", set_target("torch.ops.load_library")), "no operator", id="library"
    ),
    pytest.param(
        ("models/model.json", set_target("torch.ops.aten.from_file.default")),
        "no operator",
        id="file",
    ),
    pytest.param(("models/model.json", set_target("_operator.call")), "no operator", id="call"),
    pytest.param(("models/model.json", set_size), "code where a size", id="size"),
    pytest.param(("model_weights_config.json", set_pickle), "pickles are refused", id="pickle"),
    pytest.param(("model_weights_config.json", set_object), "pickles are refused", id="object"),
]


def test_signature_is_read_without_torch(program):
    assert programfile.signature(program) == (TensorSpec("image", (None, *IMAGE), "float32"),)


def test_program_computes_what_was_exported(program):
    source = ModelSource("small", programfile.signature(program), pt2=str(program))
    images = torch.randn(5, *IMAGE)
    with torch.no_grad():
        expected = torch.export.load(program).module()(images)
        assert torch.equal(load_module(source)(images), expected)


@pytest.mark.parametrize(("edit", "words"), HOSTILE)
def test_hostile_programs_are_refused(program, tmp_path, edit, words):
    bad = rewritten(program, tmp_path / "bad.pt2", json_edit=edit)
    with pytest.raises(RequestError, match=words):
        programfile.signature(bad)
    with pytest.raises(RequestError, match=words):
        programfile.copy_checked(bad, tmp_path / "copy.pt2")


def test_pickles_in_a_program_never_run(program, tmp_path, monkeypatch):
    Opens.marker = str(tmp_path / "ran")
    bad = rewritten(
        program,
        tmp_path / "bad.pt2",
        drop=("sample_inputs/model.pt",),
        extra={"small/data/sample_inputs/model.pt": pickled(((Opens(),), {}))},
    )
    load_module(ModelSource("bad", programfile.signature(bad), pt2=str(bad)))
    assert not Path(Opens.marker).exists()
    # Its warning has more arguments than places.
    monkeypatch.setattr(logging.getLogger("torch._export.serde.serialize"), "disabled", True)
    torch.export.load(bad)  # the danger is real: torch's own loader runs it
    assert Path(Opens.marker).exists()


def test_guards_of_a_program_never_run(program, tmp_path):
    def with_guard(found):
        found["guards_code"] = ["__import__('os')"]

    bad = rewritten(program, tmp_path / "bad.pt2", json_edit=("models/model.json", with_guard))
    programfile.copy_checked(bad, tmp_path / "copy.pt2")
    with zipfile.ZipFile(tmp_path / "copy.pt2") as copy:
        assert json.loads(copy.read("model/models/model.json"))["guards_code"] == []


@pytest.mark.parametrize(
    "extra",
    [{"small/data/aotinductor/model/x.so": b""}, {"small/models/other.json": b"{}"}, {"x": b""}],
)
def test_entries_that_are_no_program_are_refused(program, tmp_path, extra):
    with pytest.raises(RequestError, match="no part of a program"):
        programfile.signature(rewritten(program, tmp_path / "bad.pt2", extra=extra))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04."])
def test_files_that_are_no_program_are_refused(tmp_path, content):
    path = tmp_path / "x.pt2"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="no exported program"):
        programfile.signature(path)


def swept(tmp_path, model, data, environments, **changes):
    """The tables of a sweep, clean and under bit flips."""
    content = {
        "model": model,
        "data": data,
        "environments": environments,
        "scenarios": ["clean", {"bitflip": {"rate": 1e-4}, "patterns": 2}],
        "latency": False,
        **changes,
    }
    options = Options(output=tmp_path / "run", cache=tmp_path / "cache", allow_code=True)
    return collect(start(Spec.model_validate(content), options, Silent(), Stop()))


def statuses(tables):
    cells = tables["cells"]
    return dict(
        zip(zip(cells["environment"], cells["scenario"], strict=True), cells["status"], strict=True)
    )


def rows(tmp_path, **arrays):
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    return path


def test_program_sweeps_on_torch_and_onnxruntime(program, tmp_path):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    data = rows(tmp_path, x=rng.normal(size=(6, *IMAGE)).astype("float32"))
    tables = swept(
        tmp_path,
        {"pt2": str(program)},
        {"npz": str(data), "inputs": {"image": "x"}},
        [{"backend": ["torch", "onnxruntime"]}],
    )
    assert set(statuses(tables).values()) == {"ok"}, tables["cells"].T.to_string()
    assert len(statuses(tables)) == 4


@pytest.mark.slow
def test_resnet50_from_a_factory_sweeps(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(Path(__file__).parents[1])
    images = np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype("float32")
    tables = swept(
        tmp_path,
        {"torch": "benchmarks.networks:resnet50"},
        {"npz": str(rows(tmp_path, x=images)), "batch": 2},
        [{"backend": ["torch", "onnxruntime"]}],
        scenarios=["clean", {"bitflip": {"rate": 1e-6}, "patterns": 3}],
    )
    assert len(statuses(tables)) == 4
    assert set(statuses(tables).values()) == {"ok"}, tables["cells"].T.to_string()


@pytest.fixture
def broken_torchvision(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    reason = "operator torchvision::nms does not exist"
    (package / "__init__.py").write_text(f"raise RuntimeError({reason!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "torchvision", raising=False)


def test_broken_torchvision_is_told_with_what_to_do(broken_torchvision):
    with pytest.raises(Unsupported, match=r"torchvision::nms does not exist.*install both from"):
        libraries.load("torchvision:resnet18", ["x"], untrained=True)


def test_missing_library_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(libraries._MODULES, "timm", "surely_not_installed")
    with pytest.raises(Unsupported, match=r'pip install "hwbench\[surely_not_installed\]"'):
        libraries.load("timm:resnet18", ["x"], untrained=True)


def test_command_line_names():
    assert models.by_name("hf:org/name") == {"library": "hf:org/name"}
    assert models.by_name("timm:resnet18") == {"library": "timm:resnet18"}
    assert models.by_name("/x/model.pt2") == {"pt2": "/x/model.pt2"}
    assert models.by_name("/x/model.onnx") == {"onnx": "/x/model.onnx"}


@pytest.mark.parametrize("given", [{"library": "keras:x"}, {"pt2": "a.pt2", "onnx": "b.onnx"}, {}])
def test_models_that_cannot_be_meant_are_refused(given):
    with pytest.raises(ValueError, match=r"library|exactly one"):
        ModelSpec.model_validate(given)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture
def text(transformers, tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "text")
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 13, (6, 1))
    data = rows(
        tmp_path,
        ids=rng.integers(0, 97, (6, 12)),
        mask=(np.arange(12) < lengths).astype("int64"),
    )
    inputs = {"input_ids": "ids", "attention_mask": "mask"}
    return tmp_path / "text", {"npz": str(data), "inputs": inputs}


@pytest.fixture
def vision(transformers, tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=5,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vision")
    images = np.random.default_rng(0).normal(size=(6, 3, 32, 32)).astype("float32")
    return tmp_path / "vision", {
        "npz": str(rows(tmp_path, x=images)),
        "inputs": {"pixel_values": "x"},
    }


@pytest.mark.parametrize("which", ["text", "vision"])
def test_transformers_sweep_clean_and_bitflip(which, tmp_path, request):
    folder, data = request.getfixturevalue(which)
    backends = [{"backend": ["torch", "onnxruntime", "openvino"]}]
    tables = swept(tmp_path, {"library": f"hf:{folder}"}, data, backends)
    assert len(statuses(tables)) == 6
    assert set(statuses(tables).values()) == {"ok"}, tables["cells"].T.to_string()


def test_a_missing_mask_is_told_with_what_the_model_takes(text):
    folder, _ = text
    inputs = (TensorSpec("input_ids", (None, 12), "int64"), TensorSpec("odd", (None, 12), "int64"))
    source = ModelSource("text", inputs, library=f"hf:{folder}")
    with pytest.raises(RequestError, match=r"no input 'odd'.*attention_mask"):
        load_module(source)


def test_an_unknown_hub_name_offline_is_one_line(transformers, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    source = ModelSource("x", (TensorSpec("x", (None, 2), "float32"),), library="hf:no/such")
    with pytest.raises(
        RequestError, match="offline, the model must be in the library's cache"
    ) as error:
        load_module(source)
    assert "\n" not in error.value.line()
