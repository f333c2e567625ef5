"""Ratios of latencies against SciPy, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hwbench.stats import median_interval, ratio_of_medians

SLOWER = np.array([10.3, 11.9, 10.9, 10.1, 12.4])
FASTER = np.array([8.1, 8.0, 8.3, 8.2, 8.05, 8.15])


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_ratio_is_welchs_test_on_logs(confidence):
    result = ratio_of_medians(SLOWER, FASTER, confidence)
    welch = stats.ttest_ind(np.log(SLOWER), np.log(FASTER), equal_var=False)
    limits = welch.confidence_interval(confidence)
    assert result.ratio == pytest.approx(stats.gmean(SLOWER) / stats.gmean(FASTER))
    assert result.interval.low == pytest.approx(math.exp(limits.low))
    assert result.interval.high == pytest.approx(math.exp(limits.high))
    assert result.p_value == pytest.approx(welch.pvalue)


def test_ratio_turns_round():
    forth, back = ratio_of_medians(SLOWER, FASTER), ratio_of_medians(FASTER, SLOWER)
    assert back.ratio == pytest.approx(1 / forth.ratio)
    assert back.interval.low == pytest.approx(1 / forth.interval.high)
    assert back.p_value == pytest.approx(forth.p_value)


def test_ratio_covers_with_five_processes_of_unequal_spread():
    rng = np.random.default_rng(11)
    first = np.exp(rng.normal(math.log(3.0), 0.10, (10_000, 5)))
    second = np.exp(rng.normal(math.log(2.0), 0.05, (10_000, 5)))
    results = [ratio_of_medians(a, b) for a, b in zip(first, second, strict=True)]
    covered = np.mean([each.interval.covers(1.5) for each in results])
    assert covered == pytest.approx(0.95, abs=0.008)


def test_no_difference_is_found_as_often_as_alpha_says():
    rng = np.random.default_rng(12)
    samples = np.exp(rng.normal(0.0, 0.05, (10_000, 10)))
    found = [ratio_of_medians(row[:5], row[5:]).p_value < 0.05 for row in samples]
    assert np.mean(found) == pytest.approx(0.05, abs=0.008)


def test_median_interval_is_students_on_logs_and_covers():
    mine = median_interval(SLOWER)
    logs = np.log(SLOWER)
    low, high = stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs))
    assert (mine.low, mine.high) == pytest.approx((math.exp(low), math.exp(high)))
    draws = np.exp(np.random.default_rng(13).normal(math.log(4.0), 0.2, (10_000, 5)))
    assert np.mean([median_interval(row).covers(4.0) for row in draws]) == pytest.approx(
        0.95, abs=0.008
    )


def test_fewer_than_three_processes_are_refused():
    assert ratio_of_medians(SLOWER[:2], FASTER) is None
    assert ratio_of_medians(SLOWER, FASTER[:2]) is None
    assert median_interval([1.0, 2.0]) is None
    assert ratio_of_medians(SLOWER[:3], FASTER[:3]) is not None


def test_equal_medians_of_a_coarse_clock():
    same = ratio_of_medians([2.0] * 3, [2.0] * 3)
    assert (same.ratio, same.p_value, same.interval.width) == (1.0, 1.0, 0.0)
    assert ratio_of_medians([4.0] * 3, [2.0] * 3).p_value == 0.0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_latency_is_refused(bad):
    with pytest.raises(ValueError, match="positive"):
        ratio_of_medians([1.0, 2.0, bad], FASTER)
