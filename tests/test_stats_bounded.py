"""Betting intervals: against a literal reading of the paper, and by simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hwbench.stats import (
    betting_interval,
    betting_sequence,
    crossed_mean_interval,
    minimum_patterns,
)
from hwbench.stats.bounded import sums

TOLERANCE = 5e-6


def hedged_capital(values, mean, alpha, *, anytime):
    """The largest of both gamblers' capital, one value after the other, as the paper states it."""
    above = below = best = 1.0
    total, squares, variance = 0.0, 0.0, 0.25
    for count, value in enumerate(values, start=1):
        horizon = count * math.log(count + 1) if anytime else len(values)
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * horizon))
        above *= 1 + min(bet, 0.75 / mean) * (value - mean)
        below *= 1 - min(bet, 0.75 / (1 - mean)) * (value - mean)
        best = max(best, above, below)
        total += value
        squares += (value - (0.5 + total) / (count + 1)) ** 2
        variance = (0.25 + squares) / (count + 1)
    return best


@pytest.mark.parametrize("anytime", [False, True])
@pytest.mark.parametrize("shape", [(0.2, 3.0), (5.0, 5.0), (2.0, 0.1)])
def test_limits_are_where_the_capital_reaches_its_goal(shape, anytime):
    values = np.random.default_rng(5).beta(*shape, 120)
    interval = betting_interval(values, anytime=anytime)
    for limit, outward in ((interval.low, -1), (interval.high, 1)):
        if 0 < limit < 1:
            inside = hedged_capital(values, limit - outward * TOLERANCE, 0.05, anytime=anytime)
            outside = hedged_capital(values, limit + outward * TOLERANCE, 0.05, anytime=anytime)
            assert inside <= 40 <= outside


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_mirrored_and_scaled_values_give_mirrored_and_scaled_limits(values):
    array = np.asarray(values)
    plain = betting_interval(array)
    mirrored = betting_interval(1 - array)
    scaled = betting_interval(6 * array - 2, -2.0, 4.0)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((plain.low, plain.high), abs=1e-5)
    assert ((scaled.low + 2) / 6, (scaled.high + 2) / 6) == pytest.approx(
        (plain.low, plain.high), abs=1e-5
    )


@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.parametrize("draw", ["rare", "uniform"])
def test_betting_interval_covers(n, draw):
    rng = np.random.default_rng(7)
    values = rng.random((1000, n)) if draw == "uniform" else rng.random((1000, n)) < 0.03
    mean = 0.5 if draw == "uniform" else 0.03
    assert np.mean([betting_interval(row).covers(mean) for row in values]) >= 0.95


def test_betting_interval_is_no_wider_than_hoeffdings_and_far_narrower_where_little_varies():
    rng = np.random.default_rng(8)
    hoeffding = 2 * math.sqrt(math.log(2 / 0.05) / (2 * 500))
    assert betting_interval(rng.random(500) < 0.5).width < 1.05 * hoeffding
    assert betting_interval(rng.random(500) < 0.005).width < 0.35 * hoeffding


def test_sequence_covers_at_every_look_at_once():
    rng = np.random.default_rng(9)
    covered = []
    for row in rng.random((300, 150)) < 0.1:
        lower, upper = betting_sequence(row)
        covered.append(np.all((lower <= 0.1) & (upper >= 0.1)))
    assert np.mean(covered) >= 0.95


def test_sequence_only_draws_closer_and_ends_at_the_anytime_interval():
    values = np.random.default_rng(10).random(5000) < 0.3  # more than one block of the grid
    lower, upper = betting_sequence(values)
    last = betting_interval(values, anytime=True)
    assert np.all(np.diff(lower) >= 0)
    assert np.all(np.diff(upper) <= 0)
    assert 0 <= last.low - lower[-1] <= 1 / 256
    assert 0 <= upper[-1] - last.high <= 1 / 256
    for count in (10, 4096, 4097):
        early = betting_interval(values[:count], anytime=True)
        assert lower[count - 1] == pytest.approx(early.low, abs=1 / 256)


