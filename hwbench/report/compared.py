"""What a comparison of two runs found, for a person and for a machine."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.case import case_id
from hwbench.collect.rows import rows_of
from hwbench.compare import Comparison
from hwbench.compare.side import Cell, cell_of, said
from hwbench.report.terminal import grid

_STYLES = {"worse": "bold red", "broke": "bold red", "better": "green", "mended": "green"}
_SHARES = 1e2  # per cent, and percentage points


def compared_json(found: Comparison) -> dict[str, Any]:
    """Plain data; missing numbers are null."""
    return {
        "before": str(found.before),
        "after": str(found.after),
        "worse": found.worse,
        "doubts": found.doubts,
        "differences": [each.__dict__ for each in found.differences],
        "only_before": [said(cell) for cell in found.only_before],
        "only_after": [said(cell) for cell in found.only_after],
        "redefined": [said(cell) for cell in found.redefined],
        "rows": json.loads(found.rows.to_json(orient="records")),
    }


def compared_text(found: Comparison, *, everything: bool = False) -> RenderableType:
    """What the runs were made with, what changed, and what is in only one of them."""
    parts: list[RenderableType] = []
    if found.differences:
        parts += [Text("Made with", style="bold"), _differences(found)]
    rows = found.rows if everything else found.decided
    if len(rows):
        parts += [Text("\nCells" if everything else "\nChanged cells", style="bold"), _cells(rows)]
    parts.append(Text(f"\n{_sum(found)}"))
    for title, cells in (
        (f"Only in {found.before}", found.only_before),
        (f"Only in {found.after}", found.only_after),
        ("Not compared: the scenario has other parameters", found.redefined),
    ):
        if cells:
            parts.append(Text(f"{title}: {_listed(cells)}"))
    if found.doubts:
        parts.append(Text("\n".join(["\nAttention:", *(f"  - {each}" for each in found.doubts)])))
    return Group(*parts)


def _differences(found: Comparison) -> Table:
    table = grid.table(["what", "before", "after"])
    for each in found.differences:
        table.add_row(each.what, Text(each.before), Text(each.after))
    return table


def _cells(rows: pd.DataFrame) -> Table:
    several = rows["model"].nunique() > 1
    table = grid.table(
        ["cell", "number", "before", "after", "change", "95 %", "p (Holm)", "verdict"]
    )
    for values in rows_of(rows):
        cell = cell_of(values)
        name = said(cell) if several else f"{cell[1]} {case_id(*cell[2:])}"
        verdict = str(values["verdict"])
        style = _STYLES.get(verdict, "")
        table.add_row(Text(name), *_numbers(values), Text(_judged(values), style=style))
    return table


def _judged(row: dict[str, Any]) -> str:
    notes = [row["note"], "unstable" if row["trust"] == "unstable" else None]
    told = ", ".join(filter(None, notes))
    return f"{row['verdict']} ({told})" if told else str(row["verdict"])


def _numbers(row: dict[str, Any]) -> list[str]:
    metric = row["metric"]
    if row["before"] is None:
        return [metric, "", "", "", "", ""]
    ratio = metric in ("latency_p50_ms", "throughput_per_s", "rate_per_s", "load_min_mib")
    name = f"{metric} b{row['batch']:.0f}" if row["batch"] and row["batch"] != 1 else metric
    change = [row[each] for each in ("change", "change_low", "change_high")]
    moved, low, high = (_factor(each) if ratio else _points(each) for each in change)
    values = [row["before"], row["after"]]
    shown = [f"{each:.4g}" if ratio else f"{_SHARES * each:.2f} %" for each in values]
    interval = f"[{low}, {high}]" if low else "-"
    corrected = "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
    return [name, *shown, moved, interval, corrected]


def _factor(value: float | None) -> str:
    """A ratio as the change in per cent."""
    return "" if value is None or not math.isfinite(value) else f"{_SHARES * (value - 1):+.1f} %"


def _points(value: float | None) -> str:
    return "" if value is None else f"{_SHARES * value:+.2f}"


def _sum(found: Comparison) -> str:
    counts = found.rows["verdict"].value_counts()
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    return f"{len(found.rows)} comparisons: {told}." if told else "No cell is in both runs."


def _listed(cells: list[Cell], most: int = 8) -> str:
    """Cells by name; long lists are cut, for --json has them all."""
    names = [said(each) for each in cells]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
