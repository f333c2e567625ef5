"""Where data come from: images, tables, datasets on disk, functions; one line for what is wrong."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from hwbench import sources
from hwbench.backend import TensorSpec
from hwbench.data import UNASKED, prepare
from hwbench.dataset import Dataset
from hwbench.errors import RequestError
from hwbench.plan import make
from hwbench.spec import Spec
from hwbench.spec.models import DataSpec

RNG = np.random.default_rng(0)
ROWS = (TensorSpec("rows", (None, 3), "float32"),)
IMAGES = (TensorSpec("image", (None, 3, 8, 8), "float32"),)


def refusal(spec, signature=ROWS, **options) -> str:
    with pytest.raises(RequestError) as caught:
        prepare(DataSpec.model_validate(spec), signature, **options)
    assert "\n" not in caught.value.line()
    return caught.value.line()


# Images.


def save_image(path: Path, pixels) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def constant(value: int, height: int = 16, width: int = 16):
    return np.full((height, width, 3), value, np.uint8)


def pictures(folder: Path, **transform) -> Dataset:
    usual = {"input_size": [3, 8, 8], "crop_pct": 1.0, "mean": [0.5], "std": [0.25]}
    spec = {"images": str(folder), "transform": {**usual, **transform}}
    return prepare(DataSpec.model_validate(spec), IMAGES)


def test_folders_are_classes_in_natural_order_and_take_turns(tmp_path):
    for label, name in enumerate(("1-cat", "2-dog", "10-owl")):
        for number in range(2):
            save_image(tmp_path / name / f"{number}.png", constant(40 * label))
    made = pictures(tmp_path)
    assert made.labels is not None and made.labels.tolist() == [0, 1, 2, 0, 1, 2]
    expected = (np.array([0, 40, 80]) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(made.inputs["image"][:3, 0, 0, 0], expected, rtol=1e-6)
    assert made.inputs["image"].shape == (6, 3, 8, 8)


def test_images_without_folders_have_no_labels(tmp_path):
    save_image(tmp_path / "a.png", constant(9))
    assert pictures(tmp_path).labels is None


def test_the_middle_is_cut_out_of_the_resized_image(tmp_path):
    """Shorter side 16 to 8 / 0.5 = 16: nothing is resized, and 8x8 of the middle are left."""
    pixels = RNG.integers(256, size=(16, 24, 3))
    save_image(tmp_path / "a.png", pixels)
    made = pictures(tmp_path, crop_pct=0.5, mean=[0.0], std=[1.0]).inputs["image"][0]
    expected = pixels[4:12, 8:16].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(made, expected.astype(np.float32), rtol=1e-6)


def test_every_interpolation_halves_a_checkerboard_alike_but_nearest(tmp_path):
    board = np.indices((16, 16)).sum(axis=0) % 2 * 255
    save_image(tmp_path / "a.png", np.repeat(board[..., None], 3, axis=2))
    for name in ("bilinear", "bicubic", "lanczos"):
        made = pictures(tmp_path, interpolation=name, mean=[0.0], std=[1.0]).inputs["image"]
        inside = made[..., 1:-1, 1:-1]  # at the edge the filter is cut off
        np.testing.assert_allclose(inside, 0.5, atol=0.01)
    made = pictures(tmp_path, interpolation="nearest", mean=[0.0], std=[1.0]).inputs["image"]
    assert set(np.unique(made)) <= {0.0, 1.0}


def test_a_model_with_channels_last_or_bytes_is_fed_so(tmp_path):
    save_image(tmp_path / "a.png", constant(9))
    spec = DataSpec.model_validate(
        {"images": str(tmp_path), "transform": {"input_size": [3, 8, 8], "mean": [0], "std": [1]}}
    )
    last = prepare(spec, (TensorSpec("image", (None, 8, 8, 3), "float32"),)).inputs["image"]
    assert last.shape == (1, 8, 8, 3) and np.allclose(last, 9 / 255)
    whole = prepare(spec, (TensorSpec("image", (None, 3, 8, 8), "uint8"),)).inputs["image"]
    assert whole.dtype == np.uint8 and (whole == 9).all()


def test_images_that_are_none_are_refused(tmp_path):
    assert "no such folder" in refusal({"images": str(tmp_path / "none")})
    assert "holds no images" in refusal({"images": str(tmp_path)})
    save_image(tmp_path / "a.png", constant(9))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    assert "b.png: cannot be read as an image" in refusal({"images": str(tmp_path)}, IMAGES)


# Tables.


@pytest.fixture
def table(tmp_path):
    columns = {"b": [1.5, 2.5], "a": [1, 2], "c": [7, 8], "y": [0, 1], "word": ["no", "yes"]}
    made = pa.table(columns)
    csv.write_csv(made, tmp_path / "t.csv")
    parquet.write_table(made, tmp_path / "t.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_columns_are_joined_in_the_order_named(table, name):
    spec = {"table": str(table / name), "inputs": {"rows": ["a", "b", "c"]}, "labels": "y"}
    made = prepare(DataSpec.model_validate({**spec, "calibration": str(table / name)}), ROWS)
    assert made.inputs["rows"].tolist() == [[1, 1.5, 7], [2, 2.5, 8]]
    assert made.labels is not None and made.labels.tolist() == [0, 1]
    assert made.calibration is not None
    assert made.calibration["rows"].tolist() == made.inputs["rows"].tolist()


def test_without_inputs_all_columns_but_the_labels_are_fed(tmp_path):
    (tmp_path / "t.csv").write_text("p,q,y,r\n1,2,0,3\n4,5,1,6\n")
    made = prepare(DataSpec.model_validate({"table": str(tmp_path / "t.csv"), "labels": "y"}), ROWS)
    assert made.inputs["rows"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_lists_of_one_length_are_rows(tmp_path):
    parquet.write_table(pa.table({"x": [[1.0, 2, 3], [4, 5, 6]]}), tmp_path / "t.parquet")
    made = prepare(DataSpec(table=str(tmp_path / "t.parquet")), ROWS)
    assert made.inputs["rows"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_tables_that_do_not_fit_are_refused(table, tmp_path):
    path = str(table / "t.csv")
    assert "no column 'd'" in refusal({"table": path, "inputs": {"rows": ["a", "d"]}})
    assert "'word' is no column of numbers" in refusal({"table": path, "labels": "y"})
    (tmp_path / "gap.csv").write_text("p,q,r\n1,,3\n")
    assert "1 values are missing" in refusal({"table": str(tmp_path / "gap.csv")})
    assert "cannot be read as a table" in refusal({"table": str(tmp_path)})
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + bytes(100))
    assert "cannot be read as a table" in refusal({"table": str(tmp_path / "bad.parquet")})
    ragged = pa.table({"x": [[1.0], [1.0, 2.0]]})
    parquet.write_table(ragged, tmp_path / "ragged.parquet")
    assert "lists have 1 to 2 elements" in refusal({"table": str(tmp_path / "ragged.parquet")})


# Datasets on disk, as `Dataset.save_to_disk` writes them.


def save_dataset(folder: Path, columns, parts: int = 2) -> None:
    folder.mkdir(parents=True)
    made = pa.table(columns)
    names, step = [], -(-len(made) // parts)
    for part in range(parts):
        names.append(f"data-{part:05d}-of-{parts:05d}.arrow")
        with (
            pa.OSFile(str(folder / names[-1]), "wb") as sink,
            pa.ipc.new_stream(sink, made.schema) as stream,
        ):
            stream.write_table(made.slice(part * step, step))
    state = {"_data_files": [{"filename": name} for name in names], "_format_columns": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_dataset_on_disk_is_read_whole_and_by_its_split(tmp_path):
    rows = RNG.normal(size=(5, 3))
    save_dataset(tmp_path / "d" / "test", {"x": rows.tolist(), "label": [0, 1, 2, 0, 1]})
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    spec = {"dataset": str(tmp_path / "d"), "split": "test", "labels": "label"}
    made = prepare(DataSpec.model_validate(spec), ROWS)
    np.testing.assert_allclose(made.inputs["rows"], rows, rtol=1e-6)
    assert made.labels is not None and made.labels.tolist() == [0, 1, 2, 0, 1]
    assert "has no split 'tset'" in refusal({**spec, "split": "tset"})
    assert "has splits" in refusal({"dataset": str(tmp_path / "d")})


def test_images_in_a_dataset_are_decoded(tmp_path):
    save_image(tmp_path / "a.png", constant(51))
    content = (tmp_path / "a.png").read_bytes()
    save_dataset(tmp_path / "d", {"image": [{"bytes": content, "path": None}] * 2})
    usual = {"input_size": [3, 8, 8], "mean": [0], "std": [1]}
    spec = {"dataset": str(tmp_path / "d"), "inputs": {"image": "image"}, "transform": usual}
    made = prepare(DataSpec.model_validate(spec), IMAGES)
    np.testing.assert_allclose(made.inputs["image"], 0.2, rtol=1e-6)


def test_a_dataset_that_names_other_files_is_refused(tmp_path):
    save_dataset(tmp_path / "d", {"x": [[1.0, 2, 3]]}, parts=1)
    state = {"_data_files": [{"filename": "../../etc/passwd"}]}
    (tmp_path / "d" / "state.json").write_text(json.dumps(state))
    assert "lies outside the folder" in refusal({"dataset": str(tmp_path / "d")})
    for damage in ("[]", "{", '{"_data_files": 3}', '{"_data_files": []}'):
        (tmp_path / "d" / "state.json").write_text(damage)
        assert "cannot be read as a dataset" in refusal({"dataset": str(tmp_path / "d")}), damage
    assert "no such folder" in refusal({"dataset": str(tmp_path / "none")})
    (tmp_path / "empty").mkdir()
    assert "holds no dataset" in refusal({"dataset": str(tmp_path / "empty")})


# Functions.


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "mydata.py").write_text(
        "def rows():\n    while True:\n        yield {'x': [1, 2, 3], 'y': 1}\n"
        "def whole():\n    return {'x': [[1, 2, 3]]}\n"
        "def uneven():\n    yield {'x': [1]}\n    yield {'x': [1, 2]}\n"
        "def none():\n    return iter(())\n"
        "def bad():\n    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_function_yields_samples_until_the_limit(code):
    spec = {"python": "mydata:rows", "labels": "y", "limit": 4}
    made = prepare(DataSpec.model_validate(spec), ROWS)
    assert made.inputs["rows"].tolist() == [[1, 2, 3]] * 4 and len(made) == 4
    assert len(prepare(DataSpec(python="mydata:whole"), ROWS)) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere:f", "cannot be imported"),
        ("mydata:missing", "cannot be imported"),
        ("mydata", "cannot be imported"),
        ("mydata:uneven", "raised ValueError"),
        ("mydata:none", "gives no samples"),
        ("mydata:bad", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_functions_that_fail_are_told_in_one_line(code, name, told):
    assert told in refusal({"python": name})


def test_a_function_needs_leave(code, tmp_path):
    spec = Spec.model_validate(
        {
            "model": {"builtin": "digits-cnn"},
            "data": {"python": "mydata:rows", "limit": 2},
            "environments": [{"backend": "onnxruntime"}],
        }
    )
    with pytest.raises(RequestError, match=r"runs code from mydata:rows.*--allow-code"):
        make(spec, allow_code=False, cache=tmp_path, code_cache=tmp_path)


# Archives that lie.


def test_an_archive_that_unpacks_to_more_than_there_is_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 3000), np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    memory = type("Memory", (), {"available": 10_000_000})
    monkeypatch.setattr(sources.npz.psutil, "virtual_memory", lambda: memory)
    assert "unpacks to 0.0 GiB; 0.0 GiB are free" in refusal({"npz": str(tmp_path / "bomb.npz")})


def test_a_header_that_declares_more_than_the_file_holds_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3), np.float32))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        member = archive.read("x.npy")
    lying = member.replace(b"(4, 3), }", b"(%d, 3),}" % 10**15).ljust(len(member))
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("x.npy", lying)
    assert "cannot be read as npz" in refusal({"npz": str(tmp_path / "lie.npz")})


# Labels by task.


def test_tokens_have_labels_of_their_own(tmp_path):
    np.savez(tmp_path / "t.npz", x=RNG.normal(size=(2, 3)), y=[[1, -1, 2], [0, -7, 1]])
    spec = {"npz": str(tmp_path / "t.npz"), "labels": {"array": "y", "offset": 1}}
    made = prepare(DataSpec.model_validate(spec), ROWS, labels="tokens")
    assert made.labels is not None
    assert made.labels.tolist() == [[2, UNASKED, 3], [1, UNASKED, 2]]
    assert "labels have shape (2, 3)" in refusal(spec)
    assert prepare(DataSpec.model_validate(spec), ROWS, labels="any").labels is not None


def test_a_device_is_no_file(tmp_path):
    assert "/dev/zero: is no file" in refusal({"npz": "/dev/zero"})
    assert "/dev/zero: is no file" in refusal({"table": "/dev/zero"})
