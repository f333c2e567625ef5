"""Data: what a model is fed, and one clear line for every file that cannot feed it."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest

from hwbench.backend import TensorSpec
from hwbench.data import prepare
from hwbench.dataset import Dataset
from hwbench.errors import RequestError
from hwbench.spec.models import DataSpec

IMAGES = (TensorSpec("image", (None, 3, 4, 5), "float32"),)
IDS = (TensorSpec("ids", (None, None), "int64"), TensorSpec("mask", (None, None), "int64"))
RNG = np.random.default_rng(0)
CHW = RNG.normal(size=(6, 3, 4, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def data(tmp_path):
    """A function from arrays and options to the prepared dataset."""

    def made(arrays, signature=IMAGES, **options) -> Dataset:
        path = tmp_path / "rows.npz"
        np.savez(path, **arrays)
        return prepare(DataSpec.model_validate({"npz": str(path), **options}), signature)

    return made


def refusal(call, *args, **options) -> str:
    with pytest.raises(RequestError) as caught:
        call(*args, **options)
    line = caught.value.line()
    assert "\n" not in line
    return line


# What a model is fed.


def test_arrays_arrive_as_the_model_takes_them(data):
    made = data({"x": CHW.astype(np.float64), "y": LABELS.astype(np.uint8)}, labels="y")
    assert made.inputs["image"].dtype == np.float32
    np.testing.assert_array_equal(made.inputs["image"], CHW)
    assert made.labels is not None and made.labels.dtype == np.int64
    assert len(made) == 6 and made.calibration is None


@pytest.mark.parametrize(
    ("layout", "shape", "back"),
    [("NHWC->NCHW", (6, 4, 5, 3), (0, 2, 3, 1)), ("NCHW->NHWC", (6, 3, 4, 5), (0, 3, 1, 2))],
)
def test_layouts(data, layout, shape, back):
    stored = RNG.normal(size=shape).astype(np.float32)
    signature = (TensorSpec("image", (None,) * 4, "float32"),)
    fed = data({"x": stored}, signature, preprocess={"layout": layout}).inputs["image"]
    np.testing.assert_array_equal(fed.transpose(back), stored)
    assert fed.flags.c_contiguous


def test_preprocessing_is_offset_scale_mean_std(data):
    stored = RNG.integers(0, 256, size=(6, 4, 5, 3), dtype=np.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    step = {"layout": "NHWC->NCHW", "offset": 10, "scale": 1 / 255, "mean": mean, "std": std}
    fed = data({"x": stored}, preprocess=step).inputs["image"]
    for channel in range(3):
        values = (stored[..., channel].astype(np.float64) - 10) / 255
        expected = ((values - mean[channel]) / std[channel]).astype(np.float32)
        np.testing.assert_allclose(fed[:, channel], expected, rtol=1e-6)


def test_channels_come_last_after_a_layout_that_puts_them_there(data):
    signature = (TensorSpec("image", (None, 4, 5, 3), "float32"),)
    step = {"layout": "NCHW->NHWC", "mean": [1, 2, 3]}
    fed = data({"x": CHW}, signature, preprocess=step).inputs["image"]
    np.testing.assert_allclose(
        fed, CHW.transpose(0, 2, 3, 1) - np.array([1, 2, 3], np.float32), rtol=1e-5
    )


def test_integers_stay_exact(data):
    ids = np.array([[2**40 + 1, 3], [4, 5]])
    made = data({"ids": ids, "mask": ids.astype(np.int32)}, IDS)
    assert made.inputs["ids"].tolist() == ids.tolist()
    assert made.inputs["mask"].dtype == np.int64


def test_a_change_of_layout_keeps_integers(data):
    stored = RNG.integers(0, 256, size=(6, 4, 5, 3), dtype=np.uint8)
    signature = (TensorSpec("image", (None, 3, 4, 5), "uint8"),)
    fed = data({"x": stored}, signature, preprocess={"layout": "NHWC->NCHW"}).inputs["image"]
    np.testing.assert_array_equal(fed, stored.transpose(0, 3, 1, 2))


def test_labels_can_be_shifted(data):
    made = data({"x": CHW, "y": LABELS}, labels={"array": "y", "offset": 1})
    assert made.labels is not None and made.labels.tolist() == (LABELS + 1).tolist()


def test_an_archive_with_y_is_labelled_unless_told_otherwise(data):
    made = data({"x": CHW, "y": LABELS})
    assert made.labels is not None and made.labels.tolist() == LABELS.tolist()
    assert data({"x": CHW}).labels is None
    assert data({"x": CHW, "y": LABELS}, labels=None).labels is None
    assert data({"y": CHW}, inputs={"image": "y"}).labels is None


def test_a_limit_cuts_inputs_and_labels_alike(data):
    made = data({"x": CHW, "y": LABELS}, labels="y", limit=4)
    assert len(made) == 4 and made.labels is not None and len(made.labels) == 4
    assert len(data({"x": CHW}, limit=99)) == 6


def test_without_a_signature_names_come_from_the_spec(data):
    made = data({"a": CHW, "b": LABELS}, None, inputs={"image": "a", "ids": "b"})
    assert made.inputs["image"].dtype == np.float32 and made.inputs["ids"].dtype == np.int64
    assert list(data({"x": CHW}, None).inputs) == ["input"]


def test_without_a_signature_bytes_are_pictures_and_other_integers_indices(data):
    rows = np.arange(12).reshape(6, 2)
    for stored, given in (("uint8", "float32"), ("int32", "int64"), ("float64", "float32")):
        made = data({"x": rows.astype(stored)}, None)
        assert made.inputs["input"].dtype == given
        assert np.array_equal(made.inputs["input"], rows)


def test_calibration_is_prepared_like_the_data(data, tmp_path):
    calibration = tmp_path / "calibration.npz"
    np.savez(calibration, x=np.tile(CHW, (100, 1, 1, 1)))
    step = {"scale": 2}
    made = data({"x": CHW}, calibration=str(calibration), preprocess=step, limit=2)
    assert made.calibration is not None
    assert made.calibration["image"].shape == (512, 3, 4, 5)
    np.testing.assert_array_equal(made.calibration["image"][:6], 2 * CHW)


def test_the_digest_tells_data_apart(data):
    one = data({"x": CHW, "y": LABELS}, labels="y").digest
    assert one == data({"x": CHW, "y": LABELS, "unused": LABELS}, labels="y").digest
    others = [
        data({"x": CHW, "y": LABELS}, labels=None).digest,
        data({"x": CHW[::-1], "y": LABELS}, labels="y").digest,
        data({"x": CHW, "y": LABELS[::-1]}, labels="y").digest,
    ]
    assert len({one, *others}) == 4


def test_the_shipped_data_feed_the_shipped_model():
    made = prepare(DataSpec(builtin="digits"), None)
    assert made.labels is not None and made.calibration is not None
    assert float(made.inputs["input"].max()) == 1.0


# Batches.


def test_the_last_batch_is_padded_and_only_its_own_rows_are_scored(data):
    made = data({"x": CHW})
    assert made.n_batches(4) == 2
    last = made.batch(1, 4)
    assert last.samples.tolist() == [4, 5]
    np.testing.assert_array_equal(last.feeds["image"], CHW[[4, 5, 5, 5]])
    seen = [sample for batch in made.batches(4) for sample in batch.samples.tolist()]
    assert seen == list(range(6))
    assert made.n_batches(6) == 1 and made.n_batches(100) == 1


def test_a_saved_dataset_is_the_dataset(data, tmp_path):
    made = data({"x": CHW, "y": LABELS}, labels="y")
    made.save(tmp_path / "stored")
    made.save(tmp_path / "stored")
    again = Dataset.open(tmp_path / "stored")
    assert again.digest == made.digest and again.labels is not None
    assert again.inputs["image"].tobytes() == made.inputs["image"].tobytes()
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == ["stored"]


# What cannot feed it.


def test_files_that_are_no_archive(tmp_path):
    def load(name: str) -> Dataset:
        return prepare(DataSpec(npz=str(tmp_path / name)), IMAGES)

    assert refusal(load, "none.npz").startswith(f"{tmp_path}/none.npz: no such file.")
    np.savez(tmp_path / "whole.npz", x=CHW)
    whole = (tmp_path / "whole.npz").read_bytes()
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        assert "cannot be read as npz" in refusal(load, "cut.npz"), cut
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    assert "cannot be read as npz" in refusal(load, "text.npz")
    np.save(tmp_path / "single.npy", CHW)
    assert "holds a single array" in refusal(load, "single.npy")
    (tmp_path / "folder.npz").mkdir()
    assert "folder.npz" in refusal(load, "folder.npz")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_archive_never_feeds_in_silence(tmp_path, compressed):
    """One byte is changed, everywhere in turn: refused, or the numbers are those saved."""
    path = tmp_path / "rows.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=CHW[:1])
    whole = bytearray(path.read_bytes())
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            made = prepare(DataSpec(npz=str(path)), IMAGES)
        except RequestError as error:
            assert str(path) in error.line()
        else:
            np.testing.assert_array_equal(made.inputs["image"], CHW[:1])


def test_pickles_are_never_loaded(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    assert "pickle" in refusal(prepare, DataSpec(npz=str(path)), IMAGES)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x80\x04N.")
    assert str(path) in refusal(prepare, DataSpec(npz=str(path)), IMAGES)


@pytest.mark.parametrize(
    ("arrays", "options", "told"),
    [
        ({"z": CHW}, {}, r"rows.npz: no array 'x'\. Hint: .*z"),
        ({"xs": CHW}, {"inputs": {"image": "x"}}, "no array 'x'. Hint: did you mean 'xs'?"),
        (
            {"x": CHW},
            {"inputs": {"imagee": "x"}},
            "data.inputs: the model has no input 'imagee'. Hint: did you mean 'image'?",
        ),
        ({"x": CHW[:, :2]}, {}, r"x: rows have shape (2, 4, 5), input 'image' takes (3, 4, 5)."),
        ({"x": CHW.transpose(0, 2, 3, 1)}, {}, "rows have shape (4, 5, 3)"),
        ({"x": CHW.reshape(6, -1)}, {}, "rows have shape (60)"),
        ({"x": CHW[0, 0, 0, 0]}, {}, "has no samples"),
        ({"x": CHW[:0]}, {}, "has no samples"),
        ({"x": np.where(CHW > 2, np.nan, CHW)}, {}, "NaN or infinite values"),
        ({"x": np.where(CHW > 2, np.inf, CHW)}, {}, "NaN or infinite values"),
        ({"x": CHW.astype(float) * 1e300}, {}, "float32"),
        ({"x": CHW.astype(np.complex64)}, {}, "has dtype complex64"),
        ({"x": CHW.astype(str)}, {}, "has dtype <U"),
        ({"x": CHW}, {"labels": "y"}, "no array 'y'"),
        ({"x": CHW, "y": LABELS - 1}, {"labels": "y"}, "label -1 is negative"),
        ({"x": CHW, "y": LABELS[:5]}, {"labels": "y"}, "5 labels for 6 samples"),
        ({"x": CHW, "y": LABELS.astype(float)}, {"labels": "y"}, "float64"),
        ({"x": CHW, "y": np.eye(6, dtype=int)}, {"labels": "y"}, "shape (6, 6)"),
        ({"x": CHW}, {"preprocess": {"mean": [1, 2]}}, "list 2 channels, the array has 3"),
        ({"x": CHW[0]}, {"preprocess": {"layout": "NHWC->NCHW"}}, "needs 4 dimensions, not 3"),
    ],
)
def test_arrays_that_do_not_fit(data, arrays, options, told):
    line = refusal(data, arrays, **options)
    assert told in line or re.search(told, line), line


def test_integers_that_the_model_cannot_hold_are_refused(data):
    """Else 300 would arrive as 44."""
    signature = (TensorSpec("pixels", (None, 2), "uint8"),)
    assert "uint8" in refusal(data, {"x": np.array([[300, 1]])}, signature)
    assert "uint8" in refusal(data, {"x": np.array([[-1, 1]])}, signature)
    assert data({"x": np.array([[255, 0]])}, signature).inputs["pixels"].tolist() == [[255, 0]]


def test_real_numbers_for_an_integer_input_are_refused(data):
    arrays = {"ids": np.ones((2, 3)), "mask": np.ones((2, 3), int)}
    assert "is float64, the model takes int64" in refusal(data, arrays, IDS)


def test_an_input_without_an_array_is_refused(data):
    assert "model input 'mask' has no array" in refusal(
        data, {"ids": LABELS}, IDS, inputs={"ids": "ids"}
    )
    unequal = {"ids": np.ones((2, 3), int), "mask": np.ones((3, 3), int)}
    assert "differ in length" in refusal(data, unequal, IDS)


def test_calibration_that_does_not_fit_is_refused(data, tmp_path):
    calibration = tmp_path / "calibration.npz"
    assert "calibration.npz: no such file" in refusal(
        data, {"x": CHW}, calibration=str(calibration)
    )
    np.savez(calibration, x=CHW[:, :2])
    line = refusal(data, {"x": CHW}, calibration=str(calibration))
    assert "calibration.npz: x: rows have shape (2, 4, 5)" in line
    np.savez(calibration, other=CHW)
    assert "calibration.npz: no array 'x'" in refusal(
        data, {"x": CHW}, calibration=str(calibration)
    )
