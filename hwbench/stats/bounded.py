"""Means of bounded values, valid however skewed they are: betting intervals.

At a bit-error rate where 3 % of the patterns do nearly all the damage, five patterns often show
none of it: their variance is 0 and a t interval is a point beside the truth. The intervals here
assume independence and the bounds, nothing else.

Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86
(2024) 1-27, arXiv 2010.09686: the hedged capital process with predictable plug-in bets. For each
candidate mean m one gambler bets that the mean is above m, another that it is below. Were m the
mean, neither could expect to win; a candidate against which one of them multiplied their capital
by 2 / alpha is rejected (Ville's inequality, half of alpha each).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from hwbench.stats.interval import Interval, check_confidence

TOO_FEW_PATTERNS = "too few patterns"

# Largest share of the capital that one bet may risk; the paper's experiments use 1/2 or 3/4.
MAXIMUM_STAKE = 0.75
_TOLERANCE = 1e-6  # of a candidate mean, as a fraction of the range; limits are widened by it
_GRID = 256  # candidate means of a running sequence
_BLOCK = 4096  # samples per step over that grid: 8 MiB
_STRETCH = 128  # bytes whose sum 16 bits hold
_MANY = 1 << 16  # values from which on their sums are taken in stretches
_KEPT_BYTES = 8 << 10  # of values whose limits are kept

Floats = npt.NDArray[np.float64]


def betting_interval(
    values: npt.ArrayLike,
    low: float = 0.0,
    high: float = 1.0,
    confidence: float = 0.95,
    *,
    anytime: bool = False,
    resolution: float | None = None,
) -> Interval:
    """Interval of the mean of independent, identically distributed values within [low, high].

    Args:
        values: shape (n,), in the order they were drawn; the order must not depend on the values.
        low: smallest value possible (not: seen).
        high: largest value possible.
        confidence: nominal coverage, which is a lower bound at every n and distribution.
        anytime: whether it must hold at all n at once, because somebody looks at it while values
            come in and stops when it pleases them. Costs width.
        resolution: a distance from the mean that is to be told apart; the bets of an ``anytime``
            interval are then tuned to it, as valid and narrower at about that width.

    Raises:
        ValueError: if a value is outside the bounds or none is given.
    """
    check_confidence(confidence)
    unit = _to_unit(values, low, high)
    told = resolution and resolution / (high - low)
    lower, upper = _limits(unit, 1 - confidence, anytime, told)
    method = "betting-anytime" if anytime else "betting"
    span = high - low
    return Interval(low + span * lower, low + span * upper, confidence, method)


def betting_sequence(
    values: npt.ArrayLike, low: float = 0.0, high: float = 1.0, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Limits after each value that hold together for all of them: a confidence sequence.

    On a grid of candidate means, so up to 1/256 of the range wider than ``betting_interval`` with
    ``anytime`` gives.

    Args:
        values: shape (n,), in the order they were drawn.
        low: smallest value possible.
        high: largest value possible.
        confidence: that all n intervals cover the mean.

    Returns:
        Lower and upper limits, each shape (n,); they only ever draw closer.

    Raises:
        ValueError: if a value is outside the bounds or none is given.
    """
    check_confidence(confidence)
    unit = _to_unit(values, low, high)
    bets = _bets(unit, 1 - confidence, anytime=True)
    goal = math.log(2 / (1 - confidence))
    lower = _running_lower(unit, bets, goal)
    upper = 1.0 - _running_lower(1.0 - unit, bets, goal)
    return low + (high - low) * lower, low + (high - low) * upper


def minimum_patterns(confidence: float = 0.95) -> int:
    """Patterns below which ``crossed_mean_interval`` refuses: 8 at 95 %.

    To reject a candidate half-way between the values seen and the end of the range, a gambler who
    may stake 3/4 multiplies their capital by at most 1.75 per pattern, and needs 4 / alpha (alpha
    is halved for the samples' part and again for the two sides). With fewer than
    ``log(4 / alpha) / log(1.75)`` patterns the interval is wider than half the range even where
    all patterns agree to the last digit, and says nothing.
    """
    check_confidence(confidence)
    return math.ceil(math.log(4 / (1 - confidence)) / math.log1p(MAXIMUM_STAKE))


