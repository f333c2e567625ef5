"""Drift of a series of window means over time, for series whose neighbours are alike.

Windows of one process are autocorrelated: a neighbour's load or the heat of the package lasts for
many of them, and an ordinary regression then finds trends everywhere. Slopes and block differences
are tested by a t statistic with a Bartlett long-run variance at a fixed share of the length (Kiefer
and Vogelsang 2005), whose critical value is simulated for the AR(1) process that fits the residuals
(with the small-sample bias of its coefficient corrected). Steps are found by the self-normalised
CUSUM of Shao and Zhang (2010), its critical value the larger of theirs and of the simulated one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwbench.stats.interval import Interval, check_confidence

MINIMUM_WINDOWS = 20
TOO_FEW_WINDOWS = f"too few windows (below {MINIMUM_WINDOWS})"
BANDWIDTH = 0.3  # of the length
REPLICATES = 4000
LARGEST_RHO = 0.97

# Shao and Zhang (2010), table 1: upper quantiles of the statistic under no change.
CUSUM_CRITICAL = {0.90: 29.6, 0.95: 40.1, 0.99: 68.6}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A coefficient with its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Step:
    """The most likely sustained change of level.

    Attributes:
        index: first window behind it.
        difference: mean behind it minus mean before it.
        statistic: of the self-normalised CUSUM.
        critical: what it must exceed.
    """

    index: int
    difference: float
    statistic: float
    critical: float

    @property
    def significant(self) -> bool:
        """Whether the series has a step."""
        return self.statistic > self.critical


def slope(values: npt.ArrayLike, times: npt.ArrayLike, confidence: float = 0.95) -> Estimate | None:
    """Linear trend, in units of ``values`` per unit of ``times``.

    Args:
        values: one per window, in order, shape (windows,).
        times: of the windows, shape (windows,), about evenly spaced.
        confidence: nominal coverage.

    Returns:
        ``None`` (``TOO_FEW_WINDOWS``) below 20 windows.
    """
    y, x = (np.asarray(each, dtype=np.float64).ravel() for each in (values, times))
    return _regressed(y, x, np.arange(y.size), confidence, 1)


def last_against_first(
    values: npt.ArrayLike, share: float = 0.25, confidence: float = 0.95
) -> Estimate | None:
    """Mean of the last ``share`` of the windows minus that of the first; see ``slope``."""
    y = np.asarray(values, dtype=np.float64).ravel()
    size = max(2, round(share * y.size))
    rows = np.r_[:size, y.size - size : y.size]
    behind = (rows >= y.size - size).astype(np.float64)
    return _regressed(y, behind, rows, confidence, 2)


def step(values: npt.ArrayLike, confidence: float = 0.99, trim: float = 0.1) -> Step | None:
    """A sustained change of level, if there is one.

    Args:
        values: one per window, in order.
        confidence: 1 - rate of false alarms; one of ``CUSUM_CRITICAL``.
        trim: no change is looked for in so large a share at either end.

    Returns:
        ``None`` below 20 windows.
    """
    y = np.asarray(values, dtype=np.float64).ravel()
    if y.size < MINIMUM_WINDOWS:
        return None
    margin = max(2, math.ceil(trim * y.size))
    splits = range(margin, y.size - margin + 1)
    found = _cusum(y[None], splits)[0]
    at = splits[int(np.argmax(found))]
    sides = np.r_[y[:at] - y[:at].mean(), y[at:] - y[at:].mean()]
    rho = _rho(sides, np.r_[:at, at + 1 : y.size + 1], 2)
    simulated = _cusum(_ar1(rho, y.size)[: REPLICATES // 4], splits).max(axis=1)
    critical = max(CUSUM_CRITICAL[confidence], float(np.quantile(simulated, confidence)))
    difference = float(y[at:].mean() - y[:at].mean())
    return Step(at, difference, float(found.max()), critical)


def _cusum(y: Floats, splits: range) -> Floats:
    """Squared CUSUMs over the spread of both sides about their own means; (rows, splits)."""
    n = y.shape[1]
    result = np.empty((len(y), len(splits)))
    for column, k in enumerate(splits):
        before, behind = _centred(y[:, :k]), _centred(y[:, k:])
        deviation = (y[:, :k].sum(axis=1) - k * y.mean(axis=1)) ** 2 / n
        sums = np.cumsum(before, axis=1), np.cumsum(behind[:, ::-1], axis=1)
        spread = sum((each**2).sum(axis=1) for each in sums) / n**2
        result[:, column] = deviation / np.maximum(spread, np.finfo(np.float64).tiny)
    return result


def _centred(y: Floats) -> Floats:
    centred: Floats = y - y.mean(axis=1, keepdims=True)
    return centred


def _regressed(
    y: Floats, x: Floats, rows: npt.NDArray[np.intp], confidence: float, pieces: int
) -> Estimate | None:
    check_confidence(confidence)
    if y.size < MINIMUM_WINDOWS:
        return None
    x = x - x.mean()
    value, error, residuals = _fit(y[None, rows], x)
    draws = _ar1(_rho(residuals[0], rows, pieces), y.size)
    simulated, spreads, _ = _fit(draws[:, rows], x)
    critical = float(np.quantile(np.abs(simulated / spreads), confidence))
    reach = critical * float(error[0])
    centre = float(value[0])
    return Estimate(centre, Interval(centre - reach, centre + reach, confidence, "hac-ar1"))


def _fit(y: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    """Slope, its long-run standard error and residuals of every row of ``y``; ``x`` is centred."""
    power = float(x @ x)
    value = y @ x / power
    residuals = y - y.mean(axis=1, keepdims=True) - value[:, None] * x
    scores = residuals * x
    lag = np.abs(np.subtract.outer(np.arange(x.size), np.arange(x.size)))
    kernel = np.maximum(0.0, 1 - lag / (BANDWIDTH * x.size))
    variance = np.einsum("ri,ij,rj->r", scores, kernel, scores, optimize=True)
    tiny = np.finfo(np.float64).tiny
    return value, np.sqrt(np.maximum(variance, tiny)) / power, residuals


def _rho(residuals: Floats, rows: npt.NDArray[np.intp], pieces: int) -> float:
    """First autocorrelation, over neighbours only, with its small-sample bias taken out.

    About -(2 + 4 rho)/n about a line, -(1 + 3 rho)/m about the mean of each of two pieces of m.
    """
    near = np.diff(rows) == 1
    power = float((residuals**2).mean())
    if power == 0.0:
        return 0.0
    raw = float((residuals[1:] * residuals[:-1])[near].mean()) / power
    n = residuals.size / pieces
    fitted, slope = (2, 4) if pieces == 1 else (1, 3)
    return float(np.clip((raw + fitted / n) / (1 - slope / n), 0.0, LARGEST_RHO))


def _ar1(rho: float, n: int) -> Floats:
    """Stationary AR(1) series, the same for the same arguments; shape (replicates, n)."""
    noise = np.random.default_rng(n).normal(size=(REPLICATES, n))
    series = np.empty_like(noise)
    series[:, 0] = noise[:, 0] / math.sqrt(1 - rho**2)
    for i in range(1, n):
        series[:, i] = rho * series[:, i - 1] + noise[:, i]
    return series
