"""Where single faults hurt, and what campaigns know."""

from __future__ import annotations

import pandas as pd
from rich.console import Group
from rich.text import Text

from hwbench.report.document import words
from hwbench.report.terminal import grid

_WORST = 10


def vulnerability(frame: pd.DataFrame) -> Group:
    """The sites and bit fields in which single faults did most; the table file has them all."""
    columns = ["environment", "site", "field", "P(sdc) %", "95 %", "any %", "due %", "pvf %", "n"]
    table = grid.table(columns)
    ranked = frame.sort_values(["p_sdc", "p_due"], ascending=False, kind="stable")
    for row in ranked.head(_WORST).to_dict("records"):
        table.add_row(
            Text(f"{row['environment']} {row['scenario']}"),
            Text(row["site"]),
            Text(row["field"]),
            words.percent(row["p_sdc"]),
            grid.interval(row, "p_sdc", ".2f", 100),
            *(words.percent(row[name]) for name in ("p_any_sdc", "p_due", "pvf")),
            str(row["n"]),
        )
    title = "Vulnerability to single faults, worst first"
    if len(frame) > _WORST:
        title += f" ({_WORST} of {len(frame)} rows; all in tables/vulnerability.csv)"
    return grid.titled(title, table)


def campaigns(frame: pd.DataFrame) -> Group:
    """What each campaign knows, and what that took."""
    columns = ["environment", "estimand", "rate %", "interval", "at", "faults", "formula", "saved"]
    table = grid.table(columns)
    for row in frame.to_dict("records"):
        name = Text(f"{row['environment']} {row['scenario']}")
        if row["status"] not in ("ok", "open") or pd.isna(row["faults"]):
            table.add_row(name, grid.status(row["status"]))
            continue
        table.add_row(
            name,
            Text(row["estimand"]),
            words.number(100 * row["rate"], ".3f"),
            grid.interval(row, "rate", ".2f", 100),
            f"{100 * row['confidence']:g} %",
            str(row["faults"]),
            str(row["formula"]),
            "open" if pd.isna(row["saved"]) else f"{100 * row['saved']:.0f} %",
        )
    return grid.titled(
        "Campaigns over single faults (saved: against the fixed-size formula)", table
    )
