"""Latency over a long time: drift, steps, and what the sensors said."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwbench.record import Row
from hwbench.report.document import words
from hwbench.report.document.content import Entry, Figure, Panel, Section, Table, Text
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record
from hwbench.report.plots.course import course, sensor

_NAMES = ("model", "environment", "scenario", "severity_name", "severity", "batch")
_DRAWN = 12
_STILL = 0.01
_SENSORS = (("temperature_c", "°C"), ("frequency_mhz", "MHz"))


def section(material: Material) -> Section:
    """One drawing a soak, one more per sensor that said something."""
    rows = material.rows("soak")
    if not rows:
        none = "No soak was run: nothing is known of drift over time or of throttling."
        return Section("soak", "Soak", (none,))
    good = [row for row in rows if row["status"] == "ok"]
    shown = _worth_drawing(good)
    panels = tuple(p for row in shown for p in _panels(material, row))
    figures = [_figure(panels, len(shown), len(good))] if panels else []
    says = (*_throttling(material, good), *_refused(material, rows))
    return Section("soak", "Soak", says, (*figures, _table(material, rows)))


def _throttling(material: Material, good: Sequence[Record]) -> list[Entry]:
    tested = [row for row in good if words.known(row["throttled"])]
    stepped = [row for row in tested if row["throttled"]]
    says: list[Entry] = [
        Text(f"{words.cell(row, material.several_models)}: {words.text(row['diagnosis'])}.", "bad")
        for row in stepped
    ]
    steady = len(tested) - len(stepped)
    if steady:
        says.append(
            f"No lasting slowdown is shown in {steady} of {words.plural(len(good), 'soak')}."
        )
    if stepped:
        says.append(
            f"Each of the {len(tested)} tests is at 1 % on its own: about {0.01 * len(tested):.2g} "
            "of them would find a step in steady soaks by chance."
        )
    if len(tested) < len(good):
        short = next(row for row in good if not words.known(row["throttled"]))
        count = words.plural(len(good) - len(tested), "soak")
        says.append(f"{count} could not be tested: {words.text(short['diagnosis'])}.")
    return says


def _refused(material: Material, rows: Sequence[Record]) -> list[Entry]:
    return [
        Text(
            f"{words.cell(row, material.several_models)}: {row['status']}, "
            f"{words.text(row['note'])}",
            "bad",
        )
        for row in rows
        if row["status"] not in ("ok", "unsupported")
    ]


def _worth_drawing(good: Sequence[Record]) -> list[Record]:
    """Those that stepped up, then clean ones, then others, as far as a reader follows."""

    def rank(row: Record) -> tuple[bool, bool]:
        stepped = words.known(row["throttled"]) and bool(row["throttled"])
        return (not stepped, row["scenario"] != "clean")

    return sorted(good, key=rank)[:_DRAWN]


def _figure(panels: tuple[Panel, ...], drawn: int, of: int) -> Figure:
    return Figure(
        "soak",
        "Latency over time",
        panels,
        "Mean and median of each window of timed calls. A red line stands where latency stepped "
        "up by 10 % or more and stayed there (a test at 1 %).",
        "soak/*.parquet",
        ("t_s", "latency_mean_ms", "latency_p50_ms", "temperature_c", "frequency_mhz"),
        "all soaks" if drawn == of else f"{drawn} of {of} soaks: steps first, then clean ones",
    )


def _panels(material: Material, row: Record) -> list[Panel]:
    found = _series(material.soaks, row)
    if found is None:
        return []
    name = words.cell(row, material.several_models)
    step = float(row["throttled_at_s"]) if words.known(row["throttled_at_s"]) else None
    said = f"{words.text(row['diagnosis'])}; mean {words.number(row['latency_mean_ms'])} ms."
    panels = [
        Panel(
            name,
            said.removeprefix("-; ").capitalize(),
            partial(course, found["t_s"], found["latency_mean_ms"], found["latency_p50_ms"], step),
        )
    ]
    for column, unit in _SENSORS:
        values = found[column] or []
        if _moves(values):
            most = max(each for each in values if each is not None)
            panels.append(
                Panel(
                    f"{name}: {unit}",
                    f"At most {most:g} {unit}.",
                    partial(sensor, found["t_s"], values, unit),
                )
            )
    return panels


def _moves(values: Sequence[float | None]) -> bool:
    """Whether a sensor said anything that a line shows: a constant stands in the table."""
    known = [each for each in values if each is not None]
    return len(known) > 1 and max(known) - min(known) > _STILL * max(map(abs, known))


def _series(soaks: Sequence[Row], row: Record) -> Row | None:
    """The last series of a row's place."""
    key = tuple(_plain(row[name]) for name in _NAMES)
    found = [each for each in soaks if tuple(_plain(each[name]) for name in _NAMES) == key]
    return found[-1] if found else None


def _plain(value: object) -> object:
    return value if words.known(value) else None


def _table(material: Material, rows: Sequence[Record]) -> Table:
    made = tuple(
        (
            words.cell(row, material.several_models),
            words.status(row),
            words.number(row["latency_mean_ms"], ".3g"),
            words.with_interval(row, "drift_per_min", ".3f"),
            words.with_interval(row, "last_to_first", ".3f"),
            _throttled(row),
            _range(row, "temperature_c"),
            _range(row, "frequency_mhz"),
        )
        for row in rows
    )
    columns = (
        "cell",
        "status",
        "mean ms",
        "factor per minute",
        "last quarter to first",
        "reads",
        "°C first, last",
        "MHz first, last",
    )
    return Table("Soak", columns, made, "tables/soak.csv", folded=len(rows) > _DRAWN)


def _throttled(row: Record) -> Entry:
    if not words.known(row["throttled"]):
        return Text("not told", "muted")
    if row["throttled"]:
        return Text(f"throttled by {words.number(row['throttled_ratio'], '.2f')}x", "bad")
    return Text("steady", "good")


def _range(row: Record, name: str) -> str:
    if not words.known(row[f"{name}_first"]):
        return "no sensor"
    return f"{row[f'{name}_first']:.0f}, {row[f'{name}_last']:.0f}"
