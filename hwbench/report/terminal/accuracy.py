"""What environments are, and accuracy under every scenario, cells side by side."""

from __future__ import annotations

import pandas as pd
from rich.console import Group
from rich.text import Text

from hwbench.report.document import words
from hwbench.report.document.words import Record
from hwbench.report.terminal import grid
from hwbench.report.terminal.grid import ALARM, MUTED

_COLUMNS = 8  # cells side by side that a terminal has room for


def environments(frame: pd.DataFrame) -> Group:
    """What was asked for, and what ran."""
    several = grid.several(frame)
    columns = ["environment", "asked", "ran", "status", "runtime", "load ms", "peak MiB"]
    table = grid.table(columns)
    for row in frame.to_dict("records"):
        name = words.place(row, several)
        table.add_row(
            Text(name),
            Text(row["asked_precision"]),
            Text(words.text(row["actual_precision"])),
            grid.status(row["status"]),
            Text(words.text(row["runtime_version"]).split("-")[0]),
            words.number(row["load_ms"], ".1f"),
            words.number(row["run_peak_rss_mib"], ".0f"),
        )
    return grid.titled("Environments (asked and actual)", table)


def most_harmful(frame: pd.DataFrame) -> tuple[set[str], str]:
    """Titles of the cells that there is room for, and what the title says of the others."""
    rows = frame.to_dict("records")
    titles = list(dict.fromkeys(_title(row) for row in rows))
    if len(titles) <= _COLUMNS:
        return set(titles), ""
    harm: dict[str, float] = {}
    for row in rows:
        told = row["drift"] if not pd.isna(row["drift"]) else row["agreement_golden"]
        worst = float("inf") if pd.isna(told) or row["scenario"] == "clean" else float(told)
        harm[_title(row)] = min(harm.get(_title(row), worst), worst)
    ranked = sorted((each for each in titles if each != "clean"), key=harm.__getitem__)
    kept = {"clean", *ranked[: _COLUMNS - 1]}
    return kept, f", the {_COLUMNS - 1} most harmful of {len(ranked)} cells: tables/drift.csv"


def only(frame: pd.DataFrame, titles: set[str]) -> pd.DataFrame:
    """The rows of cells with these titles."""
    return frame[[_title(row) in titles for row in frame.to_dict("records")]]


def accuracy(model: str, frame: pd.DataFrame, baseline: str, cut: str) -> Group:
    """One line per environment, one column per cell."""
    labelled = bool(frame["accuracy"].notna().any())
    what = "accuracy %, and change in points" if labelled else "decisions equal to clean, %"
    cells = list(dict.fromkeys(_title(row) for row in frame.to_dict("records")))
    table = grid.table(["environment", *cells])
    for environment, rows in frame.groupby("environment", sort=False):
        by_cell = {_title(row): row for row in rows.to_dict("records")}
        shown = [_cell(by_cell[cell], labelled) for cell in cells]
        table.add_row(Text(str(environment)), *shown)
    return grid.titled(f"{model}: {what} (baseline {baseline}{cut})", table)


def metric(model: str, frame: pd.DataFrame, name: str) -> Group:
    """One metric, laid out as accuracy is."""
    cells = list(dict.fromkeys(_title(row) for row in frame.to_dict("records")))
    table = grid.table(["environment", *cells])
    for environment, rows in frame.groupby("environment", sort=False):
        by_cell = {_title(row): row for row in rows.to_dict("records")}
        table.add_row(
            Text(str(environment)), *(words.number(by_cell[c][name], ".4g") for c in cells)
        )
    return grid.titled(f"{model}: {name}", table)


def models(frame: pd.DataFrame) -> Group:
    """A line per model and environment: what it costs, and where it holds better or worse."""
    table = grid.table(["environment", "model", "clean %", "p50 ms", "peak MiB", "holds"])
    for (environment, model), rows in frame.groupby(["environment", "model"], sort=False):
        first = rows.iloc[0]
        counts = rows["holds"].value_counts()
        told = [f"{name} in {counts[name]}" for name in ("better", "worse", "alike")
                if name in counts]  # fmt: skip
        itself = model == first["reference"]
        table.add_row(
            Text(str(environment)),
            Text(str(model)),
            words.number(100 * first["accuracy_clean"], ".2f"),
            words.number(first["latency_p50_ms"], ".3f"),
            words.number(first["run_peak_rss_mib"], ".0f"),
            Text(
                "reference" if itself else ", ".join(told) or "-",
                style=MUTED if itself else "",
            ),
        )
    return grid.titled(
        "Models: loss under each scenario against the first (tables/models.csv)", table
    )


def _title(row: Record) -> str:
    """Of a column: the severity below the scenario."""
    return words.condition(row, "\n")


def _cell(row: Record, labelled: bool) -> Text:
    if row["status"] != "ok":
        return grid.status(row["status"])
    if not labelled:
        name = "agreement_baseline" if row["kind"] == "environment" else "agreement_golden"
        return Text(words.number(100 * row[name], ".2f"))
    text = Text(words.number(100 * row["accuracy"], ".2f"))
    if row["kind"] == "scenario" or row["drift"] != 0:
        text.append(f" {100 * row['drift']:+.2f}", style=_drift_style(row))
    if not pd.isna(row["drift_low"]) and (row["kind"] == "scenario" or row["drift"] != 0):
        text.append(
            f"\n[{100 * row['drift_low']:+.1f}, {100 * row['drift_high']:+.1f}]", style=MUTED
        )
    elif pd.isna(row["drift_low"]) and not pd.isna(row["drift"]):
        text.append(f"\n{row['drift_interval']}", style=MUTED)
    return text


def _drift_style(row: Record) -> str:
    """Red only where the interval excludes no change."""
    return ALARM if not pd.isna(row["drift_high"]) and row["drift_high"] < 0 else MUTED
