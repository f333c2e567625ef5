"""Strata: allocations against brute force, intervals against exact ones and by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.stats import (
    clopper_pearson,
    neyman,
    normal_quantile,
    proportional,
    stratified_estimate,
    stratified_interval,
    wilson,
)
from hwbench.stats.stratified import limits, shares

LARGE = 10**9
SIZES = st.lists(st.integers(0, 400), min_size=1, max_size=12).filter(any)


def variance(sizes, deviations, trials):
    return sum(
        (size * deviation) ** 2 / max(n, 1e-9)
        for size, deviation, n in zip(sizes, deviations, trials, strict=True)
    )


def test_neyman_has_the_smallest_variance_of_all_allocations():
    sizes, deviations, n = [50, 200, 120], [0.5, 0.1, 0.3], 30
    every = (c for c in itertools.product(range(1, n), repeat=3) if sum(c) == n)
    best = min(variance(sizes, deviations, each) for each in every)
    assert variance(sizes, deviations, neyman(sizes, deviations, n)) <= 1.01 * best


@given(SIZES, st.integers(0, 3000), st.randoms())
def test_allocations_add_up_and_never_exceed_a_stratum(sizes, n, random):
    deviations = [random.choice([0.0, 0.01, 0.5]) for _ in sizes]
    drawn = [random.randint(0, size) for size in sizes]
    given_ = neyman(sizes, deviations, n, drawn)
    assert sum(given_) == min(n, sum(sizes) - sum(drawn))
    assert all(0 <= a <= s - d for a, s, d in zip(given_, sizes, drawn, strict=True))


def test_proportional_is_proportional_and_rounds_by_the_largest_remainder():
    assert proportional([100, 300, 600], 10) == [1, 3, 6]
    assert proportional([10, 10, 10], 4) == [2, 1, 1]
    assert proportional([5, 5], 40) == [5, 5]


def test_earlier_rounds_count():
    assert neyman([1000, 1000], [1, 1], 40, [30, 0]) == [5, 35]


def test_many_campaigns_at_once_are_the_same_as_one_by_one():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 300, (20, 5))
    deviations, drawn = rng.random((20, 5)), rng.integers(0, sizes)
    together = shares(sizes, deviations, 60, drawn)
    for i in range(20):
        alone = neyman(sizes[i].tolist(), deviations[i].tolist(), 60, drawn[i].tolist())
        assert together[i].tolist() == alone


def test_the_estimate_weighs_by_size():
    assert stratified_estimate([900, 100], [0, 5], [10, 10]) == pytest.approx(0.05)
    assert stratified_estimate([900, 100], [0, 0], [10, 0]) is None


@pytest.mark.parametrize("hits", [0, 1, 2, 10, 200, 399, 400])
def test_one_stratum_lies_within_the_exact_interval_and_close_to_it(hits):
    made, exact = (
        stratified_interval([LARGE], [hits], [400], 0.99),
        clopper_pearson(hits, 400, 0.99),
    )
    assert exact.low - 1e-3 <= made.low <= hits / 400 <= made.high <= exact.high + 1e-3
    assert made.width >= 0.86 * exact.width  # what mid-p intervals have, too


def test_with_many_hits_it_is_wilsons():
    made, other = stratified_interval([LARGE], [4000], [10_000]), wilson(4000, 10_000)
    assert (made.low, made.high) == pytest.approx((other.low, other.high), abs=2e-5)


@given(st.integers(0, 300), st.integers(1, 300))
def test_hits_and_misses_mirror_each_other(hits, more):
    trials = hits + more
    made = stratified_interval([1000, 500], [hits, 3], [trials, 40])
    mirrored = stratified_interval([1000, 500], [more, 37], [trials, 40])
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((made.low, made.high), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.floats(0.5, 0.999), st.randoms())
def test_it_holds_the_estimate_and_nests(sizes, confidence, random):
    trials = [random.randint(min(1, size), size) for size in sizes]
    hits = [random.randint(0, n) for n in trials]
    made, wider = (stratified_interval(sizes, hits, trials, c) for c in (confidence, 0.9999))
    estimate = stratified_estimate(sizes, hits, trials)
    assert 0 <= made.low <= estimate + 1e-9
    assert estimate - 1e-9 <= made.high <= 1
    assert wider.low <= made.low + 1e-9
    assert made.high <= wider.high + 1e-9


def test_a_census_is_certain_and_nearly_one_nearly_so():
    assert stratified_interval([70, 30], [7, 0], [70, 30]).width < 1e-9
    assert stratified_interval([700, 300], [70, 0], [690, 300]).width < 0.01


def test_a_stratum_never_looked_at_may_hold_anything():
    made = stratified_interval([800, 200], [0, 0], [800, 0])
    assert (made.low, made.high) == (0.0, pytest.approx(0.2))


def test_splitting_a_stratum_without_hits_does_not_widen_the_interval():
    """Adding stratum intervals by squares makes it sqrt(10) times as wide."""
    whole = stratified_interval([LARGE], [0], [400], 0.99)
    split = stratified_interval([LARGE // 10] * 10, [0] * 10, [40] * 10, 0.99)
    assert whole.high == pytest.approx(split.high, rel=1e-3)


SIZE = np.array([400, 9000, 60_000, 60_000, 300, 2000])
RATE = np.array([0.9, 0.08, 0.0007, 0.0, 0.6, 0.02])


@pytest.mark.parametrize(("n", "rates"), [(600, RATE), (2000, RATE), (2000, 0.2 * RATE)])
def test_coverage_where_some_strata_never_hit(n, rates):
    runs, rng = 4000, np.random.default_rng(n)
    good = np.round(SIZE * rates).astype(np.int64)
    trials = np.asarray(neyman(SIZE.tolist(), np.sqrt(rates * (1 - rates)) + 0.05, n))
    hits = rng.hypergeometric(good, SIZE - good, trials, (runs, SIZE.size))
    sizes, every = np.broadcast_to(SIZE, hits.shape), np.broadcast_to(trials, hits.shape)
    low, high = limits(sizes, hits.astype(float), every, normal_quantile(0.99))
    truth = good.sum() / SIZE.sum()
    assert 0.986 <= np.mean((low <= truth) & (truth <= high)) <= 0.998
    assert np.mean(hits[:, 2] + hits[:, 3] == 0) > 0.3  # strata without a hit are among them


def test_a_wald_interval_over_the_same_strata_does_not_cover():
    rng = np.random.default_rng(3)
    good = np.round(SIZE * 0.2 * RATE).astype(np.int64)
    trials = np.asarray(proportional(SIZE.tolist(), 600))
    shown = rng.hypergeometric(good, SIZE - good, trials, (4000, SIZE.size)) / np.maximum(trials, 1)
    weights = SIZE / SIZE.sum()
    spread = np.sqrt((weights**2 * shown * (1 - shown) / np.maximum(trials, 1)).sum(axis=1))
    away = np.abs(shown @ weights - good.sum() / SIZE.sum())
    assert np.mean(away <= normal_quantile(0.99) * spread) < 0.95


@pytest.mark.parametrize(
    "call",
    [
        lambda: stratified_interval([10], [3], [2]),
        lambda: stratified_interval([10], [3], [11]),
        lambda: stratified_interval([10, 10], [3], [5]),
        lambda: stratified_interval([0], [0], [0]),
        lambda: stratified_interval([10], [1], [5], 99),
        lambda: neyman([10], [-1.0], 3),
        lambda: neyman([10], [1.0], 3, [11]),
        lambda: neyman([10, 10], [1.0], 3),
    ],
)
def test_what_is_no_sample_of_strata_is_refused(call):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        call()
