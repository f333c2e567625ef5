"""How many more units decide: the follow-up after which a good device passes in 9 of 10 cases.

A limit and a *good* value below it are the two ends of an indifference zone. The count asked for is
the one after which the upper limit of a device whose mean is ``good`` lies below ``limit`` with
probability ``POWER``. That is more than 0.9, for such a device may also fail by the error that the
test allows.

What is not known of the distribution is assumed the worse way. Values seen stand for themselves;
what their mean lacks to ``good`` is assumed to come from values at the upper bound: catastrophes
that no pattern has shown yet. For bounded values of a given mean the variance cannot be larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from hwbench.stats.bounded import betting_interval, rejection_counts
from hwbench.stats.looks import Look, planned_counts

POWER = 0.95
SERIES = 200  # simulated follow-ups
MOST = 200_000  # units; nobody is asked for more
MOST_PROCESSES = 1000
SPREAD_CONFIDENCE = 0.9  # of the upper limit of a spread that few processes gave
_CERTAIN = 30.0  # standard errors beyond a critical value, where SciPy's noncentral t gives up
_REPEATS = 100
_STEP = 1.2  # from one count that is tried to the next

Floats = npt.NDArray[np.float64]


def assumed(values: Floats, high: float, mean: float) -> tuple[Floats, Floats]:
    """A population with this mean, like the values seen as far as these go.

    Args:
        values: seen, shape (n,).
        high: largest value possible.
        mean: of the population; below ``high``.

    Returns:
        Values and their probabilities, both of shape (m,).
    """
    found, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    now = float(found @ shares)
    if now <= mean:
        return np.append(found, high), np.append(
            shares * (high - mean) / (high - now), (mean - now) / (high - now)
        )
    if found[0] >= mean:  # all that was seen is worse: nothing but its level can be assumed
        return np.array([mean]), np.ones(1)
    harmful = found > mean  # these are made rarer until the mean is right
    mild = float(found[~harmful] @ shares[~harmful] / shares[~harmful].sum())
    bad = float(found[harmful] @ shares[harmful] / shares[harmful].sum())
    share = (mean - mild) / (bad - mild)
    kept = np.where(
        harmful,
        shares / shares[harmful].sum() * share,
        shares / shares[~harmful].sum() * (1 - share),
    )
    return found, kept


def anytime_count(
    seen: Floats,
    low: float,
    high: float,
    limit: float,
    good: float,
    alpha: float,
    resolution: float,
) -> int | None:
    """Values in all until an anytime upper limit is below ``limit``; ``None`` beyond ``MOST``.

    Args:
        seen: values so far, shape (n,), at least one; they are the beginning of every series.
        low: smallest value possible.
        high: largest value possible.
        limit: what the upper limit must be below.
        good: mean of the device that is to pass.
        alpha: error of this side.
        resolution: that the interval's bets are tuned to.
    """
    if not low <= good < limit < high:
        return None
    values, shares = assumed(seen, high, good)
    stream = np.random.default_rng(0)
    total = 4 * max(64, seen.size)
    while seen.size < MOST:
        total = min(total, MOST)
        series = max(40, min(SERIES, 4_000_000 // total))
        drawn = stream.choice(values, size=(series, total - seen.size), p=shares)
        paths = np.concatenate((np.broadcast_to(seen, (series, seen.size)), drawn), axis=1)
        counts = rejection_counts(paths, low, high, limit, alpha, resolution=resolution)
        if np.mean(counts <= total) >= POWER:
            return int(np.sort(counts)[math.ceil(POWER * series) - 1])
        if total == MOST:
            break
        total *= 4
    return None


def reach_above(
    population: tuple[Floats, Floats], n: int, low: float, high: float, alpha: float
) -> float:
    """How far an upper limit over ``n`` values lies above the mean, in 9 of 10 cases.

    Args:
        population: values and probabilities, as ``assumed`` gives them.
        n: values.
        low: smallest value possible.
        high: largest value possible.
        alpha: error of this side.
    """
    values, shares = population
    stream = np.random.default_rng(0)
    reaches = []
    for _ in range(20):
        drawn = stream.choice(values, size=n, p=shares)
        limit = betting_interval(drawn, low, high, 1 - 2 * alpha).high
        reaches.append(max(0.0, limit - float(drawn.mean())))
    return float(np.quantile(reaches, 0.9))


def fixed_count(
    seen: Floats, low: float, high: float, limit: float, good: float, alpha: float
) -> int | None:
    """Independent values in all until a fixed-size upper limit is below ``limit``.

    As ``anytime_count``, for values that are all there at once.
    """
    if not low <= good < limit < high:
        return None
    values, shares = assumed(seen, high, good)
    count = max(8, seen.size)
    while count <= MOST:
        drawn = np.random.default_rng(count).choice(values, size=(_REPEATS, count), p=shares)
        counts = rejection_counts(drawn, low, high, limit, alpha, anytime=False)
        if np.mean(counts <= count) >= POWER:
            return count
        count = math.ceil(count * _STEP)
    return None


def process_count(
    arms: Sequence[Floats],
    limit: float,
    good: float,
    alpha: float,
    first: int,
    ratio: float,
    floor: float = 0.0,
) -> int | None:
    """Processes of each arm at the first planned look that passes a good device.

    From the noncentral t distribution, at the upper limit of the spread that was seen: that of five
    processes may be half of the true one.

    Args:
        arms: logs of one value per process; one arm, or two whose difference is judged.
        limit: log of the limit.
        good: log of the good value.
        alpha: error of this side over all looks.
        first: processes of the first look.
        ratio: growth of the counts of looks.
        floor: least standard deviation that is believed.
    """
    if good >= limit:
        return None
    freedom = [arm.size - 1 for arm in arms]
    high = [
        max(
            float(arm.var(ddof=1)) * df / float(stats.chi2.ppf(1 - SPREAD_CONFIDENCE, df)),
            floor**2,
        )
        for arm, df in zip(arms, freedom, strict=True)
    ]
    for number, count in enumerate(planned_counts(first, ratio, MOST_PROCESSES), start=1):
        error = math.sqrt(sum(high) / count)
        spent = Look(number, count).spend(alpha)
        if count >= max(arm.size for arm in arms) and _passes(limit - good, error, count, spent):
            return count
    return None


def _passes(gap: float, error: float, count: int, alpha: float) -> bool:
    """Whether a t test of so many processes finds this gap often enough."""
    critical = float(stats.t.isf(alpha, count - 1))
    if gap >= (critical + _CERTAIN) * error:
        return True
    return float(stats.nct.sf(critical, count - 1, gap / error)) >= POWER