@dataclass(frozen=True)
class CrossedMean:
    """The mean over patterns crossed with samples, and how far either may lead it astray.

    Attributes:
        mean: of all values.
        pattern: interval of the mean over patterns, these samples fixed.
        sample: interval of the mean over samples, these patterns fixed.
    """

    mean: float
    pattern: Interval
    sample: Interval

    @property
    def pattern_above(self) -> float:
        """How far the mean may be above because other patterns would have been drawn."""
        return max(0.0, self.pattern.high - self.mean)

    @property
    def sample_above(self) -> float:
        """How far the mean may be above because other samples would have been drawn."""
        return max(0.0, self.sample.high - self.mean)

    @property
    def low(self) -> float:
        """Lower limit: both deviations below the mean, added."""
        below = max(0.0, self.mean - self.pattern.low) + max(0.0, self.mean - self.sample.low)
        return self.mean - below

    @property
    def high(self) -> float:
        """Upper limit: both deviations above the mean, added."""
        return self.mean + self.pattern_above + self.sample_above


def crossed_mean(
    values: npt.NDArray[np.generic],
    low: float,
    high: float,
    confidence: float = 0.95,
    *,
    pattern_bounds: tuple[float, float] | None = None,
    anytime: bool = False,
    resolution: float | None = None,
) -> CrossedMean:
    """The parts of ``crossed_mean_interval``, for any number of patterns.

    Args:
        values: shape (patterns, samples), each within [low, high].
        low: smallest value possible.
        high: largest value possible.
        confidence: nominal coverage of both parts together.
        pattern_bounds: closer bounds of a pattern's mean over these samples.
        anytime: whether it must hold after every pattern at once. The samples are the same at every
            look, so their part needs nothing for it.
        resolution: of the patterns' part, see ``betting_interval``.

    Raises:
        ValueError: if a value is outside the bounds, or ``values`` is not a filled matrix.
    """
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"values has shape {values.shape}, not (patterns, samples)")
    by_pattern, by_sample = _margins(values)
    part = 1 - (1 - confidence) / 2
    bounds = pattern_bounds or (low, high)
    return CrossedMean(
        float(by_pattern.mean()),
        betting_interval(by_pattern, *bounds, part, anytime=anytime, resolution=resolution),
        betting_interval(shuffled(by_sample), low, high, part),
    )


def crossed_mean_interval(
    values: npt.NDArray[np.generic],
    low: float,
    high: float,
    confidence: float = 0.95,
    *,
    pattern_bounds: tuple[float, float] | None = None,
) -> Interval | None:
    """Interval of the mean over a population of patterns crossed with one of samples.

    Every pattern ran on the same samples, so neither rows nor columns nor cells are independent
    draws of one population. Half of alpha goes to a betting interval over the patterns' means
    (these samples fixed), half to one over the samples' means (these patterns fixed), and the
    deviations from the grand mean are added. Each part is exact; that the second one's deviation
    stands for that of all patterns is an approximation, whose coverage the tests simulate.

    Args:
        values: shape (patterns, samples), each within [low, high]: 0/1 outcomes, or differences of
            correctness within [-1, 1]. Patterns in the order drawn; samples in any order (datasets
            come sorted by class: they are shuffled here, always alike).
        low: smallest value possible.
        high: largest value possible.
        confidence: nominal coverage.
        pattern_bounds: bounds of a pattern's mean over these samples, where they are closer than
            ``low`` and ``high``: a drop in accuracy cannot exceed the accuracy that there was.

    Returns:
        ``None`` (``TOO_FEW_PATTERNS``) below ``minimum_patterns(confidence)``.

    Raises:
        ValueError: if a value is outside the bounds, or ``values`` is not a filled matrix.
    """
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"values has shape {values.shape}, not (patterns, samples)")
    if values.shape[0] < minimum_patterns(confidence):
        return None
    found = crossed_mean(values, low, high, confidence, pattern_bounds=pattern_bounds)
    return Interval(max(low, found.low), min(high, found.high), confidence, "crossed-betting")


