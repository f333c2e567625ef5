"""Provenance, and how every figure can be had again."""

from __future__ import annotations

from typing import Any

from hwbench.report.document import words
from hwbench.report.document.content import Entry, Figure, Listing, Section, Table
from hwbench.report.document.material import Material


def section(material: Material) -> Section:
    """Machine, versions, seeds and inputs of the run, and its spec."""
    run = material.run
    says = (
        "Equal spec, seed, versions and inputs give equal records on any executor; latencies "
        "belong to this machine.",
    )
    parts = (
        _facts("Machine", run.get("machine", {}), "run.json"),
        _facts("Versions", run.get("versions", {}), "run.json"),
        _facts("Run", _run(material), "run.json"),
        _inputs(material),
        Listing("The spec as resolved (spec.yaml)", material.spec),
    )
    return Section("provenance", "Provenance", says, parts)


def _facts(title: str, facts: Any, source: str) -> Table:
    rows = tuple((str(key), _fact(value)) for key, value in sorted(facts.items()))
    return Table(title, ("what", "value"), rows, source)


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(each) for each in value) or words.ABSENT
    return words.text(value) if not isinstance(value, dict) else str(value)


def _run(material: Material) -> dict[str, Any]:
    run, budget = material.run, material.run.get("budget") or {}
    return {
        "started": run.get("started"),
        "seed": run.get("seed"),
        "schema of the stored rows": run.get("schema"),
        "baseline": material.baseline,
        "complete": "yes" if material.plan.get("complete", True) else "no",
        "budget": budget.get("asked"),
    }


def _inputs(material: Material) -> Table:
    found = material.run.get("inputs", {})
    rows = tuple((str(name), str(each["model"]), str(each["data"])) for name, each in found.items())
    title = "Inputs by content hash"
    return Table(title, ("model", "hash of the model", "hash of the data"), rows, "run.json")


def reproduction(material: Material, figures: list[tuple[int, Figure]]) -> Section:
    """Command, files, rows and columns behind every figure."""
    says: list[Entry] = [
        'The numbers: "hwbench sweep spec.yaml" with the spec.yaml of this folder; one stored '
        'record again, to the bit: "hwbench replay RUN CELL#PATTERN:BATCH".',
        f'The tables and figures, from the stored rows: "{material.command}".',
    ]
    rows = tuple(
        (
            f"{number}",
            figure.title,
            material.command,
            figure.files,
            ", ".join(figure.columns),
            figure.rows,
        )
        for number, figure in figures
    )
    if not rows:
        says.append("This report has no figures.")
    columns = ("figure", "shows", "command", "drawn from", "columns", "rows")
    parts = (Table("Figures", columns, rows),) if rows else ()
    return Section("reproduce", "How to reproduce every figure", tuple(says), parts)
