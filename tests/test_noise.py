"""Noise: the asked ratio for every sample, the same bytes however the samples are batched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.backend import TensorSpec
from hwbench.seeds import Key
from hwbench_scenarios.noise import Noise

KEY = Key.of_pattern(0, {"name": "noise"}, 0)
ROWS = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
ROWS[3] *= 1e-3  # samples differ in power
ROWS[4] += 100
SAMPLES = np.arange(16, dtype=np.int64)


def snr_db(clean, noisy):
    """Computed afresh, in float64."""
    signal, noise = clean.astype(np.float64), noisy.astype(np.float64) - clean.astype(np.float64)
    axes = tuple(range(1, clean.ndim))
    return 10 * np.log10((signal**2).mean(axis=axes) / (noise**2).mean(axis=axes))


@given(st.floats(-20, 90))
def test_every_sample_has_the_asked_ratio(asked):
    noisy, achieved = Noise(snr_db=asked).transform(ROWS, SAMPLES, KEY)
    np.testing.assert_allclose(snr_db(ROWS, noisy), asked, atol=0.05)
    np.testing.assert_allclose(achieved, snr_db(ROWS, noisy), atol=1e-6)
    assert noisy.dtype == ROWS.dtype and noisy.shape == ROWS.shape


@given(st.lists(st.integers(1, 15), unique=True).map(sorted), st.permutations(range(16)))
def test_bytes_do_not_depend_on_batches_or_order(cuts, order):
    whole, achieved = Noise(snr_db=10).transform(ROWS, SAMPLES, KEY)
    shuffled = np.array(order)
    parts = [
        Noise(snr_db=10).transform(ROWS[part], SAMPLES[part], KEY)
        for part in np.split(shuffled, cuts)
    ]
    assert np.concatenate([part[0] for part in parts]).tobytes() == whole[shuffled].tobytes()
    assert np.concatenate([part[1] for part in parts]).tobytes() == achieved[shuffled].tobytes()


def test_the_direction_is_the_same_at_every_severity():
    clean = ROWS.astype(np.float64)
    twenty, forty = (Noise(snr_db=db).transform(clean, SAMPLES, KEY)[0] - clean for db in (20, 40))
    np.testing.assert_allclose(twenty, 10 * forty, rtol=1e-6, atol=1e-10)


def test_the_noise_is_gaussian_and_of_zero_mean():
    from scipy import stats

    clean = np.ones((1, 20_000))
    noise = Noise(snr_db=0).transform(clean, SAMPLES[:1], KEY)[0] - clean
    assert stats.kstest(noise.reshape(-1), "norm").pvalue > 1e-3


def test_samples_patterns_and_keys_are_drawn_apart():
    clean = np.ones((2, 50))
    one = Noise(snr_db=0).transform(clean, SAMPLES[:2], KEY)[0]
    other = Noise(snr_db=0).transform(clean, SAMPLES[:2], Key.of_pattern(0, {"name": "noise"}, 1))[
        0
    ]
    assert not np.allclose(one[0], one[1]) and not np.allclose(one, other)


def test_a_silent_sample_stays_silent():
    noisy, achieved = Noise(snr_db=0).transform(np.zeros((1, 4), np.float32), SAMPLES[:1], KEY)
    assert noisy.tolist() == [[0, 0, 0, 0]]
    assert np.isnan(achieved).tolist() == [True]


def test_what_is_achieved_after_rounding_is_told():
    """float16 cannot carry noise 90 dB below the signal: told, not glossed over."""
    rows = ROWS.astype(np.float16)
    noisy, achieved = Noise(snr_db=90).transform(rows, SAMPLES, KEY)
    changed = (noisy != rows).any(axis=(1, 2, 3))
    assert changed.any() and not changed.all()
    np.testing.assert_allclose(achieved[changed], snr_db(rows[changed], noisy[changed]), atol=1e-6)
    assert np.isnan(achieved[~changed]).all()
    assert not np.allclose(achieved[changed], 90, atol=1)


def test_integers_have_no_power():
    assert "real-valued" in Noise(snr_db=0).refuses(TensorSpec("ids", (None, 4), "int64"))
    assert Noise(snr_db=0).refuses(TensorSpec("x", (None, 4), "float16")) == ""


@pytest.mark.parametrize("asked", [float("nan"), float("inf"), -101, 201])
def test_ratios_that_mean_nothing_are_refused(asked):
    with pytest.raises(ValueError, match="between -100 and 200"):
        Noise(snr_db=asked)
