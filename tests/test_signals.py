"""Noise, converters, sensors and corruptions: how much was done, on what, and always the same."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args, get_type_hints

import numpy as np
import pytest
import yaml

from hwbench import registry
from hwbench.backend import TensorSpec
from hwbench.errors import RequestError
from hwbench.seeds import Key
from hwbench.spec.cases import expand
from hwbench_scenarios.converter import Adc, Clipping, Jitter
from hwbench_scenarios.corruption import Corruption, Jpeg
from hwbench_scenarios.imagec import CORRUPTIONS
from hwbench_scenarios.noise import Noise
from hwbench_scenarios.sensor import Defects, Loss

KINDS = get_args(get_type_hints(Noise)["kind"])
KEY = Key.of_pattern(7, {"name": "x"}, 0)
SHAPES = [(3, 3, 20, 18), (3, 20, 18, 1), (3, 400), (3, 1, 400), (3, 2, 400), (3, 49, 10)]


def made(scenario, array, samples=None):
    samples = np.arange(len(array)) if samples is None else np.asarray(samples)
    return scenario.fit(array).transform(array, samples, KEY)


def images(shape=(4, 3, 32, 32)):
    """Smooth 8-bit images with some texture."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[: shape[2], : shape[3]] / shape[2]
    wave = np.sin(7 * rows + 5 * columns + rng.uniform(0, 6, (*shape[:2], 1, 1)))
    return np.rint(127 + 90 * wave + 20 * rng.standard_normal(shape)).clip(0, 255).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr_db", [40.0, 10.0, -5.0])
