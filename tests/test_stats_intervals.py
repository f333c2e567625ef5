"""Proportions, p-values and sample sizes against SciPy, published numbers and simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hwbench.stats import (
    clopper_pearson,
    holm,
    layer_bit_sample_sizes,
    layer_sample_sizes,
    mcnemar,
    newcombe_paired,
    normal_quantile,
    rule_of_three,
    sample_size,
    wilson,
)

ORACLE = Path(__file__).parents[2] / "shared" / "oracles" / "fault_sample_sizes.json"


@pytest.mark.parametrize(("ours", "theirs"), [(wilson, "wilson"), (clopper_pearson, "exact")])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_one_proportion_equals_scipy(ours, theirs, confidence):
    for successes, n in [(0, 7), (7, 7), (1, 3), (13, 200), (980, 1000)]:
        mine = ours(successes, n, confidence)
        other = stats.binomtest(successes, n).proportion_ci(confidence, theirs)
        assert (mine.low, mine.high) == pytest.approx((other.low, other.high), abs=1e-12)


def test_wilson_covers_what_it_says():
    """The mean coverage over proportions, computed exactly from the binomial distribution."""
    n, proportions = 50, np.linspace(0.02, 0.98, 97)
    intervals = [wilson(k, n) for k in range(n + 1)]
    covers = np.array([[each.covers(p) for p in proportions] for each in intervals])
    weights = stats.binom.pmf(np.arange(n + 1)[:, None], n, proportions)
    assert (weights * covers).sum(0).mean() == pytest.approx(0.95, abs=0.01)


def test_clopper_pearson_never_covers_less():
    n, proportions = 30, np.linspace(0.01, 0.99, 99)
    covers = np.array(
        [[clopper_pearson(k, n).covers(p) for p in proportions] for k in range(n + 1)]
    )
    weights = stats.binom.pmf(np.arange(n + 1)[:, None], n, proportions)
    assert (weights * covers).sum(0).min() >= 0.95


def test_rule_of_three_is_three_over_n_and_just_above_the_exact_limit():
    assert rule_of_three(1000).high == pytest.approx(3 / 1000, rel=2e-3)
    exact = 1 - 0.05 ** (1 / 1000)
    assert exact < rule_of_three(1000).high < exact * 1.002
    assert rule_of_three(1).high == 1.0


def test_newcombe_published_example():
    """Bentur et al. (2009), in Fagerland, Lydersen and Laake (2013): -0.507 to -0.026."""
    interval = newcombe_paired(1, 1, 7, 12)
    assert (round(interval.low, 3), round(interval.high, 3)) == (-0.507, -0.026)


def test_newcombe_without_correlation_is_the_unpaired_square_and_add():
    """A zero margin leaves phi at 0: the two Wilson intervals add by squares."""
    interval = newcombe_paired(0, 10, 0, 20)
    one, two = wilson(10, 30), wilson(0, 30)
    assert interval.low == pytest.approx(1 / 3 - math.hypot(1 / 3 - one.low, two.high))
    assert interval.high == pytest.approx(1 / 3 + math.hypot(one.high - 1 / 3, 0.0))


@given(st.tuples(*[st.integers(0, 200)] * 4).filter(any))
def test_newcombe_is_antisymmetric_and_holds_its_estimate(table):
    both, first, second, neither = table
    interval = newcombe_paired(both, first, second, neither)
    swapped = newcombe_paired(both, second, first, neither)
    assert (swapped.low, swapped.high) == pytest.approx((-interval.high, -interval.low))
    assert -1 <= interval.low <= (first - second) / sum(table) <= interval.high <= 1


def test_newcombe_covers_what_it_says():
    rng = np.random.default_rng(3)
    shares = [0.9, 0.06, 0.02, 0.02]  # two good classifiers that mostly agree
    tables = rng.multinomial(400, shares, size=2000).tolist()
    covered = [newcombe_paired(*table).covers(0.04) for table in tables]
    assert 0.935 <= np.mean(covered) <= 0.975


@pytest.mark.parametrize(("first", "second"), [(1, 7), (0, 12), (5, 5), (30, 11)])
def test_mcnemar_equals_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue
    assert mcnemar(first, second) == pytest.approx(expected)


def test_mcnemar_without_discordant_samples_has_nothing_to_reject():
    assert mcnemar(0, 0) == 1.0


def test_holm_worked_example():
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_tests_that_were_not_possible_out_of_the_count():
    adjusted = holm([0.02, np.nan, 0.04])
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.04])
    assert np.isnan(adjusted[1])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_between_the_raw_value_and_bonferroni(values):
    adjusted, raw = holm(values), np.asarray(values)
    assert np.all(adjusted >= raw)
    assert np.all(adjusted <= np.minimum(raw * raw.size, 1) + 1e-12)


@pytest.mark.parametrize("network", ["resnet20", "mobilenet-v2"])
def test_published_fault_sample_sizes(network):
    if not ORACLE.exists():
        pytest.skip("shared/oracles/fault_sample_sizes.json is not beside this checkout")
    published = json.loads(ORACLE.read_text())[network]
    populations = published["N_per_layer"]
    per_bit = layer_bit_sample_sizes(populations)
    assert sum(populations) == published["N"]
    assert sample_size(published["N"]) == published["network_wise_n"]
    assert layer_sample_sizes(populations) == published["layer_wise_n"]
    assert sum(layer_sample_sizes(populations)) == published["layer_wise_n_total"]
    assert per_bit == published["layer_bit_n_per_bit"]
    assert 32 * sum(per_bit) == published["layer_bit_n_total"]


@given(st.integers(0, 10**9), st.floats(0.001, 0.2))
def test_a_sample_is_never_larger_than_its_population(population, error):
    assert 0 <= sample_size(population, error) <= population


def test_sample_size_keeps_its_promise():
    """The interval of the drawn sample is as narrow as was asked for."""
    n, quantile = sample_size(50_000, 0.02, normal_quantile(0.95)), normal_quantile(0.95)
    correction = math.sqrt((50_000 - n) / (50_000 - 1))
    assert quantile * math.sqrt(0.25 / n) * correction == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: wilson(1, 2, 95),
        lambda: newcombe_paired(0, 0, 0, 0),
        lambda: mcnemar(-1, 2),
        lambda: holm([1.5]),
        lambda: sample_size(10, 0.0),
        lambda: layer_bit_sample_sizes([33]),
    ],
)
def test_what_is_no_sample_is_refused(call):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        call()
