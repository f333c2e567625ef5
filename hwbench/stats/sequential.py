"""Stopping when an interval is narrow enough, looked at after every round of trials.

An interval looked at again and again covers less than it says. Two cures, each for its purpose:

- *The campaign's own stop rule* ("the first round after which the half-width is at most the
  margin") looks at widths only, and does far less harm than stopping when a result pleases.
  ``calibrated_confidence`` finds the nominal confidence with which intervals under exactly this
  rule cover what was asked, whatever the proportion, from the exact distribution of its paths
  (Frey, "Fixed-width sequential confidence intervals for a proportion", The American Statistician
  64 (2010) 242-249). It costs a few per cent of width, where a confidence sequence, which also
  protects against every other rule, costs a fifth or more and over-covers.
- *Any other reason to stop* (time is up, somebody looked): ``spent_confidence`` spends
  alpha / (k (k + 1)) at look k, so that all looks together miss with probability alpha at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from hwbench.stats.interval import check_confidence
from hwbench.stats.stratified import Floats, Integers, limits

_LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_PROPORTIONS = 60  # between a tenth of the margin and 1/2; above it is the mirror image
_ENDLESS = 10**12  # members of a population so large that it needs no correction
_NEGLIGIBLE = 1e-12  # probability of a state that is left out


@dataclass(frozen=True)
class StopTable:
    """Where campaigns of one stratum stop, at one quantile.

    Attributes:
        trials: number of trials after each round, shape (rounds,).
        most: largest number of hits (of the smaller half) with which a campaign stops there, -1 for
            none, shape (rounds,).
        low: lower limit of a campaign that stops with that many hits, shape (hits,); it stops at
            the first round that admits them.
        high: its upper limit.
    """

    trials: Integers
    most: Integers
    low: Floats
    high: Floats

    def holds(self, hits: Integers, trials: int, proportion: float) -> Floats:
        """1 where the interval of a campaign that stops here holds the proportion, else 0."""
        fewer = hits <= trials - hits
        at, value = (
            np.where(fewer, hits, trials - hits),
            np.where(fewer, proportion, 1 - proportion),
        )
        return np.asarray((self.low[at] <= value) & (value <= self.high[at]), np.float64)


def spent_confidence(confidence: float, look: int) -> float:
    """Confidence of the interval at the ``look``-th look (from 1), if one may stop at any.

    Raises:
        ValueError: if ``look`` is below 1.
    """
    check_confidence(confidence)
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look}")
    return 1 - (1 - confidence) / (look * (look + 1))


@lru_cache(maxsize=64)
def calibrated_confidence(
    margin: float, confidence: float, per_round: int, least: int = 0
) -> float:
    """Nominal confidence under which campaigns that stop at ``margin`` cover ``confidence``.

    The least coverage over proportions is made to reach ``confidence`` for one stratum of a large
    population: the hardest case, since there the estimate alone decides the width and so when to
    stop. Cached; takes about a second.

    Args:
        margin: half-width at which a campaign stops, above 0 and below 1/2.
        confidence: coverage to hold.
        per_round: trials between looks.
        least: trials before which no campaign stops.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_confidence(confidence)
    if not 0 < margin < 0.5 or per_round < 1:
        raise ValueError("needs 0 < margin < 1/2 and at least one trial a round")
    for level in _LEVELS:
        nominal = 1 - (1 - confidence) * level
        if least_coverage(margin, nominal, per_round, least) >= confidence:
            return nominal
    return nominal


def least_coverage(margin: float, nominal: float, per_round: int, least: int = 0) -> float:
    """Smallest coverage, over proportions, of stopped intervals of a nominal confidence."""
    table = stop_table(margin, nominal, per_round, least)
    proportions = np.geomspace(margin / 10, 0.5, _PROPORTIONS)
    return min(stopped_coverage(table, float(each)) for each in proportions)


def stop_table(margin: float, nominal: float, per_round: int, least: int = 0) -> StopTable:
    """The stop rule of one stratum of a large population, as counts of hits."""
    quantile = float(stats.norm.ppf(0.5 + nominal / 2))
    worst = quantile**2 / (4 * margin**2)
    rounds = np.arange(1, math.ceil(max(worst, least) / per_round) + 2, dtype=np.int64)
    trials = rounds * per_round
    low, high = np.full(trials.size, -1), trials // 2
    while np.any(low < high):
        middle = (low + high + 1) // 2
        lower, upper = _one_stratum(np.maximum(middle, 0), trials, quantile)
        narrow = upper - lower <= 2 * margin
        low, high = np.where(narrow, middle, low), np.where(narrow, high, middle - 1)
    low = np.where(trials < least, -1, low)
    low[-1] = trials[-1]
    hits = np.arange(trials[-1] // 2 + 1)
    stopped = trials[np.searchsorted(low, hits)]
    return StopTable(trials, low, *_one_stratum(hits, stopped, quantile))


def stopped_coverage(table: StopTable, proportion: float) -> float:
    """Probability that the interval of a campaign that stopped holds ``proportion``; exact."""
    per_round = int(table.trials[0])
    step = stats.binom.pmf(np.arange(per_round + 1), per_round, proportion)
    alive, first, covered = np.ones(1), 0, 0.0
    for trials, most in zip(table.trials.tolist(), table.most.tolist(), strict=True):
        alive = np.convolve(alive, step)
        hits = np.arange(first, first + alive.size)
        stops = np.minimum(hits, trials - hits) <= most
        covered += float(alive[stops] @ table.holds(hits[stops], trials, proportion))
        kept = np.flatnonzero((alive > _NEGLIGIBLE) & ~stops)
        if not kept.size:
            break
        alive = np.where(stops, 0.0, alive)[kept[0] : kept[-1] + 1]
        first += int(kept[0])
    return covered


def _one_stratum(hits: Integers, trials: Integers, quantile: float) -> tuple[Floats, Floats]:
    sizes = np.full((hits.size, 1), _ENDLESS)
    return limits(sizes, hits[:, None].astype(np.float64), trials[:, None], quantile)