def test_achieved_snr_is_the_asked_one(kind, snr_db):
    signal = np.random.default_rng(0).normal(0.3, 1.0, (1, 1, 1000, 1000)).astype(np.float32)
    noisy, achieved = made(Noise(snr_db=snr_db, kind=kind), signal)
    difference = noisy.astype(np.float64) - signal
    measured = 10 * np.log10(np.mean(np.square(signal, dtype=float)) / np.mean(difference**2))
    assert measured == pytest.approx(snr_db, abs=0.05)
    assert achieved[0] == pytest.approx(measured, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_one_direction_at_all_severities(kind):
    signal = np.random.default_rng(1).normal(0.2, 1.0, (2, 1, 40, 50))
    little, much = (made(Noise(snr_db=db, kind=kind), signal)[0] - signal for db in (40.0, 20.0))
    if kind == "impulse":
        assert set(np.flatnonzero(little)) <= set(np.flatnonzero(much))
    else:
        np.testing.assert_allclose(much, 10 * little, rtol=1e-9, atol=1e-12)


def test_noise_through_a_linear_layer_keeps_its_snr():
    rng = np.random.default_rng(2)
    signal = rng.standard_normal((1, 200_000))
    noisy, _ = made(Noise(snr_db=15.0), signal)
    weight = rng.standard_normal((400, 500)) / np.sqrt(500)  # mixes 500 inputs into 400 outputs
    clean, hit = ((each.reshape(-1, 500) @ weight.T) for each in (signal, noisy))
    assert 10 * np.log10(np.mean(clean**2) / np.mean((hit - clean) ** 2)) == pytest.approx(
        15, abs=0.1
    )


def test_tensor_convention_is_one_noise_floor():
    signal = np.random.default_rng(4).standard_normal((3, 5000)) * [[1.0], [2.0], [0.0]]
    noisy, achieved = made(Noise(snr_db=20.0, convention="tensor"), signal)
    floor = np.square(noisy - signal).mean(axis=1)
    np.testing.assert_allclose(floor, np.mean(np.square(signal)) / 100)
    np.testing.assert_allclose(achieved, 20.0)


def test_sample_convention_leaves_silence_alone():
    noisy, achieved = made(Noise(snr_db=20.0), np.zeros((1, 8), np.float32))
    assert not noisy.any()
    assert np.isnan(achieved[0])


def test_gaussian_noise_is_keyed_as_ever():
    """The key of a sweep's Gaussian noise names no kind, so that its bytes outlive new kinds."""
    assert Noise(snr_db=3.0).identity == {"name": "noise", "target": "inputs", "snr_db": None}
    signal = np.ones((1, 16))
    expected = KEY.generator(5).standard_normal(16)
    found = made(Noise(snr_db=0.0), signal, [5])[0] - signal
    np.testing.assert_allclose(found[0], expected / np.sqrt(np.mean(expected**2)))


SCENARIOS = [
    *(Noise(snr_db=12.0, kind=kind) for kind in KINDS),
    Noise(snr_db=12.0, convention="tensor"),
    Adc(enob=3.5),
    Clipping(percent=30.0),
    Jitter(rms=1.5),
    Defects(share=0.1, kind="stuck"),
    Loss(share=0.3, packet=3, burst=2.0, fill="hold"),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.name}-{s.variant}")
def test_bytes_do_not_depend_on_the_batch(scenario, shape):
    array = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    if scenario.refuses(TensorSpec("x", (None, *shape[1:]), "float32")):
        assert getattr(scenario, "kind", "") == "line"
        return
    fitted = scenario.fit(array)
    whole = fitted.transform(array, np.arange(3), KEY)[0]
    parts = [fitted.transform(array[i : i + 1], np.array([i]), KEY)[0] for i in (2, 0, 1)]
    assert whole.tobytes() == np.concatenate([parts[1], parts[2], parts[0]]).tobytes()
    assert whole.dtype == array.dtype
    assert whole.tobytes() != array.tobytes()


def test_bytes_do_not_depend_on_the_process():
    code = (
        "import numpy as np, hashlib\n"
        "from hwbench.seeds import Key\n"
        "from hwbench_scenarios.corruption import Corruption\n"
        "x = np.arange(3 * 32 * 32, dtype='float32').reshape(1, 3, 32, 32) % 256\n"
        "s = Corruption(level=3, kind='fog', low=0.0, high=255.0)\n"
        "y, _ = s.transform(x, np.array([4]), Key.of_pattern(7, s.identity, 0))\n"
        "print(hashlib.sha256(y.tobytes()).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            for _ in range(2)]  # fmt: skip
    assert runs[0].stdout == runs[1].stdout != b""


def test_converter_bits_are_effective_bits():
    sine = np.sin(np.linspace(0, 200 * np.pi, 100_000))[None]
    for bits in (4.0, 8.0, 6.5):
        coded, achieved = made(Adc(enob=bits, low=-1.0, high=1.0), sine)
        assert achieved[0] == pytest.approx(bits, abs=0.1)
        assert len(np.unique(coded)) <= 2**bits + 2


def test_clipping_cuts_the_range():
    ramp = np.linspace(0, 1, 1001)[None]
    clipped, share = made(Clipping(percent=20.0, side="top"), ramp)
    assert clipped.max() == pytest.approx(0.8)
    assert clipped.min() == 0
    assert share[0] == pytest.approx(20, abs=0.2)


def test_jitter_shifts_a_ramp_by_its_errors():
    ramp = np.arange(10_000.0)[None]
    moved, rms = made(Jitter(rms=0.3), ramp)
    assert (moved - ramp).std() == pytest.approx(0.3, rel=0.05)
    assert rms[0] == pytest.approx(0.3, rel=0.05)
    picture = np.tile(np.arange(64.0), (1, 1, 48, 1))
    rows = made(Jitter(rms=0.3), picture)[0] - picture
    assert np.ptp(rows[0, 0, :, 10:50], axis=-1).max() < 1e-9  # each row moves as a whole


def test_defects_are_one_sensor_and_nested():
    pictures = images()
    few, many = (made(Defects(share=s, kind="dead"), pictures)[0] for s in (0.05, 0.2))
    hit = [(each != pictures) for each in (few, many)]
    assert not (hit[0] & ~hit[1]).any()
    everywhere = (many == pictures.min()).all(axis=(0, 1))  # the same pixels, in all colours
    assert everywhere.sum() >= round(0.2 * 32 * 32)


@pytest.mark.parametrize("fill", ["zero", "hold"])
def test_lost_packets_are_exact_and_nested(fill):
    audio = np.random.default_rng(6).uniform(1, 2, (2, 1, 1000))
    parameters = {"packet": 10, "burst": 3.0, "fill": fill}
    few, many = (made(Loss(share=s, **parameters), audio) for s in (0.1, 0.4))
    lost = [(each[0] != audio)[:, 0].reshape(2, 100, 10).any(-1) for each in (few, many)]
    assert many[1].tolist() == [0.4, 0.4]
    assert not (lost[0] & ~lost[1]).any()
    assert lost[1].sum(axis=1).tolist() == [40, 40]


TEXTS = {
    "token ids": (Noise(snr_db=1.0), (None, 20), "int64", "token ids"),
    "line of a vector": (Noise(snr_db=1.0, kind="line"), (None, 20), "float32", "rows"),
    "no layout": (Adc(enob=3.0), (None, 8, 9, 10, 11), "float32", "(?, 8, 9, 10, 11)"),
    "channels of a vector": (Defects(share=0.1, of="channels"), (None, 9), "float32", "channels"),
    "corrupted audio": (Corruption(level=1), (None, 1, 16000), "float32", "series"),
    "small image": (Corruption(level=1), (None, 1, 8, 8), "float32", "8 x 8"),
    "RGBA": (Jpeg(quality=75), (None, 4, 64, 64), "float32", "4 channels"),
    "corrupted tokens": (Jpeg(quality=75), (None, 20), "int32", "token ids"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_refusals_say_why(case):
    scenario, shape, dtype, word = TEXTS[case]
    text = scenario.refuses(TensorSpec("x", shape, dtype))
    assert word in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "wrong",
    [
        (Noise, {"snr_db": 999.0}),
        (Noise, {"snr_db": 10.0, "kind": "hum", "target": "weights"}),
        (Noise, {"snr_db": 10.0, "power": 1.0}),
        (Adc, {"enob": 0.0}),
        (Clipping, {"percent": 101.0}),
        (Defects, {"share": 1.5}),
        (Loss, {"share": 0.1, "burst": 0.5}),
        (Corruption, {"level": 6}),
        (Jpeg, {"quality": 100}),
        (Adc, {"enob": 4.0, "low": 1.0, "high": 0.0}),
    ],
)
def test_values_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError):
        wrong[0](**wrong[1])


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruption_grows_and_repeats(kind):
    pictures = images()
    psnr = []
    for level in range(1, 6):
        scenario = Corruption(level=level, kind=kind, low=0.0, high=255.0)
        changed, found = scenario.transform(pictures, np.arange(4), KEY)
        assert changed.tobytes() == scenario.transform(pictures, np.arange(4), KEY)[0].tobytes()
        assert np.all((changed >= 0) & (changed <= 255) & (changed == np.rint(changed)))
        psnr.append(np.nanmean(found))
    assert np.isfinite(psnr).all()
    # Published severities are ordered by what they do to a classifier, not by PSNR.
    if kind not in ("snow", "glass_blur", "elastic_transform", "frost"):
        assert psnr == sorted(psnr, reverse=True)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW"])
def test_layouts_see_the_same_picture(layout):
    grey = images((2, 1, 40, 24))
    laid = {"NCHW": grey, "NHWC": grey.transpose(0, 2, 3, 1), "NHW": grey[:, 0]}[layout]
    scenario = Corruption(level=2, kind="motion_blur", low=0.0, high=255.0)
    changed, _ = scenario.transform(laid, np.arange(2), KEY)
    expected, _ = scenario.transform(grey, np.arange(2), KEY)
    assert changed.reshape(2, 40, 24).tobytes() == expected[:, 0].tobytes()


def test_large_images_take_the_large_constants():
    picture = images((1, 3, 128, 128))
    auto, large, small = (
        made(Corruption(level=1, kind="gaussian_noise", scale=s, low=0.0, high=255.0), picture)
        for s in ("auto", "imagenet", "cifar")
    )
    found = [each[1][0] for each in (auto, large, small)]
    assert found[0] == pytest.approx(found[1], abs=0.5)
    assert found[2] > found[1] + 5


def test_subsampling_costs_more():
    colourful = images()
    fine, coarse = (made(Jpeg(quality=75, subsampling=s), colourful)[1].mean()
                    for s in ("4:4:4", "4:2:0"))  # fmt: skip
    assert fine > coarse


NAMES = (
    *("adc", "bitflip", "clipping", "conductance", "corruption", "defects"),
    *("jitter", "jpeg", "loss", "noise", "pcm"),
)


@pytest.mark.parametrize("name", NAMES)
def test_examples_work(name):
    kind = registry.scenario(name)
    cases = expand([yaml.safe_load(kind.example)])
    assert len(cases) > 1
    assert len({case.id for case in cases}) == len(cases)


def test_a_wrong_kind_names_the_known_ones():
    with pytest.raises(RequestError, match="gaussian"):
        expand([{"noise": {"kind": "gausian", "snr_db": 3}}])
