"""Latencies of a soak as counts per bucket: bounded memory, a thousandth of relative error.

Buckets as in HdrHistogram: every power of two is cut into equal parts, so the relative width of a
bucket never exceeds ``1 / PARTS``, and a value below ``PARTS`` is kept exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PARTS = 1024

Integers = npt.NDArray[np.int64]


def _bucket(values: Integers) -> Integers:
    """The lowest value of each one's bucket."""
    _, exponent = np.frexp(values.astype(np.float64))
    shift = np.maximum(exponent.astype(np.int64) - PARTS.bit_length(), 0)
    return (values >> shift) << shift


@dataclass(frozen=True)
class Histogram:
    """Counts of non-negative integers.

    Attributes:
        lows: lowest value of every bucket that is not empty, rising, shape (buckets,).
        counts: values in it, same shape.
    """

    lows: Integers
    counts: Integers

    @classmethod
    def of(cls, values: Integers) -> Histogram:
        """The histogram of ``values``."""
        lows, counts = np.unique(_bucket(values), return_counts=True)
        return cls(lows, counts.astype(np.int64))

    def with_values(self, values: Integers) -> Histogram:
        """This one and ``values``."""
        more = Histogram.of(values)
        lows, place = np.unique(np.concatenate([self.lows, more.lows]), return_inverse=True)
        counts = np.zeros(len(lows), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, more.counts]))
        return Histogram(lows, counts)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def middles(self) -> npt.NDArray[np.float64]:
        """The middle of every bucket: off by half its width at most."""
        _, exponent = np.frexp(self.lows.astype(np.float64))
        width = 2.0 ** np.maximum(exponent - PARTS.bit_length(), 0)
        middle: npt.NDArray[np.float64] = self.lows + (width - 1) / 2
        return middle

    def quantiles(self, asked: Sequence[float]) -> list[float]:
        """Median-unbiased quantiles as of single samples, to a bucket's width."""
        share, ends = np.asarray(asked), np.cumsum(self.counts)
        rank = (share * (len(self) + 1 / 3) + 1 / 3).clip(1, len(self))
        below, above = np.floor(rank), np.ceil(rank)
        low, high = (self.middles[np.searchsorted(ends, each)] for each in (below, above))
        return [float(each) for each in low + (rank - below) * (high - low)]

    def above(self, bound: float) -> int:
        """How many are above, to a bucket's width."""
        return int(self.counts[self.middles > bound].sum())

    @property
    def mean(self) -> float:
        """Mean, to a bucket's width."""
        return float(np.average(self.middles, weights=self.counts))
