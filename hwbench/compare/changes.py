"""The change of one number from one run to another, with its interval and its test. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench import score, stats
from hwbench.collect.cell import CONFIDENCE, CellRows
from hwbench.spec.models import TaskSpec
from hwbench.worker import golden

Matrix = npt.NDArray[np.int8]  # (patterns, samples)


@dataclass(frozen=True)
class Change:
    """A number before and after.

    Attributes:
        change: after minus before for shares, after to before for ``ratio``.
        interval: of the change, or ``None``.
        method: of the interval, or why there is none.
        p_value: two-sided, of no change; ``None`` where nothing can be tested, as without any
            sample that differs: such a test could not reject, and so needs no correction for being
            one of many (Tarone, Biometrics 46, 1990).
        n: units that the test counts: samples, patterns or processes.
        ratio: whether the change is a factor.
        higher_is_better: what a rise means.
    """

    before: float | None
    after: float | None
    change: float | None
    interval: stats.Interval | None
    method: str
    p_value: float | None
    n: str
    ratio: bool = False
    higher_is_better: bool = True

    @property
    def nothing(self) -> bool:
        """Whether before and after are the same number."""
        return self.before == self.after


def of_accuracy(before: CellRows, after: CellRows, case: Mapping[str, Any]) -> Change | None:
    """The change of accuracy; ``None`` without labels."""
    if before.correct is None or after.correct is None:
        return None
    return _paired(before, after, before.correct, after.correct, case)


def of_harm(before: CellRows, after: CellRows, case: Mapping[str, Any]) -> Change:
    """The change of the share of samples whose decision changed or output broke."""
    found = _paired(before, after, before.harmed, after.harmed, case)
    return replace(found, higher_is_better=False)


def _paired(
    before: CellRows, after: CellRows, one: Matrix, two: Matrix, case: Mapping[str, Any]
) -> Change:
    """Two matrices on the same samples; of other patterns than both have, nothing is used.

    Patterns of different draws (another seed) are independent pairs instead of equal ones: as
    valid, and less sharp.
    """
    common = sorted(set(before.patterns) & set(after.patterns))
    one = one[[before.patterns.index(each) for each in common]]
    two = two[[after.patterns.index(each) for each in common]]
    if not case["perturbed"]:
        return _of_samples(one[0], two[0])
    return _crossed(one, two, shared=case["unit"] == "pattern")


def _of_samples(one: npt.NDArray[np.int8], two: npt.NDArray[np.int8]) -> Change:
    """Nothing is drawn: samples are the units. McNemar's exact test, Newcombe's interval."""
    first, second = one.astype(bool), two.astype(bool)
    both, gained, lost = (
        int(each.sum()) for each in (first & second, ~first & second, first & ~second)
    )
    found = stats.newcombe_paired(both, gained, lost, one.size - both - gained - lost, CONFIDENCE)
    return Change(
        float(one.mean()),
        float(two.mean()),
        (gained - lost) / one.size,
        found,
        found.method,
        stats.mcnemar(gained, lost) if gained or lost else None,
        f"{one.size} samples",
    )


def _crossed(one: Matrix, two: Matrix, *, shared: bool) -> Change:
    """Patterns and samples are both drawn: the bootstrap resamples both (see ``interaction``).

    Where a draw is shared by all samples (a chip), the p-value is the larger of two sign tests:
    over samples, these patterns given, and over patterns, these samples given.
    """
    nothing = np.zeros(one.shape[1], np.int8)
    found = stats.interaction(
        (nothing, two), (nothing, one), shared_patterns=shared, confidence=CONFIDENCE
    )
    p_value, n = found.p_value, f"{one.shape[1]} samples"
    if shared:
        moved = two.sum(axis=1, dtype=np.int64) - one.sum(axis=1, dtype=np.int64)
        p_value = max(p_value, stats.mcnemar(int((moved > 0).sum()), int((moved < 0).sum())))
        n = f"{one.shape[0]} patterns x {n}"
    return Change(
        float(one.mean()),
        float(two.mean()),
        found.difference,
        found.interval,
        found.interval.method if found.interval else stats.TOO_FEW_PATTERNS,
        p_value if found.interval and (found.only_first or found.only_second) else None,
        n,
    )


def of_processes(
    before: Sequence[float], after: Sequence[float], *, higher_is_better: bool
) -> Change:
    """The ratio of two latencies or rates, one value a process: Welch's t on logs."""
    first, second = (float(np.exp(np.mean(np.log(each)))) for each in (before, after))
    found = stats.ratio_of_medians(after, before, CONFIDENCE)
    return Change(
        first,
        second,
        second / first,
        found.interval if found else None,
        found.interval.method if found else stats.TOO_FEW_PROCESSES,
        found.p_value if found else None,
        f"{len(before)} and {len(after)} processes",
        ratio=True,
        higher_is_better=higher_is_better,
    )


