"""What conditions and time cost: quotas, memory, instruction sets, soaks."""

from __future__ import annotations

import pandas as pd
from rich.console import Group
from rich.text import Text

from hwbench.report.document import words
from hwbench.report.document.words import Record
from hwbench.report.terminal import grid
from hwbench.report.terminal.grid import ALARM, GOOD, MUTED
from hwbench.report.terminal.latency import slowest


def strained(frame: pd.DataFrame) -> Group:
    """What conditions cost: throughput tells of a quota, the tail of contention."""
    table = grid.table(["environment", "batch", "throughput", "95 %", "p99", "95 %"])
    several = grid.several(frame)
    for row in slowest(frame[frame["status"] == "ok"])[0]:
        shown: list[Text | str] = []
        for name in ("throughput_ratio", "latency_p99_ratio"):
            shown += [words.number(row[name], ".2f"), grid.interval(row, name, ".2f")]
        table.add_row(Text(words.place(row, several) + words.under(row)), str(row["batch"]), *shown)
    return grid.titled("Under conditions, as ratios to the same environment's clean", table)


def limits(frame: pd.DataFrame) -> Group:
    """Where the memory cliff is: what is needed, and what happens below."""
    columns = ["environment", "import RSS", "peak RSS", "with files", "loads from", "p50 < 2x from"]
    table = grid.table([*columns, "+-", "30 % below"])
    for row in frame.to_dict("records"):
        name = Text(row["environment"])
        if row["status"] != "ok":
            table.add_row(name, *[""] * 6, grid.status(row["status"]))
            continue
        below = f"{words.text(row['below_outcome'])} in {words.text(row['below_phase'])}"
        table.add_row(
            name,
            *(
                words.number(row[column], ".1f")
                for column in (
                    *("floor_rss_mib", "peak_rss_mib", "group_peak_mib", "load_min_mib"),
                    *("latency_min_mib", "tolerance_mib"),
                )
            ),
            Text(below),
        )
    return grid.titled("Memory (MiB): what it takes, and the smallest limits found", table)


def isa(frame: pd.DataFrame) -> Group:
    """Which kernels ran, and how far outputs moved from the native ones."""
    columns = ["environment", "condition", "status", "kernels", "dB own", "dB base", "native", "%"]
    table = grid.table(columns)
    for row in frame.to_dict("records"):
        table.add_row(
            Text(row["environment"]),
            Text(words.under(row).strip() + ("" if row["emulated"] is not True else " (emulated)")),
            grid.status(row["status"]),
            Text(words.text(row["kernels"])),
            Text(words.number(row["sqnr_golden_db"], ".1f"), style=_saturation_style(row)),
            words.number(row["sqnr_baseline_db"], ".1f"),
            words.number(row["sqnr_baseline_native_db"], ".1f"),
            words.number(100 * row["accuracy"], ".2f"),
        )
    title = "Instruction sets (SQNR in dB against own native outputs, and against the baseline's)"
    return grid.titled(title, table)


def _saturation_style(row: Record) -> str:
    return ALARM if row["saturates"] is True else MUTED


def soak(frame: pd.DataFrame) -> Group:
    """Whether a machine holds its speed."""
    columns = ["environment", "mean ms", "per min", "95 %", "last/first", "95 %", "C", "MHz", ""]
    table, several = grid.table([*columns, "course"]), grid.several(frame)
    for row in frame.to_dict("records"):
        name = words.place(row, several) + words.under(row)
        if row["status"] != "ok":
            table.add_row(Text(name), grid.status(row["status"]))
            continue
        throttled = row["throttled"] is True
        table.add_row(
            Text(name),
            words.number(row["latency_mean_ms"], ".3f"),
            words.number(row["drift_per_min"], ".3f"),
            grid.interval(row, "drift_per_min", ".3f"),
            words.number(row["last_to_first"], ".3f"),
            grid.interval(row, "last_to_first", ".3f"),
            words.number(row["temperature_c_last"], ".0f"),
            words.number(row["frequency_mhz_last"], ".0f"),
            Text("throttled" if throttled else "steady", style=ALARM if throttled else GOOD),
            Text(row["course"]),
        )
    return grid.titled("Soak (mean latency over time)", table)
