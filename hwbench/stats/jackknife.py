"""Standard errors of numbers that are computed from sums: the delete-one jackknife.

A ratio, a level in dB or a calibration error is a function of totals over units. Leaving out one
unit at a time says how much each of them moves it. Tukey, "Bias and confidence in not-quite large
samples", Annals of Mathematical Statistics 29 (1958) 614; the variance is too large on average,
never too small (Efron and Stein, Annals of Statistics 9 (1981) 586-596).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Jackknife:
    """How a number depends on each unit.

    Attributes:
        influences: of each unit on the number, shape (units,): their squares add up to the
            variance of the number, their cubes to its third cumulant.
    """

    influences: Floats

    @property
    def units(self) -> int:
        """How many there are."""
        return int(self.influences.size)

    @property
    def variance(self) -> float:
        """Of the number, were other units drawn."""
        return float(self.influences @ self.influences)

    @property
    def third(self) -> float:
        """Third cumulant of the number."""
        return float(np.sum(self.influences**3))

    @property
    def largest(self) -> float:
        """Part of the variance due to one unit: near the whole, the others hardly matter."""
        return float(np.square(self.influences).max())


def jackknife(sums: Floats, number: Callable[[Floats], float]) -> Jackknife:
    """Leave out one unit at a time.

    Args:
        sums: of each unit, shape (units, ...), at least two.
        number: of the total over units, shape (...); how many units it is over must not matter.

    Raises:
        ValueError: there is one unit only.
    """
    n = len(sums)
    if n < 2:
        raise ValueError("one unit says nothing of how units differ")
    total = sums.sum(axis=0)
    without = np.array([number(total - each) for each in sums])
    return Jackknife(np.sqrt((n - 1) / n) * (without.mean() - without))


def corrected(critical: float, variance: float, third: float) -> tuple[float, float]:
    """Standard errors from a number down to its lower limit and up to its upper one.

    The short side keeps half of its length at least: the expansion means nothing beyond.

    Args:
        critical: of symmetrical limits.
        variance: of the number.
        third: its third cumulant.
    """
    shift = third / variance**1.5 / 6 * (2 * critical**2 + 1) if variance else 0.0
    return max(critical - shift, critical / 2), max(critical + shift, critical / 2)
