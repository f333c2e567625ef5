"""Failures in time: what a probability per flipped bit means for a device.

``FIT = raw FIT/Mbit x Mbit x P(critical | one bit flips)``, failures per 10^9 device hours, summed
over memories that differ. The raw rate depends on process, altitude and shielding by orders of
magnitude, so it is always the user's. A Mbit is 10^6 bits here.
"""

from __future__ import annotations

HOURS = 1e9
BITS_PER_MBIT = 1e6


def raw_fit(raw_fit_per_mbit: float, mbit: float) -> float:
    """Upsets per 10^9 hours in a memory, critical or not.

    Raises:
        ValueError: if a rate or size is not above 0.
    """
    if not (raw_fit_per_mbit > 0 and mbit > 0):
        raise ValueError("a raw rate and a size are above 0")
    return raw_fit_per_mbit * mbit


def fit(raw_fit_per_mbit: float, mbit: float, p_critical: float) -> float:
    """Critical failures per 10^9 hours.

    Raises:
        ValueError: if ``p_critical`` is no probability, or a rate or size is not above 0.
    """
    if not 0 <= p_critical <= 1:
        raise ValueError(f"a probability lies within 0..1, not at {p_critical}")
    return raw_fit(raw_fit_per_mbit, mbit) * p_critical


def critical_probability(raw_fit_per_mbit: float, mbit: float, fit_budget: float) -> float:
    """P(critical | one bit flips) at which a budget in FIT is used up."""
    return fit_budget / raw_fit(raw_fit_per_mbit, mbit)


def mtbf_hours(failures: float) -> float:
    """Mean time between failures of so many FIT, in hours; infinite at 0."""
    return HOURS / failures if failures > 0 else float("inf")
