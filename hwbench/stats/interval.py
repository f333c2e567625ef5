"""The value every interval estimate returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An interval estimate, in the unit of what it estimates.

    Attributes:
        low: lower limit.
        high: upper limit.
        confidence: nominal coverage, such as 0.95.
        method: how it was computed, in one or two words.
    """

    low: float
    high: float
    confidence: float
    method: str

    @property
    def width(self) -> float:
        """``high - low``."""
        return self.high - self.low

    def covers(self, value: float) -> bool:
        """Whether ``value`` lies inside, limits included."""
        return self.low <= value <= self.high


def check_confidence(confidence: float) -> None:
    """Refuse anything but a probability strictly between 0 and 1 (95 is not 0.95)."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is a fraction between 0 and 1, not {confidence}")