def rejection_counts(
    values: npt.ArrayLike,
    low: float,
    high: float,
    candidate: float,
    alpha: float,
    *,
    anytime: bool = True,
    resolution: float | None = None,
) -> npt.NDArray[np.int64]:
    """After how many values the upper limit of ``betting_interval`` is below a candidate.

    Args:
        values: independent series, shape (series, n), each value within [low, high].
        low: smallest value possible.
        high: largest value possible.
        candidate: the mean to be rejected as too high, within the bounds.
        alpha: error of this side; the two-sided interval is that of 1 - 2 alpha.
        anytime: as there. Otherwise only whether a series rejects means something.
        resolution: as there.

    Returns:
        The count per series, shape (series,); n + 1 where it is not rejected.

    Raises:
        ValueError: if a value or the candidate is outside the bounds.
    """
    array = np.atleast_2d(np.asarray(values, np.float64))
    unit = 1.0 - _to_unit(array, low, high).reshape(array.shape)
    (against,) = 1.0 - _to_unit([candidate], low, high)
    told = resolution and resolution / (high - low)
    bets = _bets(unit, 2 * alpha, anytime=anytime, resolution=told)
    stakes = np.minimum(bets, MAXIMUM_STAKE / max(against, 1e-12))
    capital = np.cumsum(np.log1p(stakes * (unit - against)), axis=-1)
    reached = capital >= -math.log(alpha)
    first = np.argmax(reached, axis=-1) + 1
    return np.asarray(np.where(reached.any(axis=-1), first, array.shape[1] + 1), np.int64)


def _margins(values: npt.NDArray[np.generic]) -> tuple[Floats, Floats]:
    """Means over samples, shape (patterns,), and over patterns, shape (samples,)."""
    patterns, samples = values.shape
    by_pattern, by_sample = sums(values, 1) / samples, sums(values, 0) / patterns
    return np.asarray(by_pattern, np.float64), np.asarray(by_sample, np.float64)


def sums(values: npt.NDArray[np.generic], axis: int) -> npt.NDArray[Any]:
    """Sums, of integers exact; of many bytes in stretches that 16 bits hold, four times as fast."""
    if values.dtype.itemsize > 1 or values.size < _MANY:
        kind = np.int64 if values.dtype.kind in "biu" else np.float64
        return np.asarray(values.sum(axis=axis, dtype=kind))
    cuts = range(_STRETCH, values.shape[axis], _STRETCH)
    parts = np.split(values, list(cuts), axis=axis)
    found = np.array([each.sum(axis=axis, dtype=np.int16) for each in parts])
    return np.asarray(found.sum(axis=0, dtype=np.int64))


def shuffled(values: Floats) -> Floats:
    """The same values in an order that has nothing to do with them, always alike."""
    return values[_permutation(values.size)]


@lru_cache(maxsize=2)  # a run's comparisons have few sizes
def _permutation(size: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).permutation(size)


def _to_unit(values: npt.ArrayLike, low: float, high: float) -> Floats:
    """Values mapped from [low, high] to [0, 1]."""
    array = np.asarray(values, dtype=np.float64).ravel()
    if not low < high or array.size == 0:
        raise ValueError("needs at least one value, and low < high")
    unit = (array - low) / (high - low)
    # Means of values at a bound round to a few ulps outside it; anything more is a wrong bound.
    if not np.all((unit >= -1e-9) & (unit <= 1 + 1e-9)):
        raise ValueError(f"a value is outside [{low}, {high}]")
    return np.clip(unit, 0.0, 1.0)


