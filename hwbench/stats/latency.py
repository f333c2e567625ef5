"""Latency: the sampling unit is the process, not the inference.

Inferences of one process share its memory layout, its threads and its neighbours, so a thousand of
them say nothing about the next process. Each process gives one median; statistics are over those,
on logarithms because slowdowns multiply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from hwbench.stats.interval import Interval, check_confidence

MINIMUM_PROCESSES = 3  # with two, a t interval of one degree of freedom spans decades
RECOMMENDED_PROCESSES = 5
TOO_FEW_PROCESSES = "too few processes"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RatioOfMedians:
    """How many times slower (above 1) or faster the first is than the second.

    Attributes:
        ratio: ratio of the geometric means of the per-process medians.
        interval: of that ratio.
        p_value: two-sided, of a ratio of 1.
    """

    ratio: float
    interval: Interval
    p_value: float


def median_interval(medians: npt.ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Interval of the typical process's median latency, in the unit given.

    Estimand: the geometric mean over processes of the per-process median. Student's t on logs.

    Args:
        medians: one median per process, shape (processes,), all above 0.
        confidence: nominal coverage.

    Returns:
        ``None`` (``TOO_FEW_PROCESSES``) below three processes.

    Raises:
        ValueError: if a median is not a positive number.
    """
    check_confidence(confidence)
    logs = _logs(medians)
    if logs.size < MINIMUM_PROCESSES:
        return None
    reach = _reach(_variance_of_mean(logs), logs.size - 1, confidence)
    centre = float(logs.mean())
    return Interval(math.exp(centre - reach), math.exp(centre + reach), confidence, "t-log")


def ratio_of_medians(
    first: npt.ArrayLike, second: npt.ArrayLike, confidence: float = 0.95
) -> RatioOfMedians | None:
    """Ratio of two latencies with Welch's t interval on logs of per-process medians.

    Args:
        first: one median per process, shape (processes,), all above 0.
        second: the same for what it is compared with.
        confidence: nominal coverage.

    Returns:
        ``None`` (``TOO_FEW_PROCESSES``) where either side has fewer than three processes.

    Raises:
        ValueError: if a median is not a positive number.
    """
    check_confidence(confidence)
    one, two = _logs(first), _logs(second)
    if min(one.size, two.size) < MINIMUM_PROCESSES:
        return None
    difference = float(one.mean() - two.mean())
    parts = (_variance_of_mean(one), one.size - 1), (_variance_of_mean(two), two.size - 1)
    variance, freedom = _welch(parts)
    reach = _reach(variance, freedom, confidence)
    interval = Interval(
        math.exp(difference - reach), math.exp(difference + reach), confidence, "welch-log"
    )
    return RatioOfMedians(math.exp(difference), interval, _p_value(difference, variance, freedom))


def t_reach(arms: Sequence[Floats], alpha: float, floor: float = 0.0) -> float:
    """How far a one-sided t limit lies from the mean of one arm, or from the difference of two.

    Args:
        arms: logs of one value per process; Welch's t for two of them.
        alpha: error of that side.
        floor: least standard deviation between processes that is believed.
    """
    parts = tuple((max(_variance_of_mean(a), floor**2 / a.size), a.size - 1) for a in arms)
    variance, freedom = _welch(parts)
    return _reach(variance, freedom, 1 - 2 * alpha)


def detectable_ratio(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    tests: int = 1,
    confidence: float = 0.95,
    power: float = 0.8,
) -> float | None:
    """The smallest slowdown that data with this spread would have shown with probability ``power``.

    Of Welch's test on logs with its error divided by ``tests``: what Holm asks of the smallest p
    value in a table. From the noncentral t distribution, at the spread observed.

    Args:
        first: one median per process, shape (processes,), all above 0.
        second: the same for what it is compared with.
        tests: comparisons in the table.
        confidence: of the whole table.
        power: probability of finding it.

    Returns:
        A ratio above 1; ``None`` where either side has fewer than three processes.

    Raises:
        ValueError: if a median is not a positive number.
    """
    check_confidence(confidence)
    one, two = _logs(first), _logs(second)
    if min(one.size, two.size) < MINIMUM_PROCESSES:
        return None
    parts = (_variance_of_mean(one), one.size - 1), (_variance_of_mean(two), two.size - 1)
    variance, freedom = _welch(parts)
    noncentrality = _noncentrality((1 - confidence) / tests, freedom, power)
    return math.exp(noncentrality * math.sqrt(variance))


def noise_ratio(
    spread: float, processes: int, *, confidence: float = 0.95, power: float = 0.8
) -> float:
    """``detectable_ratio`` of one comparison of two arms with the same known spread.

    Args:
        spread: standard deviation of log medians between processes.
        processes: in each arm, at least two.
        confidence: of the test.
        power: probability of finding it.
    """
    noncentrality = _noncentrality(1 - confidence, 2 * (processes - 1), power)
    return math.exp(noncentrality * spread * math.sqrt(2 / processes))


def _noncentrality(alpha: float, freedom: float, power: float) -> float:
    """Of the t distribution that exceeds the two-sided critical value with probability ``power``.

    Exceeding it on the wrong side is no finding, so that side is not counted.
    """
    critical = float(stats.t.isf(alpha / 2, freedom))

    def missed(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, freedom, noncentrality)) - power

    high = critical
    while missed(high) < 0:
        high *= 2
    return float(optimize.brentq(missed, 0.0, high, xtol=1e-6))


def _logs(medians: npt.ArrayLike) -> Floats:
    values = np.asarray(medians, dtype=np.float64).ravel()
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError("a median latency is a positive number")
    return np.log(values)


def _variance_of_mean(logs: Floats) -> float:
    return float(logs.var(ddof=1)) / logs.size


def _welch(parts: tuple[tuple[float, int], ...]) -> tuple[float, float]:
    """Variance of a difference and Welch and Satterthwaite's degrees of freedom."""
    variance = sum(part for part, _ in parts)
    if variance == 0.0:
        return 0.0, float(sum(freedom for _, freedom in parts))
    shares = sum((part / variance) ** 2 / freedom for part, freedom in parts)
    return variance, 1 / shares


def _reach(variance: float, freedom: float, confidence: float) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, freedom)) * math.sqrt(variance)


def _p_value(difference: float, variance: float, freedom: float) -> float:
    if variance == 0.0:  # medians equal to the last digit: a coarse clock, no evidence of spread
        return 1.0 if difference == 0.0 else 0.0
    return 2 * float(stats.t.sf(abs(difference) / math.sqrt(variance), freedom))
