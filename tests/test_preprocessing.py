"""Drift of pre-processing: known pixels, known kernels, and what cannot be had."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import yaml

from hwbench.backend import TensorSpec
from hwbench.errors import RequestError
from hwbench.seeds import Key
from hwbench.spec.cases import expand
from hwbench_scenarios import preprocessing
from hwbench_scenarios.corruption import Jpeg
from hwbench_scenarios.preprocessing import Colour, Resize

KEY = Key.of_pattern(7, {"name": "x"}, 0)
RGB = TensorSpec("x", (None, 3, 32, 32), "float32")
opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="OpenCV is not installed")
MODES = ("bgr", "expanded", "compressed", "nv12", "bt709")


def pixels(shape=(2, 3, 32, 32)):
    rng = np.random.default_rng(1)
    smooth = rng.uniform(0, 255, (*shape[:2], 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    return np.rint(smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.float32)


def made(scenario, array):
    return scenario.transform(array, np.arange(len(array)), KEY)[0]


def colour(mode, array):
    return made(Colour(mode=mode, low=0.0, high=255.0), array)


def test_bgr_swaps_and_swaps_back():
    picture = pixels()
    swapped = colour("bgr", picture)
    assert (swapped == picture[:, ::-1]).all()
    assert (colour("bgr", swapped) == picture).all()


def test_ranges_map_their_ends():
    ends = np.tile(np.array([0, 16, 235, 255], np.float32), (1, 3, 32, 8))
    assert colour("expanded", ends)[0, 0, 0, :4].tolist() == [0, 0, 255, 255]
    assert colour("compressed", ends)[0, 0, 0, [0, 3]].tolist() == [16, 235]
    back = colour("expanded", colour("compressed", pixels()))
    assert np.abs(back - pixels()).max() <= 1


def test_grey_has_no_chroma_to_lose():
    grey = pixels((2, 1, 32, 32)).repeat(3, axis=1)
    for mode in ("nv12", "bt709"):
        assert (colour(mode, grey) == grey).all()


def test_nv12_keeps_luma_and_flat_colours_and_averages_the_rest():
    flat = np.broadcast_to(np.array([200, 30, 90], np.float32)[None, :, None, None], (1, 3, 16, 16))
    assert np.abs(colour("nv12", flat.copy()) - flat).max() <= 2
    stripes = np.zeros((1, 3, 16, 16), np.float32)
    stripes[:, 0, :, ::2] = stripes[:, 2, :, 1::2] = 128  # red and blue by turns
    found = colour("nv12", stripes)
    luma = np.array([0.299, 0.587, 0.114]) @ stripes.reshape(3, -1)
    assert np.abs(np.array([0.299, 0.587, 0.114]) @ found.reshape(3, -1) - luma).mean() < 12
    assert found[0, 0].std() < stripes[0, 0].std() / 1.5


def test_bt709_is_exact_where_bt601_says_so():
    """Pure red by BT.601, decoded by BT.709's formula, by hand."""
    red = np.zeros((1, 3, 16, 16), np.float32)
    red[:, 0] = 200
    luma = round(0.299 * 200)
    cb, cr = round(128 - 0.299 * 200 / 1.772), round(128 + 0.701 * 200 / 1.402)
    r = luma + 1.5748 * (cr - 128)
    b = luma + 1.8556 * (cb - 128)
    g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
    expected = np.rint(np.clip([r, g, b], 0, 255))
    assert colour("bt709", red)[0, :, 3, 3] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("kernel", ["pillow-nearest", "pillow-bilinear", "pillow-box"])
def test_resizing_by_pillow_keeps_flat_pictures(kernel):
    flat = np.full((1, 3, 32, 32), 77, np.float32)
    assert (made(Resize(scale=2.0, kernel=kernel, low=0.0, high=255.0), flat) == flat).all()


@opencv
def test_kernels_of_a_name_differ_between_libraries():
    picture = pixels()
    found = {
        kernel: made(Resize(scale=2.5, kernel=kernel, low=0.0, high=255.0), picture)
        for kernel in ("pillow-bilinear", "opencv-linear", "pillow-nearest", "opencv-nearest")
    }
    assert np.abs(found["pillow-bilinear"] - found["opencv-linear"]).max() > 1
    assert found["pillow-nearest"].tobytes() != found["opencv-nearest"].tobytes()


@opencv
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 32, 32), (1, 32, 32)], ids=str)
def test_opencv_reads_what_pillow_wrote(shape):
    picture = pixels((1, shape[1] if len(shape) == 4 else 1, 32, 32)).reshape(shape)
    read = [
        made(Jpeg(quality=90, decoder=each, low=0.0, high=255.0), picture)
        for each in ("pillow", "opencv")
    ]
    assert np.abs(read[0] - read[1]).mean() < 2  # the same libjpeg, or nearly


@pytest.mark.parametrize("mode", MODES)
def test_grey_inputs_have_no_colours(mode):
    refusal = Colour(mode=mode).refuses(TensorSpec("x", (None, 1, 32, 32), "float32"))
    assert ("three colours" in refusal) is (mode not in ("expanded", "compressed"))
    assert not Colour(mode=mode).refuses(RGB)


def test_a_missing_library_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(preprocessing, "find_spec", lambda name: None if name == "cv2" else name)
    assert "hwbench[opencv]" in Resize(scale=2.0, kernel="opencv-area").refuses(RGB)
    assert not Resize(scale=2.0, kernel="pillow-box").refuses(RGB)


def test_examples_work_and_modes_have_no_severity():
    cases = expand([yaml.safe_load(Colour.example), yaml.safe_load(Resize.example)])
    assert [case.severity for case in cases[1:6]] == [None] * 5
    assert cases[1].id == "colour-bgr-inputs"
    assert len({case.id for case in cases}) == 12
    assert [case.id for case in expand([{"colour": "bgr"}])][1] == "colour-bgr-inputs"
    stacked = expand([[{"colour": "bgr"}, {"resize": {"scale": [2, 3]}}]])
    assert stacked[1].id == "colour-bgr-inputs+resize-opencv-linear-inputs@scale=2"


@pytest.mark.parametrize("entry", [{"bitflip": 3}, {"resize": {"scale": 1}}, {"colour": "rgb"}])
def test_what_means_nothing_is_refused(entry):
    with pytest.raises(RequestError):
        expand([entry])