def _bets(unit: Floats, alpha: float, *, anytime: bool, resolution: float | None = None) -> Floats:
    """Predictable plug-in bets, from the variance of the values before, along the last axis."""
    n = unit.shape[-1]
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(unit, axis=-1)) / (counts + 1)
    variances = (0.25 + np.cumsum((unit - means) ** 2, axis=-1)) / (counts + 1)
    before = np.concatenate((np.full_like(unit[..., :1], 0.25), variances[..., :-1]), axis=-1)
    if anytime and resolution:
        # Kelly's bet on a mean that is off by the resolution. Were it, by rare values at the far
        # end, the variance would be larger by as much: without that term it bets far too high.
        return np.asarray(resolution / (before + resolution))
    horizon = counts * np.log1p(counts) if anytime else np.full(n, float(n))
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (before * horizon)))


def _limits(
    unit: Floats, alpha: float, anytime: bool, resolution: float | None = None
) -> tuple[float, float]:
    """Of few values they are kept: what harms nothing, or alike in many places, comes again."""
    if unit.nbytes <= _KEPT_BYTES:
        return _kept_limits(unit.tobytes(), alpha, anytime, resolution)
    return _found_limits(unit, alpha, anytime, resolution)


@lru_cache(maxsize=512)
def _kept_limits(
    unit: bytes, alpha: float, anytime: bool, resolution: float | None
) -> tuple[float, float]:
    return _found_limits(np.frombuffer(unit), alpha, anytime, resolution)


def _found_limits(
    unit: Floats, alpha: float, anytime: bool, resolution: float | None
) -> tuple[float, float]:
    bets = _bets(unit, alpha, anytime=anytime, resolution=resolution)
    goal = math.log(2 / alpha)
    lower = _lower(unit, bets, goal)
    # The variance is that of 1 - values too, so the bets serve both gamblers.
    upper = 1.0 - _lower(1.0 - unit, bets, goal)
    # They cross only if early and late values disagree (probability below alpha): admit both.
    return min(lower, upper), max(lower, upper)


def _lower(unit: Floats, bets: Floats, goal: float) -> float:
    """Largest candidate that is rejected as too low, rounded down; 0 if none is.

    The capital falls as the candidate rises, in every factor, so the rejected ones are an interval
    and its end a root: a dozen evaluations instead of a grid.
    """

    def excess(candidate: float) -> float:
        return _peak(unit, bets, candidate) - goal

    first, last = _TOLERANCE, 1 - _TOLERANCE
    if (at_first := excess(first)) < 0:
        return 0.0
    if (at_last := excess(last)) >= 0:
        return last
    known = {first: at_first, last: at_last}  # the root finder asks for its ends again
    return max(0.0, _root(lambda x: known[x] if x in known else excess(x)) - _TOLERANCE)


def _root(function: Callable[[float], float]) -> float:
    return float(optimize.brentq(function, _TOLERANCE, 1 - _TOLERANCE, xtol=_TOLERANCE / 2))


def _peak(unit: Floats, bets: Floats, candidate: float) -> float:
    """Largest log capital ever of the gambler who bets on a mean above ``candidate``."""
    gains = np.minimum(bets, MAXIMUM_STAKE / candidate)
    gains *= unit - candidate
    return float(np.log1p(gains, out=gains).cumsum().max())


def _running_lower(unit: Floats, bets: Floats, goal: float) -> Floats:
    """Lower limit after each value, shape (n,), on the grid."""
    grid = np.arange(1, _GRID) / _GRID
    capital, peak = np.zeros(grid.size), np.full(grid.size, -np.inf)
    rejected = []
    for start in range(0, unit.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        stakes = np.minimum(bets[block, None], MAXIMUM_STAKE / grid)
        path = capital + np.cumsum(np.log1p(stakes * (unit[block, None] - grid)), axis=0)
        peaks = np.maximum(peak, np.maximum.accumulate(path, axis=0))
        capital, peak = path[-1], peaks[-1]
        rejected.append(np.count_nonzero(peaks >= goal, axis=1))
    return np.concatenate(rejected) / _GRID
