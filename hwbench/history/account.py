"""A folder of nightly runs, read and judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from hwbench.history.judge import Finding, judge
from hwbench.history.nights import Night, Series, broken, read, series
from hwbench.history.rules import RULES


@dataclass(frozen=True)
class History:
    """What tonight says.

    Attributes:
        judged: every series of tonight's run, with what it says.
        broken: cells without numbers tonight that had some last night, with their status.
        left: runs that were left out, and why.
    """

    nights: list[Night]
    judged: list[tuple[Series, Finding]]
    broken: dict[str, str]
    left: list[str]

    @property
    def alarms(self) -> list[tuple[Series, Finding]]:
        """Series with a confirmed regression, or a large break tonight."""
        return [(each, found) for each, found in self.judged if found.alarm]

    @property
    def regressed(self) -> bool:
        """Whether anything is worse than it was."""
        return bool(self.alarms or self.broken)


def history(folder: Path, since: datetime | None = None, threshold: float | None = None) -> History:
    """Read a folder of runs and judge the last of them.

    Args:
        folder: that the runs lie in.
        since: earlier runs are left out.
        threshold: smallest change of latencies and rates that is told, as a share; default: the
            rules' own.

    Raises:
        RequestError: there is no complete run.
    """
    nights, left = read(folder, since)
    judged = []
    for each in series(nights):
        rule = RULES[each.key.metric]
        if rule.ratio and threshold is not None:
            rule = replace(rule, threshold=threshold)
        judged.append((each, judge(each.values, rule)))
    return History(nights, judged, broken(nights), left)