def of_rates(
    before: tuple[float, float, float], after: tuple[float, float, float], confidence: float
) -> Change:
    """The difference of two rates known by their intervals, each (value, low, high).

    Zou and Donner, "Construction of confidence limits about effect measures", Statistics in
    Medicine 27 (2008): limits recovered from those of either side, added by squares as for two
    independent ones. (Campaigns of one seed draw the same faults, and are then known better.) The
    p-value is that of a normal deviate with the limit's distance towards 0 as its spread.
    """
    (one, one_low, one_high), (two, two_low, two_high) = before, after
    change = two - one
    below = math.hypot(two - two_low, one_high - one)
    above = math.hypot(two_high - two, one - one_low)
    quantile = stats.normal_quantile(confidence)
    spread = (below if change > 0 else above) / quantile
    found = stats.Interval(change - below, change + above, confidence, "mover")
    p_value = math.erfc(abs(change) / spread / math.sqrt(2)) if spread > 0 else 1.0
    n = "two campaigns"
    return Change(one, two, change, found, found.method, p_value, n, higher_is_better=False)


def of_brackets(before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    """Two smallest limits, each known to lie between one that failed and one that held.

    Nothing is drawn that a test could count: limits are the larger and smaller of all ratios
    within the brackets, and brackets that overlap are no change (p 1), others are one (p 0).
    """
    one, two = before["load_min_mib"], after["load_min_mib"]
    one_low, two_low = (each["load_min_mib"] - each["tolerance_mib"] for each in (before, after))
    found = stats.Interval(two_low / one, two / one_low, 1.0, "brackets")
    p_value = 0.0 if not found.covers(1.0) else 1.0
    return Change(one, two, two / one, found, found.method, p_value, "two searches", True, False)


# What of a use is compared; of all others the median latency. See collect.latency.
TIMED = {"offline": "throughput_per_s", "server": "rate_per_s"}


def timed(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    metric: str,
    *,
    same_machine: bool,
) -> tuple[Change | None, str | None]:
    """The ratio of latencies or rates of two arms, and a note; ``None`` where none was told.

    On one machine, each process's latency is taken by the canary that it timed, so that a machine
    that is slower tonight is no slower model. Before and after stay as measured.
    """
    sides = [[each for each in rows if each[metric]] for rows in (before, after)]
    if not all(sides):
        return None, None
    faster = metric != "latency_p50_ms"
    plain = [[each[metric] for each in rows] for rows in sides]
    if not same_machine or not all(each["canary_ms"] for rows in sides for each in rows):
        return of_processes(*plain, higher_is_better=faster), None
    power = 1 if faster else -1
    taken = [[each[metric] * each["canary_ms"] ** power for each in rows] for rows in sides]
    found, measured = (of_processes(*each, higher_is_better=faster) for each in (taken, plain))
    return replace(found, before=measured.before, after=measured.after), "by the canary"


def agreement(before: Path, after: Path, task: TaskSpec) -> tuple[Change, str]:
    """The share of samples that two clean runs decide alike, and whether their bytes are equal.

    Args:
        before: file of the first run's unperturbed outputs.
        after: the same of the second.
        task: of the spec, both runs' alike.
    """
    if not (before.is_file() and after.is_file()):
        return Change(None, None, None, None, "outputs were not kept", None, ""), "not compared"
    one, two = golden.read(before), golden.read(after)
    name = task.output or next(iter(one))
    if name not in two or one[name].shape != two[name].shape:
        return Change(None, None, None, None, "outputs differ in shape", None, ""), "not compared"
    alike = score.same_decision(
        two[name],
        one[name],
        classes=task.classes,
        tolerance=task.tolerance,
    )
    hits, n = int(alike.sum()), alike.size
    interval = stats.wilson(hits, n, CONFIDENCE)
    shifted = stats.Interval(interval.low - 1, interval.high - 1, CONFIDENCE, interval.method)
    same = one[name].dtype == two[name].dtype and one[name].tobytes() == two[name].tobytes()
    note = "equal to the byte" if same else "other bytes"
    share = hits / n
    return Change(1.0, share, share - 1, shifted, shifted.method, None, f"{n} samples"), note
