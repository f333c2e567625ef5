"""The memory cliff: how little is enough, and what happens below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwbench.record import Row
from hwbench.report.document import words
from hwbench.report.document.content import Entry, Figure, Panel, Section, Table, Text
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record
from hwbench.report.plots.cliff import Tried, cliff


def section(material: Material) -> Section:
    """Searches for the smallest limit; what fixed limits did stands with the scenarios."""
    rows = material.rows("limits")
    title = "Memory cliff"
    if not rows:
        none = (
            'No memory search was asked for ("memory: {search: true}"): its limits are not known.'
        )
        return Section("memory", title, (none,))
    done = [row for row in rows if row["status"] == "ok"]
    says: list[Entry] = [_sentence(material, row) for row in done]
    if not done:
        says.append("No search for the smallest memory limit was completed.")
    panels = tuple(p for row in rows if (p := _panel(material, row)) is not None)
    figures = [_figure(panels)] if panels else []
    return Section("memory", title, tuple(says), (*figures, _table(material, rows)))


def _place(material: Material, row: Record) -> str:
    model = f"{row['model']}/" if material.several_models else ""
    return f"{model}{row['environment']}"


def _sentence(material: Material, row: Record) -> Entry:
    place = _place(material, row)
    if not words.known(row["load_min_mib"]):
        return Text(f"{place} ran under no limit that was tried.", "bad")
    keeps = (
        f", and keeps p50 within twice its own from {row['latency_min_mib']:.1f} MiB"
        if words.known(row["latency_min_mib"])
        else ""
    )
    below = f"; 30 % below it ends with {_below(row)}" if words.known(row["below_outcome"]) else ""
    return (
        f"{place} loads and runs from {row['load_min_mib']:.1f} MiB on (found to within "
        f"{words.number(row['tolerance_mib'], '.1f')} MiB){keeps}{below}."
    )


def _figure(panels: tuple[Panel, ...]) -> Figure:
    return Figure(
        "memory-cliff",
        "Latency and death under memory limits",
        panels,
        "Dots: processes that ran, by how much slower than without a limit (dotted line: twice as "
        "slow). Crosses at the foot: processes that died or hung. Dashed lines: the smallest "
        "limits found; to keep up is to stay below the dotted line.",
        "processes/*.parquet",
        ("severity", "outcome", "latency_p50_ms", "scenario"),
        "kind = search",
    )


def _panel(material: Material, row: Record) -> Panel | None:
    tried = _tried(material.probes, row)
    if not tried:
        return None
    load, latency = (
        float(row[name]) if words.known(row[name]) else None
        for name in ("load_min_mib", "latency_min_mib")
    )
    ran = sum(each.ran for each in tried)
    said = f"{len(tried)} processes under limits, {ran} ran. {words.text(row['below_message'])}"
    title = f"{_place(material, row)}, {row['scenario']}"
    return Panel(title, said, partial(cliff, tried, load, latency))


def _tried(probes: Sequence[Row], row: Record) -> list[Tried]:
    free = row["latency_p50_ms"]
    here = [
        each
        for each in probes
        if (each["model"], each["environment"], each["scenario"])
        == (row["model"], row["environment"], row["scenario"])
        and each["severity"] is not None
    ]
    return [
        Tried(
            float(each["severity"]),
            each["outcome"] == "ok",
            each["latency_p50_ms"] / free
            if each["latency_p50_ms"] is not None and words.known(free)
            else None,
        )
        for each in here
    ]


def _below(row: Record) -> str:
    if not words.known(row["below_outcome"]):
        return words.ABSENT
    return f"{row['below_outcome']} in {words.text(row['below_phase'])}"


def _table(material: Material, rows: Sequence[Record]) -> Table:
    names = ("floor_rss_mib", "peak_rss_mib", "group_peak_mib", "load_min_mib", "latency_min_mib")
    made = tuple(
        (
            _place(material, row),
            words.status(row),
            *(words.number(row[name], ".1f") for name in names),
            _below(row),
            words.text(row["mechanism"]),
        )
        for row in rows
    )
    columns = (
        "environment",
        "status",
        "import alone, MiB",
        "peak RSS, MiB",
        "peak with files, MiB",
        "loads from, MiB",
        "p50 within 2x from, MiB",
        "30 % below",
        "limited by",
    )
    return Table("Memory", columns, made, "tables/limits.csv")
