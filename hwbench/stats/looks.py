"""Planned looks: judging data that grow, as often as anybody likes, with one error rate.

Looks are planned at counts that grow geometrically, and the ``k``-th of them may spend
``alpha / (k (k + 1))``, which sums up to ``alpha`` over all of them. Between two planned counts the
data of the earlier one are judged: so looking more often changes nothing, and no record of looks is
needed, since the data themselves say which look it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """The last planned look that the data have reached.

    Attributes:
        number: which, from 1.
        count: units that are judged; later ones wait for the next look.
    """

    number: int
    count: int

    def spend(self, alpha: float) -> float:
        """Error that this look may spend so that all of them together spend ``alpha`` at most."""
        return alpha / (self.number * (self.number + 1))


def planned_counts(first: int, ratio: float, up_to: int) -> list[int]:
    """Counts at which looks are planned, from ``first`` on, none above ``up_to``.

    Raises:
        ValueError: if ``first`` is below 1 or counts would not grow.
    """
    if first < 1 or ratio <= 1:
        raise ValueError("looks begin at 1 or later, and their counts grow")
    found: list[int] = []
    exact = float(first)
    while round(exact) <= up_to:
        if not found or round(exact) > found[-1]:
            found.append(round(exact))
        exact *= ratio
    return found


def last_look(count: int, first: int, ratio: float) -> Look | None:
    """The look that ``count`` units have reached; ``None`` before the first."""
    planned = planned_counts(first, ratio, count)
    return Look(len(planned), planned[-1]) if planned else None
