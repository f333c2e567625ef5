"""Analog weights: moments by the published formulas, and the way into stored bits."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench import edits, values
from hwbench.backend import Site
from hwbench.case import Case, Layer
from hwbench.seeds import Key
from hwbench.worker import perturb
from hwbench_scenarios.analog import (
    Conductance,
    Pcm,
    PcmDraw,
    conductance_at,
    drift_exponent,
    programming_sigma,
    read_sigma,
)
from hwbench_scenarios.bitflip import BitFlip
from hwbench_scenarios.noise import Noise

N = 400_000
KEY = Key.of_pattern(1, {"name": "pcm"}, 0)


def weights(dtype="float32", shape=(8, 6, 3, 3)):
    drawn = np.random.default_rng(0).normal(size=shape)
    if dtype == "int8":
        return np.rint(drawn * 40).clip(-127, 127).astype(np.int8)
    if dtype == "bfloat16":
        return (drawn.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return drawn.astype(dtype)


def site(dtype="float32", shape=(8, 6, 3, 3), **more):
    return Site("w", "weight", dtype, shape, **more)


@pytest.mark.parametrize("g", [0.25, 0.5, 1.0])
def test_programming_noise_has_the_published_deviation(g):
    draw = PcmDraw.of((N,), KEY)
    quiet = PcmDraw(draw.programming, np.zeros(N), np.zeros(N))
    programmed = conductance_at(np.full(N, g), 20.0, 20.0, quiet)
    sigma_us = max(-1.1731 * g**2 + 1.9650 * g + 0.2635, 0)
    assert programmed.std() * 25 == pytest.approx(sigma_us, rel=0.01)
    assert programmed.mean() == pytest.approx(g, rel=0.01)


@pytest.mark.parametrize("g", [0.3, 0.7])
@pytest.mark.parametrize("time_s", [3600.0, 3.2e7])
def test_drift_and_read_noise_have_the_published_moments(g, time_s):
    draw = PcmDraw.of((N,), KEY)
    quiet = PcmDraw(np.zeros(N), draw.drift, np.zeros(N))
    drifted = np.log(conductance_at(np.full(N, g), time_s, 20.0, quiet) / g)
    mean = np.clip(-0.0155 * np.log(g) + 0.0244, 0.049, 0.1)
    deviation = np.clip(-0.0125 * np.log(g) - 0.0059, 0.008, 0.045)
    assert -drifted.mean() / np.log(time_s / 20) == pytest.approx(mean, rel=0.01)
    assert drifted.std() / np.log(time_s / 20) == pytest.approx(deviation, rel=0.01)
    still = PcmDraw(np.zeros(N), np.zeros(N), draw.read)
    read = conductance_at(np.full(N, g), time_s, 20.0, still)
    q = min(0.0088 / g**0.65, 0.2)
    sigma = q * np.sqrt(np.log((time_s + 250e-9) / (2 * 250e-9)))
    assert read.std() / read.mean() == pytest.approx(sigma, rel=0.01)


def test_formulas_hold_at_their_ends():
    ends = np.array([0.0, 1.0])
    assert programming_sigma(ends) * 25 == pytest.approx([0.2635, 1.0554])
    mean, deviation = drift_exponent(ends)
    assert mean.tolist() == [0.1, 0.049]
    assert deviation.tolist() == [0.045, 0.008]
    assert np.isfinite(read_sigma(ends, 1e9)).all()


def test_time_harms_and_calibration_helps():
    stored = weights().astype(np.float64)
    found = {}
    for compensate in (False, True):
        for time_s in (20.0, 3600.0, 3e7):
            chip = Pcm(time_s=time_s, compensate=compensate)
            key = Key.of_pattern(1, chip.identity, 0)
            found[compensate, time_s] = chip.achieved(stored, chip.rewrite(site(), stored, key))
    assert found[False, 20.0] > found[False, 3600.0] > found[False, 3e7]
    assert found[True, 3e7] > found[False, 3e7] + 3
    assert found[True, 20.0] == pytest.approx(found[False, 20.0])  # the same chip


def test_a_tensor_of_zeros_stays():
    zeros = np.zeros((2, 3))
    for scenario in (Pcm(time_s=20.0), Conductance(levels=4)):
        assert not scenario.rewrite(site(shape=(2, 3)), zeros, KEY).any()


def test_conductance_levels_are_counted():
    stored = np.linspace(-1, 1, 10_001)
    made = Conductance(levels=16).rewrite(site(shape=stored.shape), stored, KEY)
    assert len(np.unique(made.round(9))) == 31  # five bits, zero counted once
    assert np.abs(made - stored).max() <= 0.5 / 15 + 1e-12


def test_channels_have_ranges_of_their_own():
    stored = np.array([[1.0, 0.6], [0.1, 0.06]])
    both = {per: Conductance(levels=3, per=per) for per in ("tensor", "channel")}
    made = {per: each.rewrite(site(shape=(2, 2)), stored, KEY) for per, each in both.items()}
    assert made["tensor"].tolist() == [[1.0, 0.5], [0.0, 0.0]]
    np.testing.assert_allclose(made["channel"], [[1.0, 0.5], [0.1, 0.05]])


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16", "int8"])
def test_stored_bits_survive_decoding_and_encoding(dtype):
    stored = weights(dtype)
    again = values.encode(values.decode(stored, site(dtype)), site(dtype))
    assert again.dtype == stored.dtype
    assert again.tobytes() == stored.tobytes()


def test_bfloat16_rounds_to_nearest_even():
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20])
    back = values.decode(values.encode(ties, site("bfloat16")), site("bfloat16"))
    assert back.tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


SCENARIOS = [Pcm(time_s=3600.0), Conductance(levels=8), Noise(snr_db=20.0, target="weights")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_drawn_edits_write_the_new_values(scenario, dtype):
    stored, where = weights(dtype), site(dtype)
    case = Case("x", (Layer(scenario),))
    drawn, achieved = perturb.draw(case, 0, [where], perturb.Which(3, 1), lambda name: stored)
    new = values.decode(edits.apply(stored, drawn), where)
    old = values.decode(stored, where)
    measured = 10 * np.log10(np.square(old).sum() / np.square(new - old).sum())
    assert achieved == pytest.approx(measured)
    if scenario.name == "noise" and dtype == "float32":
        assert achieved == pytest.approx(20.0, abs=1e-4)
    assert (drawn.op == edits.Op.WRITE).all()
    again, _ = perturb.draw(case, 0, [where], perturb.Which(3, 1), lambda name: stored)
    other, _ = perturb.draw(case, 0, [where], perturb.Which(3, 2), lambda name: stored)
    assert again.digest() == drawn.digest()
    assert (other.digest() == drawn.digest()) == (scenario.name == "conductance")


def test_unsigned_codes_are_refused():
    where, stored = site("uint8"), np.zeros((8, 6, 3, 3), np.uint8)
    with pytest.raises(ValueError, match="zero point"):
        perturb.draw(
            Case("x", (Layer(Pcm(time_s=20.0)),)),
            0,
            [where],
            perturb.Which(0, 0),
            lambda name: stored,
        )


def test_a_stack_writes_what_earlier_layers_left():
    """Values are read with the flips of the layer before in them, and do not undo these."""
    stored, where = weights("int8"), site("int8")
    flips, _ = perturb.draw(Case("x", (Layer(BitFlip(count=40)),)), 0, [where], perturb.Which(0, 0))
    case = Case("y", (Layer(BitFlip(count=40)), Layer(Conductance(levels=2000))))
    read = perturb.after(lambda name: stored, [flips])
    drawn, _ = perturb.draw(case, 1, [where], perturb.Which(0, 0), read)
    both = edits.apply(edits.apply(stored, flips), drawn)
    flipped = edits.apply(stored, flips)
    kept = flipped != -128  # symmetric codes have no -128
    np.testing.assert_array_equal(both[kept], flipped[kept])