def heavy_tailed(rng, patterns, samples):
    """0/1 damage: 3 % of the patterns spoil most samples, the others next to none.

    Samples differ in how easily they are spoilt. Returns the matrix; the true mean is HEAVY_MEAN.
    """
    bad = rng.random(patterns) < 0.03
    fragile = rng.beta(0.5, 0.5, samples)
    rate = np.where(bad[:, None], 0.7 + 0.3 * fragile, 0.0005)
    return rng.random((patterns, samples)) < rate


HEAVY_MEAN = 0.03 * (0.7 + 0.3 * 0.5) + 0.97 * 0.0005


@pytest.mark.parametrize(("patterns", "width"), [(20, 0.35), (50, 0.2), (200, 0.11)])
def test_crossed_interval_covers_where_few_patterns_do_the_damage(patterns, width):
    rng = np.random.default_rng(patterns)
    intervals = [crossed_mean_interval(heavy_tailed(rng, patterns, 200), 0, 1) for _ in range(300)]
    assert np.mean([each.covers(HEAVY_MEAN) for each in intervals]) >= 0.93
    assert np.median([each.width for each in intervals]) < width  # and it says something


def test_a_t_interval_over_five_patterns_does_not():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(1000):
        means = heavy_tailed(rng, 5, 100).mean(axis=1)
        reach = stats.t.ppf(0.975, 4) * means.std(ddof=1) / math.sqrt(5)
        covered.append(abs(means.mean() - HEAVY_MEAN) <= reach)
    assert np.mean(covered) < 0.6


@pytest.mark.parametrize("samples", [30, 300])
def test_crossed_interval_covers_where_samples_and_patterns_both_vary(samples):
    """Correctness lost and gained, -1, 0 or 1: a few fragile samples, patterns of all strengths."""
    rng = np.random.default_rng(samples)
    covered = []
    for _ in range(300):
        strength, fragile = rng.beta(0.3, 2.0, (40, 1)), rng.random(samples) < 0.1
        hit = rng.random((40, samples)) < strength * np.where(fragile, 1.0, 0.05)
        change = np.where(rng.random((40, samples)) < 0.8, -1, 1) * hit
        covered.append(crossed_mean_interval(change, -1, 1).covers(-0.6 * 0.3 / 2.3 * 0.145))
    assert np.mean(covered) >= 0.93


def test_crossed_interval_holds_its_estimate_and_does_not_mind_the_order_of_classes():
    rng = np.random.default_rng(2)
    values = heavy_tailed(rng, 60, 400)
    ordered = values[:, np.argsort(values.mean(axis=0))]
    plain, sorted_by_damage = (crossed_mean_interval(each, 0, 1) for each in (values, ordered))
    assert plain.covers(float(values.mean()))
    assert sorted_by_damage.width == pytest.approx(plain.width, rel=0.1)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_too_few_patterns_are_refused_exactly_where_the_interval_says_nothing(confidence):
    fewest = minimum_patterns(confidence)
    agreeing = np.zeros((fewest, 5000))
    assert crossed_mean_interval(agreeing[:-1], 0, 1, confidence) is None
    assert crossed_mean_interval(agreeing, 0, 1, confidence) is not None
    part = 1 - (1 - confidence) / 2
    for value in (0.0, 0.3, 0.5, 1.0):
        assert betting_interval(np.full(fewest - 1, value), confidence=part).width > 0.5
    assert betting_interval(np.zeros(fewest), confidence=part).width < 0.5


@pytest.mark.parametrize(
    "call",
    [
        lambda: betting_interval([]),
        lambda: betting_interval([0.2, 1.2]),
        lambda: betting_interval([0.2, math.nan]),
        lambda: betting_interval([0.2], 1.0, 0.0),
        lambda: betting_interval([0.2], confidence=95),
        lambda: crossed_mean_interval(np.zeros(20), 0, 1),
        lambda: crossed_mean_interval(np.zeros((20, 0)), 0, 1),
    ],
)
def test_wrong_bounds_and_shapes_are_refused(call):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        call()


@pytest.mark.parametrize("value", [-128, -1, 1, 127])
def test_sums_of_many_bytes_do_not_overflow(value):
    values = np.full((700, 300), value, np.int8)
    values[5, 7] = 0
    for axis in (0, 1):
        assert (sums(values, axis) == values.sum(axis=axis, dtype=np.int64)).all()
