"""Proportions: one, two on the same samples, and none seen at all.

The sampling unit is whatever was counted; counts pooled over patterns are not independent and
belong into ``hwbench.stats.bounded``.
"""

from __future__ import annotations

import math

from scipy import stats

from hwbench.stats.interval import Interval, check_confidence


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), without continuity correction.

    Args:
        successes: number of successes, 0..n.
        n: number of independent trials, at least 1.
        confidence: nominal coverage.

    Raises:
        ValueError: if the counts are not those of a sample.
    """
    _check_counts(successes, n, confidence)
    z2 = float(stats.norm.ppf(0.5 + confidence / 2)) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n) / (1 + z2 / n)
    # At 0 and n the limit is 0 and 1 exactly; rounding would leave it 1e-17 away.
    low = 0.0 if successes == 0 else max(0.0, centre - reach)
    high = 1.0 if successes == n else min(1.0, centre + reach)
    return Interval(low, high, confidence, "wilson")


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a proportion (Clopper and Pearson 1934): never covers less than asked.

    Args:
        successes: number of successes, 0..n.
        n: number of independent trials, at least 1.
        confidence: nominal coverage.

    Raises:
        ValueError: if the counts are not those of a sample.
    """
    _check_counts(successes, n, confidence)
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, successes, n - successes + 1) if successes else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return Interval(float(low), float(high), confidence, "clopper-pearson")


def rule_of_three(n: int, confidence: float = 0.95) -> Interval:
    """Upper limit of a proportion of which nothing was seen in ``n`` trials: about 3 / n at 95 %.

    One-sided: ``-ln(1 - confidence) / n`` (Hanley and Lippman-Hand 1983), at most 1.

    Raises:
        ValueError: if ``n`` is below 1.
    """
    _check_counts(0, n, confidence)
    return Interval(0.0, min(1.0, -math.log1p(-confidence) / n), confidence, "rule-of-three")


def newcombe_paired(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95
) -> Interval:
    """Interval of (first - second), two proportions on the *same* samples.

    Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635-2650: the two Wilson intervals
    combined by squares, with a continuity-corrected correlation.

    Args:
        both: samples on which both succeed.
        only_first: only the first succeeds.
        only_second: only the second succeeds.
        neither: neither does.
        confidence: nominal coverage.

    Raises:
        ValueError: if a count is negative or all are 0.
    """
    n = _total(both, only_first, only_second, neither)
    first, second = both + only_first, both + only_second
    one, two = wilson(first, n, confidence), wilson(second, n, confidence)
    difference = (only_first - only_second) / n
    phi = _corrected_phi(both, only_first, only_second, neither)
    below = _combined(first / n - one.low, two.high - second / n, phi)
    above = _combined(second / n - two.low, one.high - first / n, phi)
    low, high = max(-1.0, difference - below), min(1.0, difference + above)
    return Interval(low, high, confidence, "newcombe-10")


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that two classifiers on the same samples are equally often right.

    Args:
        only_first: samples on which only the first is right.
        only_second: samples on which only the second is right.

    Raises:
        ValueError: if a count is negative.
    """
    if min(only_first, only_second) < 0:
        raise ValueError("counts are 0 or more")
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    tail = stats.binom.cdf(min(only_first, only_second), discordant, 0.5)
    return min(1.0, 2 * float(tail))


def _check_counts(successes: int, n: int, confidence: float) -> None:
    check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials is not a sample")


def _total(*counts: int) -> int:
    if min(counts) < 0 or sum(counts) == 0:
        raise ValueError("a table needs counts of 0 or more, and at least one sample")
    return sum(counts)


def _corrected_phi(a: int, b: int, c: int, d: int) -> float:
    """Correlation of the two outcomes; a positive one is shrunk by half a sample, as published."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    determinant = float(a * d - b * c)
    if determinant > 0:
        determinant = max(determinant - (a + b + c + d) / 2, 0.0)
    return determinant / math.sqrt(margins)


def _combined(first: float, second: float, phi: float) -> float:
    """Length of two deviations of correlation ``phi``."""
    return math.sqrt(max(0.0, first**2 - 2 * phi * first * second + second**2))
