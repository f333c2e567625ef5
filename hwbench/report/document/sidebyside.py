"""Several models side by side: does the simpler one hold better, and what does it cost?"""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.report.document import words
from hwbench.report.document.content import Entry, Section, Table, Text, Tone
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record


def sections(material: Material) -> tuple[Section, ...]:
    """One where the run has several models, else none."""
    if not material.several_models:
        return ()
    rows = material.rows("models")
    reference = next((str(row["reference"]) for row in rows if words.known(row["reference"])), "")
    says = _says(rows, reference)
    title = "Models side by side"
    return (Section("models", title, says, (_table(rows, reference), _costs(rows))),)


def _says(rows: Sequence[Record], reference: str) -> tuple[Entry, ...]:
    compared = [row for row in rows if words.known(row["drift_difference_low"])]
    said: list[Entry] = []
    tones: tuple[tuple[str, Tone], ...] = (("better", "good"), ("worse", "bad"))
    for how, tone in tones:
        found = [_place(row) for row in compared if row["holds"] == how]
        if found:
            what = f"Holds {how} than {reference} (the interval leaves 0 out): "
            said.append(Text(f"{what}{words.joined(found)}.", tone))
    if not said:
        said.append(f"No model is shown to hold better or worse than {reference}.")
    if compared:
        chance = words.number(0.05 * len(compared), ".1f")
        said.append(
            f"Each of the {len(compared)} intervals is at 95 % on its own: if nothing differed,"
            f" about {chance} of them would leave 0 out by chance."
        )
    return tuple(said)


def _place(row: Record) -> str:
    return words.cell(row)


def _table(rows: Sequence[Record], reference: str) -> Table:
    made = tuple(
        (
            _place(row),
            words.status(row),
            words.percent(row["accuracy_clean"]),
            words.percent(row["accuracy"]),
            words.number(_points(row["drift"]), "+.2f"),
            words.with_interval(row, "drift_difference", "+.2f", 100),
            words.text(row["holds"]),
        )
        for row in rows
        if row["scenario"] != "clean"
    )
    columns = (
        "cell",
        "status",
        "clean accuracy %",
        "accuracy %",
        "change, points",
        f"change minus that of {reference}, points",
        "holds",
    )
    return Table("Under every scenario", columns, made, "tables/models.csv")


def _points(share: float) -> float | None:
    return 100 * share if words.known(share) else None


def _costs(rows: Sequence[Record]) -> Table:
    made = tuple(
        (
            f"{row['model']}/{row['environment']}",
            words.status(row),
            words.percent(row["accuracy"]),
            words.number(row["latency_p50_ms"], ".3g"),
            words.number(row["load_ms"], ".1f"),
            words.number(row["run_peak_rss_mib"], ".0f"),
        )
        for row in rows
        if row["scenario"] == "clean"
    )
    columns = ("model and environment", "status", "accuracy %", "p50 ms", "load ms", "peak MiB")
    return Table("What each costs, nothing happening", columns, made, "tables/models.csv")
