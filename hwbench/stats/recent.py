"""The last values of a series against those before them: normal scores, summed from the end.

A change that is a few values old is sought where it must be: behind one of the last cuts, and in
one direction. That is far more sensitive than a search of the whole series. Each value stands for
its rank, by the normal score that such a rank has on average (van der Waerden, "Order tests for the
two-sample problem and their power", Proc. KNAW A 55 (1952) 453-458; Blom's plotting positions): one
spike is no more than the largest rank, however high it is. Of the standardised sums of the last 3,
4, ... 10 scores the largest counts, as in a one-sided CUSUM that restarts nowhere else.

Under no change all orders of the values are alike, so the null distribution depends on their number
alone, whatever their distribution is. It is simulated, and where neighbours are alike, simulated
with their autocorrelation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import signal, special, stats

from hwbench.stats.changepoint import memory

SHORTEST, LONGEST = 3, 10  # values behind a change
LEAST = 15  # values in all, below which nothing is told
WINDOW = 100  # values that are looked at: more of them hardly tell more
SERIES = 40_000  # simulated
_FIVES, _TENTHS = 5, 0.1  # steps of the lengths and autocorrelations that are simulated

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rise:
    """How the last values lie above those before them.

    Attributes:
        length: how many of them.
        p_value: share of series without a change that rise as much at their end.
        statistic: standardised sum of their normal scores.
    """

    length: int
    p_value: float
    statistic: float


def rise(values: npt.ArrayLike) -> Rise | None:
    """The most likely rise within the last values; ``None`` below ``LEAST``, or of equal values.

    Args:
        values: shape (n,), in order of time, of which the last ``WINDOW`` at most are looked at.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.size < LEAST:
        return None
    series = series[-min(WINDOW, series.size - series.size % _FIVES) :]
    if np.ptp(series) == 0:
        return None
    found = _sums(stats.rankdata(series))
    best = int(found.argmax())
    # The values in question would be taken for memory if they were part of its estimate.
    before = series[: series.size - _longest(series.size)]
    rho = _TENTHS * round(memory(before) / _TENTHS)
    null = _null(series.size, rho)
    larger = null.size - int(np.searchsorted(null, found[best] - 1e-9))
    return Rise(best + SHORTEST, (larger + 1) / (null.size + 1), float(found[best]))


def _longest(n: int) -> int:
    return min(LONGEST, n // 3)


def _sums(ranks: Floats) -> Floats:
    """Standardised sums of the last ``SHORTEST`` to ``LONGEST`` normal scores of each series."""
    n = ranks.shape[-1]
    lengths = np.arange(SHORTEST, _longest(n) + 1)
    scores = special.ndtri((ranks - 0.375) / (n + 0.25))
    sums = np.cumsum(scores[..., ::-1], axis=-1)[..., lengths - 1]
    return np.asarray(sums / np.sqrt(lengths * (n - lengths) / n))


@lru_cache(maxsize=256)
def _null(n: int, rho: float) -> Floats:
    """Largest sums of series without a change, sorted, shape (SERIES,); the same at every call."""
    shocks = np.random.default_rng(n).normal(size=(SERIES, n))
    shocks[:, 0] /= np.sqrt(1 - rho**2)  # stationary from the start
    series = signal.lfilter([1.0], [1.0, -rho], shocks, axis=1)
    ranks = 1 + np.argsort(np.argsort(series, axis=1), axis=1)
    return np.sort(_sums(np.asarray(ranks, np.float64)).max(axis=1))
