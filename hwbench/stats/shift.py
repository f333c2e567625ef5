"""Differences between two independent sets of samples: accuracy, confidence, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwbench.stats.interval import Interval, check_confidence
from hwbench.stats.intervals import wilson

RESAMPLES = 2000
_BLOCK = 100  # resamples at a time: 100 x 10,000 samples of weights are 8 MiB

Floats = npt.NDArray[np.float64]
Correct = npt.NDArray[np.generic]  # 0 or 1


def newcombe_unpaired(
    first: int, n_first: int, second: int, n_second: int, confidence: float = 0.95
) -> Interval:
    """Interval of the difference of two independent proportions, first minus second.

    Newcombe, "Interval estimation for the difference between independent proportions", Statistics
    in Medicine 17 (1998), method 10: Wilson's limits, added by squares.
    """
    one, two = wilson(first, n_first, confidence), wilson(second, n_second, confidence)
    p, q = first / n_first, second / n_second
    low = p - q - np.hypot(p - one.low, two.high - q)
    high = p - q + np.hypot(one.high - p, q - two.low)
    return Interval(max(-1.0, float(low)), min(1.0, float(high)), confidence, "newcombe-unpaired")


@dataclass(frozen=True)
class Confidences:
    """Per sample: the largest probability, and whether the decision is right (if that is known)."""

    confidence: Floats
    correct: Correct | None


@dataclass(frozen=True)
class Shift:
    """A difference, second set minus first, with its interval."""

    first: float
    second: float
    interval: Interval

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


def confidence_shift(first: Confidences, second: Confidences, confidence: float = 0.95) -> Shift:
    """The change of mean confidence; percentiles of an unpaired bootstrap."""
    check_confidence(confidence)
    means = [float(each.confidence.mean()) for each in (first, second)]
    drawn = [_means(each.confidence, stream) for stream, each in enumerate((first, second))]
    found = _percentiles(drawn[1] - drawn[0], confidence)
    return Shift(means[0], means[1], found)


def calibration_shift(
    first: Confidences, second: Confidences, bins: int, confidence: float = 0.95
) -> Shift:
    """The change of the expected calibration error.

    The error is the plug-in estimate, which is too large in small sets (noise never cancels within
    a bin), more so in a resample of one. The bootstrap's distribution is therefore centred on the
    estimate before its percentiles are taken.

    Raises:
        ValueError: a set without correctness.
    """
    check_confidence(confidence)
    values, drawn = [], []
    for stream, each in enumerate((first, second)):  # one stream a set: they are independent
        if each.correct is None:
            raise ValueError("calibration needs to know which decisions are right")
        place = np.clip(np.ceil(each.confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        gap = each.correct.astype(np.float64) - each.confidence
        sums = np.zeros((len(gap), bins))
        sums[np.arange(len(gap)), place] = gap
        values.append(float(np.abs(sums.sum(axis=0)).sum() / len(gap)))
        drawn.append(np.abs(_resampled(sums, stream)).sum(axis=1) / len(gap))
    differences = drawn[1] - drawn[0]
    centred = differences - differences.mean() + values[1] - values[0]
    return Shift(values[0], values[1], _percentiles(centred, confidence))


def _means(values: Floats, stream: int) -> Floats:
    return np.asarray(_resampled(values[:, None], stream)[:, 0] / len(values))


def _resampled(values: Floats, stream: int) -> Floats:
    """Bootstrap sums of the columns, shape (RESAMPLES, columns); the same data give the same."""
    n, draw = len(values), np.random.default_rng(stream)
    even = np.full(n, 1 / n)
    sums = [draw.multinomial(n, even, size=_BLOCK) @ values for _ in range(RESAMPLES // _BLOCK)]
    return np.concatenate(sums)


def _percentiles(values: Floats, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence, "unpaired-bootstrap")
