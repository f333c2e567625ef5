"""Percentiles of latency: how many calls they need, and what several processes say together.

A percentile is a property of one process's calls; processes differ by more than their calls do. So
each process gives one percentile, and the interval is over those. An interval of order statistics
over pooled calls is as narrow as if every call were independent: with a between-process spread of
1 % it covers 2.7 % instead of 99 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy.typing as npt
from scipy import special, stats

from hwbench.stats.interval import Interval
from hwbench.stats.latency import TOO_FEW_PROCESSES, median_interval

CONFIDENCE = 0.99
ROUNDING = 2**13


def query_count(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Independent calls for an interval that is a twentieth of the tail wide on either side.

    The normal approximation of MLPerf Inference (inference rules, "number of queries"):
    ``margin = (1 - percentile) / 20``, ``n = z^2 * percentile * (1 - percentile) / margin^2``.

    Raises:
        ValueError: a percentile or confidence that is no fraction between 0 and 1.
    """
    _check(percentile, confidence)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    margin = (1 - percentile) / 20
    return round(z**2 * percentile * (1 - percentile) / margin**2)


def rounded_query_count(percentile: float, confidence: float = CONFIDENCE) -> int:
    """``query_count`` rounded up to a multiple of 2^13, as MLPerf asks."""
    return -(-query_count(percentile, confidence) // ROUNDING) * ROUNDING


def early_stopping_count(percentile: float, over: int, confidence: float = CONFIDENCE) -> int:
    """Calls of which ``over`` may be over a bound that the percentile still keeps.

    MLPerf's early stopping: the smallest ``h + t`` with ``I(p; h, t + 1) <= 1 - confidence``, where
    ``t`` calls are over the bound and ``h`` are not, and ``I`` is the regularised incomplete beta
    function.

    Raises:
        ValueError: a percentile or confidence that is no fraction between 0 and 1, or ``over`` < 0.
    """
    _check(percentile, confidence)
    if over < 0:
        raise ValueError(f"a number of calls is not negative: {over}")
    low, high = 0, 1
    while special.betainc(high, over + 1, percentile) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = special.betainc(middle, over + 1, percentile) <= 1 - confidence
        low, high = (low, middle) if enough else (middle, high)
    return high + over


@cache
def minimum_count(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Fewest calls that can bound a percentile from above at all: none is over the bound."""
    return early_stopping_count(percentile, 0, confidence)


def percentile_interval(
    per_process: npt.ArrayLike,
    calls: Sequence[int],
    percentile: float,
    confidence: float = CONFIDENCE,
) -> tuple[Interval | None, str]:
    """Interval of the typical process's percentile; ``None`` and the reason where there is none.

    Estimand: the geometric mean over processes of the per-process percentile. Student's t on logs.

    Args:
        per_process: the percentile of each process, shape (processes,), all above 0.
        calls: recorded calls of each.
        percentile: which, as a fraction.
        confidence: nominal coverage.

    Raises:
        ValueError: if a latency is not a positive number.
    """
    reason = refused(calls, percentile)
    if reason:
        return None, reason
    found = median_interval(per_process, confidence)
    return found, "" if found else TOO_FEW_PROCESSES


def refused(calls: Sequence[int], percentile: float) -> str:
    """Why a percentile cannot be told from so many calls of each process; empty when it can."""
    least, needed = min(calls, default=0), minimum_count(percentile)
    if least >= needed:
        return ""
    return f"too few calls: p{100 * percentile:g} needs {needed} a process, the least had {least}"


def _check(percentile: float, confidence: float) -> None:
    for name, value in (("percentile", percentile), ("confidence", confidence)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} is a fraction between 0 and 1, not {value}")
