"""Latencies, the slowest first where there are many."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from hwbench.collect.latency import SINGLE
from hwbench.report.document import words
from hwbench.report.terminal import grid
from hwbench.report.terminal.grid import ALARM, GOOD, MUTED

_ROWS = 24


def latency(frame: pd.DataFrame) -> Group:
    """One line per arm, with its ratio to the baseline and whether it can be trusted."""
    columns = ["environment", "batch", "p50 ms", "95 %", "p99 ms", "ratio", "95 %", "verdict"]
    table = grid.table([*columns, "finds", "load ms", "n", "trust"])
    rows, cut = slowest(frame)
    several = grid.several(frame)
    for row in rows:
        name = words.place(row, several) + words.under(row)
        if row["use"] != SINGLE:
            name += f" {row['use']}"
        if row["status"] != "ok":
            table.add_row(Text(name), str(row["batch"]), grid.status(row["status"]))
            continue
        table.add_row(
            Text(name),
            str(row["batch"]),
            words.number(row["latency_p50_ms"], ".3f"),
            grid.interval(row, "latency_p50_ms", ".3f"),
            words.number(row["latency_p99_ms"], ".3f"),
            Text(words.number(row["ratio"], ".2f"), style=_ratio_style(row)),
            grid.interval(row, "ratio", ".2f"),
            Text(words.text(row["verdict"]), style=_ratio_style(row)),
            words.number(100 * (row["detectable"] - 1), "+.1f")
            + " %" * pd.notna(row["detectable"]),
            words.number(row["load_ms"], ".1f"),
            f"{row['processes']}x{row['n_calls'] // max(1, row['processes'])}",
            Text(row["trust"], style=GOOD if row["trust"] == "trustworthy" else ALARM),
        )
    return grid.titled(f"Latency (geometric mean of per-process medians{cut})", table)


def slowest(frame: pd.DataFrame) -> tuple[list[dict[Any, Any]], str]:
    """Clean rows, and of the others those that are slowed down most, where there are too many."""
    rows = frame.to_dict("records")
    if len(rows) <= _ROWS:
        return rows, ""
    clean = [each for each in rows if each["scenario"] == "clean"]
    others = [each for each in rows if each["scenario"] != "clean"]
    others.sort(key=lambda each: 0.0 if pd.isna(each["slowdown"]) else -each["slowdown"])
    kept = clean + others[: max(0, _ROWS - len(clean))]
    return kept, f"; {len(kept)} of {len(rows)} rows, slowest first: tables/latency.csv"


def _ratio_style(row: dict[Any, Any]) -> str:
    return {"slower": ALARM, "faster": GOOD}.get(words.text(row["verdict"]), MUTED)
