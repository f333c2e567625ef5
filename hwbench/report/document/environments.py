"""What was asked for and what really ran; what a lesser instruction set does."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.report.document import words
from hwbench.report.document.content import Entry, Section, Table, Text
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record


def section(material: Material) -> Section:
    """Asked beside actual, for every environment."""
    rows = material.rows("environments")
    differing = [row for row in rows if words.known(row["deviation"])]
    failed = [row for row in rows if row["status"] != "ok"]
    says: list[Entry] = []
    if not differing and not failed:
        says.append(Text("Every environment ran as asked, by the runtime's own account.", "good"))
    for row in differing:
        allowed = " (the spec allows it)" if row["status"] == "ok" else ""
        says.append(Text(f"{_place(material, row)}: {row['deviation']}{allowed}.", "bad"))
    if failed:
        names = words.joined([f"{_place(material, row)} ({row['status']})" for row in failed])
        impossible = all(row["status"] == "unsupported" for row in failed)
        says.append(Text(f"Without numbers: {names}.", "muted" if impossible else "bad"))
    says += [_emulated(material, row) for row in rows if words.known(row["emulator"])]
    tables = _table(material, rows), _costs(material, rows)
    return Section("environments", "Asked and actual", tuple(says), tables)


def _emulated(material: Material, row: Record) -> Text:
    board = f"{words.text(row['cpu'])}, {words.text(row['architecture'])}"
    return Text(
        f"{_place(material, row)} ran on an emulated processor ({board}; {row['emulator']}): what"
        " it computes counts, its times and memory do not and are left out.",
        "muted",
    )


def _place(material: Material, row: Record) -> str:
    return (
        f"{row['model']}/{row['environment']}"
        if material.several_models
        else str(row["environment"])
    )


def _table(material: Material, rows: Sequence[Record]) -> Table:
    made = tuple(
        (
            _place(material, row),
            words.status(row),
            *(_beside(row, name) for name in ("device", "precision", "threads")),
            _operators(row),
            words.text(row["provider"]),
            words.text(row["isa"]),
            words.text(row["runtime_version"]),
        )
        for row in rows
    )
    columns = (
        "environment",
        "status",
        "device",
        "precision",
        "threads",
        "operators as asked",
        "provider",
        "instruction set",
        "runtime",
    )
    return Table("Asked and actual", columns, made, "tables/environments.csv")


def _beside(row: Record, name: str) -> Entry:
    asked, actual = words.text(row[f"asked_{name}"]), words.text(row[f"actual_{name}"])
    if actual == words.ABSENT:
        return Text(f"asked {asked}, not told", "muted")
    if asked == actual:
        return f"{asked}, as asked"
    return Text(f"asked {asked}, ran {actual}", "bad" if name == "precision" else "plain")


def _operators(row: Record) -> str:
    if not words.known(row["operators"]):
        return words.ABSENT
    return f"{row['operators_as_asked']} of {row['operators']}"


def _costs(material: Material, rows: Sequence[Record]) -> Table:
    names = ("import_ms", "load_ms", "first_inference_ms")
    memory = ("build_peak_rss_mib", "run_peak_rss_mib")
    made = tuple(
        (
            _place(material, row),
            *(words.number(row[name], ".1f") for name in names),
            *(words.number(row[name], ".0f") for name in memory),
        )
        for row in rows
    )
    columns = (
        "environment",
        "import ms",
        "load ms",
        "first inference ms",
        "building, MiB",
        "running, MiB",
    )
    title = "Times and memory of starting"
    return Table(title, columns, made, "tables/environments.csv", folded=True)


def instruction_sets(material: Material) -> Section:
    """Findings on capped or emulated instruction sets, and on saturation."""
    rows = material.rows("isa")
    title = "Instruction sets and saturation"
    if not rows:
        none = "No lesser instruction set was tried (scenario isa): int8 saturation is not known."
        return Section("isa", title, (none,))
    says: list[Entry] = [
        Text(
            f"{words.cell(row, material.several_models)}: {row['diagnosis']}",
            "bad" if row["saturates"] is True else "plain",
        )
        for row in rows
        if words.known(row["diagnosis"])
    ]
    if not says:
        says.append("No condition told more than its numbers do.")
    return Section("isa", title, tuple(says), (_isa_table(material, rows),))


def _isa_table(material: Material, rows: Sequence[Record]) -> Table:
    made = tuple(
        (
            words.cell(row, material.several_models)
            + (" (emulated)" if row["emulated"] is True else ""),
            words.status(row),
            words.text(row["kernels"]),
            words.number(row["sqnr_golden_db"], ".1f"),
            words.percent(row["accuracy"]),
            words.percent(row["accuracy_native"]),
            _saturates(row),
        )
        for row in rows
    )
    columns = (
        "cell",
        "status",
        "kernels",
        "SQNR to own native, dB",
        "accuracy %",
        "native accuracy %",
        "int8 saturates",
    )
    return Table("Instruction sets", columns, made, "tables/isa.csv")


def _saturates(row: Record) -> Text:
    if not words.known(row["saturates"]):
        return Text("not known", "muted")
    return Text("yes", "bad") if row["saturates"] else Text("not shown", "muted")
