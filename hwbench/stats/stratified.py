"""A proportion over strata of known sizes: how to share trials out, and a valid interval.

The interval inverts the score test of the weighted sum. For a candidate proportion the strata take
their most likely values under that candidate (Miettinen and Nurminen, Statistics in Medicine 4
(1985) 213-226), whose variance and skewness then say how far the estimate may lie from it (Gart and
Nam, Biometrics 44 (1988) 323-338, as a Cornish-Fisher quantile). So a stratum without a hit still
counts with what it may hide, hits need not be many, and one stratum gives Wilson's interval with
tails of equal probability. A Wald interval takes the variance from the estimate itself, which is 0
where nothing was hit; adding stratum intervals by squares widens with the number of strata.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from hwbench.stats.interval import Interval, check_confidence

# Halvings of a multiplier that ranges over 80 decades' worth of e: far below double precision.
_HALVINGS = 64
_SMALLEST, _LARGEST = -30.0, 50.0  # log of the multiplier, in units of trials
# The skewness term may shrink a quantile by half at most; the expansion means nothing beyond.
_LEAST = 0.5

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def proportional(sizes: Sequence[int], n: int) -> list[int]:
    """Trials per stratum in proportion to its size; they add up to ``min(n, sum(sizes))``.

    Raises:
        ValueError: if a size or ``n`` is negative.
    """
    return neyman(sizes, [1.0] * len(sizes), n)


def neyman(
    sizes: Sequence[int], deviations: Sequence[float], n: int, drawn: Sequence[int] | None = None
) -> list[int]:
    """Trials per stratum that give the weighted sum its smallest variance (Neyman 1934).

    In proportion to size times standard deviation. What earlier rounds drew counts towards it: the
    new trials go where most is missing. No stratum is drawn more often than it has members.

    Args:
        sizes: members of each stratum.
        deviations: standard deviation within each stratum, known or guessed.
        n: new trials.
        drawn: trials already made in each stratum.

    Returns:
        New trials per stratum; they add up to ``n``, or to all that is left if that is less.

    Raises:
        ValueError: if lengths differ, or a size, deviation or count is out of range.
    """
    before = np.zeros(len(sizes), np.int64) if drawn is None else np.asarray(drawn, np.int64)
    members, weights = np.asarray(sizes, np.int64), np.asarray(deviations, np.float64)
    _check_shares(members, weights, before, n)
    found: list[int] = shares(members[None], weights[None], n, before[None])[0].tolist()
    return found


def shares(sizes: Integers, deviations: Floats, n: int, drawn: Integers) -> Integers:
    """``neyman`` of many campaigns at once; all arrays of shape (campaigns, strata)."""
    room = sizes - drawn
    n_new = np.minimum(n, room.sum(axis=-1))
    weights = np.broadcast_to(sizes * deviations, room.shape)
    # Where no deviation is left to reduce, sizes decide.
    flat = (weights * (room > 0)).sum(axis=-1, keepdims=True) <= 0
    weights = np.where(flat, sizes, weights)
    wanted = _filled(weights, room, drawn, n_new)
    return _rounded(wanted, room, n_new)


def stratified_estimate(
    sizes: Sequence[int], hits: Sequence[float], trials: Sequence[int]
) -> float | None:
    """The proportion in the whole population: stratum proportions weighted by stratum sizes.

    Returns:
        ``None`` if a stratum with members has no trial.

    Raises:
        ValueError: if the counts are not those of samples.
    """
    size, hit, trial = _counts(sizes, hits, trials)
    if np.any((trial == 0) & (size > 0)):
        return None
    return float((size * hit / np.maximum(trial, 1)).sum() / size.sum())


def stratified_interval(
    sizes: Sequence[int],
    hits: Sequence[float],
    trials: Sequence[int],
    confidence: float = 0.95,
) -> Interval:
    """Interval of a proportion over strata sampled without replacement.

    Args:
        sizes: members of each stratum; they are the weights, and correct for a finite population.
        hits: hits per stratum, 0..trials; for outcomes within [0, 1], their sum (wider than need
            be: a variance is largest where outcomes are 0 and 1).
        trials: trials per stratum. A stratum without any may hold anything.
        confidence: nominal coverage.

    Raises:
        ValueError: if the counts are not those of samples.
    """
    check_confidence(confidence)
    size, hit, trial = _counts(sizes, hits, trials)
    quantile = float(stats.norm.ppf(0.5 + confidence / 2))
    low, high = limits(size[None], hit[None], trial[None], quantile)
    return Interval(float(low[0]), float(high[0]), confidence, "stratified-score")


def limits(
    sizes: Integers, hits: Floats, trials: Integers, quantile: float
) -> tuple[Floats, Floats]:
    """Limits of many campaigns at once; arrays of shape (campaigns, strata), result (campaigns,).

    Raises:
        ValueError: if a population is empty.
    """
    total = np.asarray(sizes.sum(axis=-1, keepdims=True), np.float64)
    if np.any(total <= 0):
        raise ValueError("a population needs at least one member")
    weights = np.broadcast_to(sizes / total, hits.shape)
    census = np.broadcast_to(trials >= sizes, hits.shape)
    # A sample without replacement says as much as this many trials with replacement.
    correction = np.where(census, 1.0, (sizes - trials) / np.maximum(sizes - 1, 1))
    effective = np.where(census, 0.0, trials / correction)
    rates = hits / np.maximum(trials, 1)
    problem = _Problem(weights, rates, effective, census, quantile)
    return problem.limit(-1.0), problem.limit(1.0)


class _Problem:
    """One score inversion over arrays of shape (campaigns, strata)."""

    def __init__(
        self,
        weights: Floats,
        rates: Floats,
        trials: Floats,
        census: npt.NDArray[np.bool_],
        z: float,
    ) -> None:
        self.weights, self.rates, self.trials = weights, rates, trials
        self.census, self.z = census, z
        self.unseen = (trials == 0) & ~census
        known = np.where(self.unseen, 0.0, rates)
        self.estimate: Floats = (weights * known).sum(axis=-1)

    def limit(self, side: float) -> Floats:
        """Upper (1) or lower (-1) limit.

        The multiplier of the constraint orders the candidates, so one bisection over it finds the
        limit without solving for the constrained strata at each candidate.
        """
        near = np.full(self.estimate.shape, _SMALLEST)
        far = np.full(self.estimate.shape, _LARGEST)
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            inside = self._inside(self._strata(middle, side), side)
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        found = (self.weights * self._strata(far, side)).sum(axis=-1)
        hidden = (self.weights * self.unseen).sum(axis=-1) if side > 0 else 0.0
        return np.asarray(np.clip(found + hidden, 0.0, 1.0))

    def _strata(self, log_multiplier: Floats, side: float) -> Floats:
        """Most likely proportions at a multiplier: the root of a quadratic within [0, 1]."""
        push = -side * np.exp(log_multiplier)[..., None] * self.weights
        n, hits = self.trials, self.rates * self.trials
        b = n + push
        root = np.sqrt(np.maximum(b * b - 4 * push * hits, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(b >= 0, 2 * hits / (b + root), (b - root) / (2 * push))
        found = np.where(self.census | self.unseen, np.where(self.unseen, 0.0, self.rates), found)
        return np.asarray(np.clip(np.nan_to_num(found), 0.0, 1.0))

    def _inside(self, strata: Floats, side: float) -> npt.NDArray[np.bool_]:
        """Whether the estimate is still likely enough were these the strata."""
        share = self.weights / np.maximum(self.trials, 1e-300)
        share = np.where(self.trials > 0, share, 0.0)
        spread = strata * (1 - strata)
        variance = (self.weights * share * spread).sum(axis=-1)
        third = (self.weights * share**2 * spread * (1 - 2 * strata)).sum(axis=-1)
        away = side * ((self.weights * strata).sum(axis=-1) - self.estimate)
        reach = self.z * np.sqrt(variance)
        skew = side * third * (self.z**2 - 1) / (6 * np.maximum(variance, 1e-300))
        return np.asarray(away <= np.maximum(reach - skew, _LEAST * reach))


def _filled(weights: Floats, room: Integers, drawn: Integers, n: Integers) -> Floats:
    """New trials, not yet whole, that bring all strata below one level up to it."""
    share = np.where(weights > 0, weights, 1e-12 * weights.max(axis=-1, keepdims=True))
    low = np.zeros(n.shape)
    high = ((room + drawn) / np.maximum(share, 1e-300)).max(axis=-1)
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        given = np.clip(level[..., None] * share - drawn, 0, room).sum(axis=-1)
        low, high = np.where(given < n, level, low), np.where(given < n, high, level)
    return np.asarray(np.clip(high[..., None] * share - drawn, 0, room))


def _rounded(wanted: Floats, room: Integers, n: Integers) -> Integers:
    """Whole numbers by largest remainder, ties to the first; they add up to ``n``."""
    whole = np.minimum(np.floor(wanted + 1e-9).astype(np.int64), room)
    remainder = np.where(whole < room, wanted - whole, -np.inf)
    rank = np.argsort(np.argsort(-remainder, axis=-1, kind="stable"), axis=-1, kind="stable")
    missing = n - whole.sum(axis=-1)
    return np.asarray(np.minimum(whole + (rank < missing[..., None]), room))


def _counts(
    sizes: Sequence[int], hits: Sequence[float], trials: Sequence[int]
) -> tuple[Integers, Floats, Integers]:
    size, trial = np.asarray(sizes, np.int64), np.asarray(trials, np.int64)
    hit = np.asarray(hits, np.float64)
    if not len(size) == len(hit) == len(trial) or size.sum() <= 0:
        raise ValueError("needs a size, hits and trials for each stratum, and one member at least")
    if np.any(size < 0) or np.any(hit < 0) or np.any(hit > trial) or np.any(trial > size):
        raise ValueError("needs 0 <= hits <= trials <= size in each stratum")
    return size, hit, trial


def _check_shares(sizes: Integers, deviations: Floats, drawn: Integers, n: int) -> None:
    if not len(sizes) == len(deviations) == len(drawn):
        raise ValueError("needs a size, a deviation and a count for each stratum")
    if n < 0 or np.any(sizes < 0) or np.any(drawn < 0) or np.any(drawn > sizes):
        raise ValueError("needs n >= 0 and 0 <= drawn <= size in each stratum")
    if np.any(deviations < 0) or not np.all(np.isfinite(deviations)):
        raise ValueError("a standard deviation is 0 or more")
