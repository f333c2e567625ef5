"""What a folder of nightly runs says, for a person and for a machine."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.history import Finding, History, Series

_PERCENT = 1e2


def historic_json(found: History) -> dict[str, Any]:
    """Plain data; missing numbers are null, and so are infinite ones."""
    return {
        "regressed": found.regressed,
        "nights": [
            {"run": str(each.folder), "started": each.started.isoformat(), "machine": each.machine}
            for each in found.nights
        ],
        "broken": found.broken,
        "left_out": found.left,
        "series": [_series(series, finding) for series, finding in found.judged],
    }


def _series(series: Series, found: Finding) -> dict[str, Any]:
    return {
        **series.key.__dict__,
        "runs": [str(each.folder) for each in series.nights],
        "raw": list(series.raw),
        "values": list(series.values),
        "normalised": series.normalised,
        "changes": [
            {"index": each.index, "p_value": each.p_value, "statistic": each.statistic}
            for each in found.changes
        ],
        "change": found.change,
        "worse": found.worse,
        "confirmed": found.confirmed,
        "tonight": found.tonight,
        "deviations": _finite(found.deviations),
        "suspect": found.suspect,
        "alarm": found.alarm,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def historic_text(found: History, *, everything: bool = False) -> RenderableType:
    """Alarms and changes first, then what was looked at."""
    shown = [pair for pair in found.judged if everything or pair[1].last or pair[1].suspect]
    order = sorted(shown, key=lambda pair: (pair[1].alarm is None, not pair[1].suspect))
    parts: list[RenderableType] = []
    if order:
        table = Table(box=None, pad_edge=False)
        for index, name in enumerate(
            ("series", "nights", "tonight", "to median", "changed", "since", "by", "says")
        ):
            table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for series, finding in order:
            table.add_row(*_row(series, finding))
        parts.append(table)
    for cell, status in found.broken.items():
        parts.append(Text(f"{cell} gives no numbers any more: {status}", style="bold red"))
    parts.append(Text(f"\n{_sum(found)}", style="bold red" if found.regressed else ""))
    if found.left:
        parts.append(Text("\n".join(["Left out:", *(f"  - {each}" for each in found.left)])))
    return Group(*parts)


def _row(series: Series, found: Finding) -> list[Text]:
    last = found.last
    changed = "-" if last is None else f"{len(series.nights) - last.index} nights ago"
    since = "-" if last is None else f"{series.nights[last.index].started:%Y-%m-%d}"
    style = "bold red" if found.alarm else "yellow" if found.suspect else ""
    cells = [
        str(series.key),
        str(len(series.nights)),
        f"{series.values[-1]:.4g}",
        _moved(series, found.tonight),
        changed,
        since,
        _moved(series, found.change),
        _says(found),
    ]
    return [Text(each, style=style) for each in cells]


def _moved(series: Series, share: float | None) -> str:
    unit = "points" if series.key.metric in ("accuracy", "harmed_per_sample") else "%"
    return "-" if share is None else f"{_PERCENT * share:+.2f} {unit}"


def _says(found: Finding) -> str:
    if found.alarm:
        return f"REGRESSION: {found.alarm}"
    if found.suspect:
        return "suspect: far off tonight; an alarm if it lasts"
    if found.last is None:
        return ""
    kind = "worse" if found.worse else "better"
    return f"{kind}, confirmed" if found.confirmed else kind


def _sum(found: History) -> str:
    n, machines = len(found.nights), len({each.machine for each in found.nights})
    where = f"{n} nights on {machines} machine{'s' if machines > 1 else ''}"
    raw = sum(s.key.metric.startswith("latency") and not s.normalised for s, _ in found.judged)
    text = f"{where}, {len(found.judged)} series: "
    text += (
        f"{len(found.alarms) + len(found.broken)} regressions."
        if found.regressed
        else "no regression."
    )
    if raw:
        text += f" {raw} latencies without a canary every night: not normalised."
    return text
