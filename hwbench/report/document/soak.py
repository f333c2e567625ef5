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
_SENSORS = (("temperature_c", "°C"), ("frequency_mhz", "MHz"))


def section(material: Material) -> Section:
    """One drawing a soak, one more per sensor that said something."""
    rows = material.rows("soak")
    if not rows:
        none = "No soak was run: nothing is known of drift over time or of throttling."
        return Section("soak", "Soak", (none,))
    panels = tuple(p for row in rows for p in _panels(material, row))
    figures = [_figure(panels)] if panels else []
    says = tuple(_sentence(material, row) for row in rows)
    return Section("soak", "Soak", says, (*figures, _table(material, rows)))


def _sentence(material: Material, row: Record) -> Entry:
    place = words.cell(row, material.several_models)
    if row["status"] != "ok":
        return Text(f"{place}: {row['status']}, {words.text(row['note'])}", "bad")
    if not words.known(row["throttled"]):
        return f"{place}: {words.text(row['diagnosis'])}"
    if row["throttled"]:
        return Text(f"{place}: {words.text(row['diagnosis'])} (significant at 1 %)", "bad")
    minutes = row["duration_s"] / 60
    return (
        f"{place}: no lasting slowdown is shown over {minutes:.1f} min; the last quarter took "
        f"{words.with_interval(row, 'last_to_first')} of the first."
    )


def _figure(panels: tuple[Panel, ...]) -> Figure:
    return Figure(
        "soak",
        "Latency over time",
        panels,
        "Mean and median of each window of timed calls. A red line stands where latency stepped "
        "up by 10 % or more and stayed there (a test at 1 %).",
        "soak/*.parquet",
        ("t_s", "latency_mean_ms", "latency_p50_ms", "temperature_c", "frequency_mhz"),
        "one drawing a soak",
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
        if any(each is not None for each in values):
            most = max(each for each in values if each is not None)
            panels.append(
                Panel(
                    f"{name}: {unit}",
                    f"At most {most:g} {unit}.",
                    partial(sensor, found["t_s"], values, unit),
                )
            )
    return panels


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
    return Table("Soak", columns, made, "tables/soak.csv")


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
