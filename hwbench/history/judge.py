"""What a series of nights says tonight. Pure.

Three looks, for a change that lasts, for one that is new and for one that is large. Change points
are searched in the whole series. The last nights are held against those before them since the last
change point: a rise for the worse is a change point too, found some nights earlier. One that the
series showed last night already, and shows tonight again, is confirmed; a rise must by then be as
good as certain (``SURE``). And tonight is held against the nights since the last settled change:
far beyond their spread it is a suspect, a suspect for three nights in a row is confirmed, and one
beyond ``Rule.breaks`` needs no second night.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwbench.stats.changepoint import MINIMUM, ChangePoint, change_points
from hwbench.stats.recent import rise

RISEN = 0.005  # p-value with which the last nights are a change
SURE = 0.0003  # the same for an alarm: as many series show it on two nights in a row by chance
RECENT = 14  # nights for which a confirmed change stays an alarm
SUSPECT = 4.0  # robust standard deviations from the median of the nights since the last change
SUSPECT_NIGHTS = 3
_SETTLED = 2 * MINIMUM  # nights until tonight is held against those behind a change alone
_FEW = 5  # nights below which tonight is held against nothing
_NORMAL_MAD = 1.4826  # of a normal distribution's standard deviation to its median deviation

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """How the values of a metric are read.

    Attributes:
        ratio: whether changes are factors: values are then compared by their logarithms.
        higher_is_better: what a rise means.
        threshold: smallest change that is told; a share of the value, or of 1.
        breaks: change that needs no confirmation.
    """

    ratio: bool
    higher_is_better: bool
    threshold: float
    breaks: float

    def scaled(self, values: Sequence[float]) -> Floats:
        """Values in which a change is a difference."""
        array = np.asarray(values, dtype=np.float64)
        return np.log(array) if self.ratio else array

    def size(self, difference: float) -> float:
        """A difference of scaled values as a share: 0.05 is 5 % more, or 5 points."""
        return math.expm1(difference) if self.ratio else difference

    def bad(self, difference: float) -> bool:
        """Whether a difference of scaled values is for the worse."""
        return difference < 0 if self.higher_is_better else difference > 0

    def harm(self, scaled: Floats) -> Floats:
        """Scaled values turned so that more is worse."""
        return -scaled if self.higher_is_better else scaled


@dataclass(frozen=True)
class Finding:
    """What a series says tonight.

    Attributes:
        changes: change points, in order; indices into the series. The last may be a rise of the
            last nights.
        last: the last of them that is large enough to be told.
        change: its size, as a share: medians of the nights behind and before it.
        worse: whether that change is for the worse.
        confirmed: whether last night's series showed it as well, and tonight's leaves no doubt.
        tonight: tonight against the median of the other nights since the last settled change, as a
            share.
        deviations: the same in their robust standard deviations.
        suspect: tonight is that far off for the worse that it would be an alarm if it lasts.
        alarm: why tonight is a regression; ``None`` where it is none.
    """

    changes: tuple[ChangePoint, ...]
    last: ChangePoint | None
    change: float | None
    worse: bool
    confirmed: bool
    tonight: float | None
    deviations: float | None
    suspect: bool
    alarm: str | None


def judge(values: Sequence[float], rule: Rule) -> Finding:
    """Judge the last value of a series by all of it.

    Args:
        values: one a night, in order; positive where ``rule.ratio``.
        rule: how they are read.
    """
    scaled = rule.scaled(values)
    settled, late = _points(scaled, rule)
    found = [*settled, *late]
    last = next((each for each in found[::-1] if _told(scaled, each, found, rule)), None)
    difference = None if last is None else _moved(scaled, last, found)
    worse = difference is not None and rule.bad(difference)
    recent = last is not None and scaled.size - last.index <= RECENT
    sure = last is not None and (last not in late or last.p_value <= SURE)
    confirmed = last is not None and recent and sure and _seen_before(scaled, last, rule)
    start = max((each.index for each in settled if scaled.size - each.index > _SETTLED), default=0)
    tonight, deviations = _tonight(scaled, start)
    suspect = _suspect(scaled, start, rule)
    alarm = "a change that was seen two nights in a row" if worse and confirmed else None
    if suspect:
        alarm = _large(scaled, start, rule) or alarm
    return Finding(
        tuple(found),
        last,
        None if difference is None else rule.size(difference),
        worse,
        confirmed,
        None if tonight is None else rule.size(tonight),
        deviations,
        suspect,
        alarm,
    )


def _points(scaled: Floats, rule: Rule) -> tuple[list[ChangePoint], list[ChangePoint]]:
    """Change points of the whole series, and a rise of the nights since the last, if there is."""
    settled = change_points(scaled)
    late = rise(rule.harm(scaled[settled[-1].index if settled else 0 :]))
    if late is None or late.p_value > RISEN:
        return settled, []
    return settled, [ChangePoint(scaled.size - late.length, late.p_value, late.statistic)]


def _moved(scaled: Floats, point: ChangePoint, points: Sequence[ChangePoint]) -> float:
    """Median behind a change point, up to the next, minus the one before it, from the last."""
    begin = max((each.index for each in points if each.index < point.index), default=0)
    end = min((each.index for each in points if each.index > point.index), default=scaled.size)
    before, after = scaled[begin : point.index], scaled[point.index : end]
    return float(np.median(after) - np.median(before))


def _told(scaled: Floats, point: ChangePoint, points: Sequence[ChangePoint], rule: Rule) -> bool:
    return abs(rule.size(_moved(scaled, point, points))) >= rule.threshold


def _seen_before(scaled: Floats, point: ChangePoint, rule: Rule) -> bool:
    """Whether the series without tonight has a change in the same direction close by."""
    shorter = scaled[:-1]
    settled, late = _points(shorter, rule)
    found = [*settled, *late]
    bad = rule.bad(_moved(shorter, point, found)) if point.index < shorter.size else None
    return any(
        abs(each.index - point.index) <= MINIMUM
        and _told(shorter, each, found, rule)
        and rule.bad(_moved(shorter, each, found)) == bad
        for each in found
    )


def _tonight(scaled: Floats, start: int) -> tuple[float | None, float | None]:
    """The last value against the median of the others since ``start``, plain and in deviations."""
    others = scaled[start:-1]
    if others.size < _FEW:
        return None, None
    middle = float(np.median(others))
    spread = _NORMAL_MAD * float(np.median(np.abs(others - middle)))
    difference = float(scaled[-1]) - middle
    if spread == 0:
        return difference, 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference, difference / spread


def _suspect(scaled: Floats, start: int, rule: Rule) -> bool:
    difference, deviations = _tonight(scaled, start)
    if difference is None or deviations is None or not rule.bad(difference):
        return False
    return abs(deviations) >= SUSPECT and abs(rule.size(difference)) >= rule.threshold


def _large(scaled: Floats, start: int, rule: Rule) -> str | None:
    """Why a suspect is an alarm: its size, or that it has lasted."""
    difference, _ = _tonight(scaled, start)
    if difference is not None and abs(rule.size(difference)) >= rule.breaks:
        return "a large break tonight"
    nights = range(SUSPECT_NIGHTS)
    if all(_suspect(np.append(scaled[: scaled.size - SUSPECT_NIGHTS], scaled[scaled.size - 1 - k]),
                    start, rule) for k in nights):  # fmt: skip
        return f"{SUSPECT_NIGHTS} nights in a row far off"
    return None
