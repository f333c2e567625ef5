"""Accuracy across environments, without anything happening to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hwbench.report.document import words
from hwbench.report.document.content import Entry, Figure, Panel, Section, Table, Text
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record
from hwbench.report.plots.forest import Estimate, forest

NOT_SHOWN = "not shown to differ"
_CONFIDENCE = 0.95


def reads(row: Record, name: str = "drift") -> Text:
    """What an interval of a difference says: above 0, below 0, or neither."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if not words.known(low) or not words.known(high):
        return Text("no interval", "muted")
    if high < 0:
        return Text("lower: interval below 0", "bad")
    if low > 0:
        return Text("higher: interval above 0", "good")
    return Text(NOT_SHOWN, "muted")


def by_chance(rows: Sequence[Record], name: str = "drift") -> str:
    """What a reader must know of many intervals that are each at 95 %."""
    count = sum(bool(words.known(row[f"{name}_low"])) for row in rows)
    if count < 2:
        return "The interval is at 95 %."
    expected = (1 - _CONFIDENCE) * count
    return (
        f"Each of the {count} intervals is at 95 % on its own, without a correction for their "
        f"number: if nothing differed, about {expected:.1f} of them would leave 0 out by chance."
    )


def section(material: Material) -> Section:
    """Clean accuracy, or agreement where there are no labels."""
    rows = [row for row in material.rows("drift") if row["kind"] == "environment"]
    good = [row for row in rows if row["status"] == "ok"]
    title = "Accuracy across environments"
    if not good:
        return Section("accuracy", title, ("No environment gave accuracy or agreement.",))
    labelled = [row for row in good if words.known(row["accuracy"])]
    compared = [row for row in labelled if row["environment"] != material.baseline]
    says = [*_conclusions(material, compared), *_gaps(good, labelled, compared)]
    figures = [_figure(material, compared)] if compared else []
    return Section("accuracy", title, tuple(says), (*figures, _table(material, rows)))


def _gaps(
    good: Sequence[Record], labelled: Sequence[Record], compared: Sequence[Record]
) -> list[Entry]:
    if not labelled:
        return ["There are no labels: decisions are compared with the baseline's, not with truth."]
    if len({row["environment"] for row in good}) == 1:
        return ["There is one environment: nothing to compare it with."]
    return [by_chance(compared)] if compared else []


def _conclusions(material: Material, compared: Sequence[Record]) -> list[Entry]:
    """Who differs from the baseline, in words."""
    says: list[Entry] = []
    for word, tone in (("lower", "bad"), ("higher", "good")):
        found = [row for row in compared if reads(row).text.startswith(word)]
        if found:
            names = words.joined([_change(material, row) for row in found])
            says.append(
                Text(
                    f"Accuracy is {word} than the baseline's in {names}.",
                    "bad" if tone == "bad" else "good",
                )
            )
    rest = sum(reads(row).text == NOT_SHOWN for row in compared)
    if rest:
        says.append(
            f"{words.plural(rest, 'environment')} {'is' if rest == 1 else 'are'} not shown to "
            f"differ from {material.baseline}; how large a difference could be hidden, the "
            "intervals say."
        )
    return says


def _change(material: Material, row: Record) -> str:
    place = words.cell(row, material.several_models).removesuffix(", clean")
    return f"{place} ({100 * row['drift']:+.2f} points)"


def _figure(material: Material, compared: Sequence[Record]) -> Figure:
    models = dict.fromkeys(str(row["model"]) for row in compared)
    panels = tuple(_panel(m, [row for row in compared if row["model"] == m]) for m in models)
    return Figure(
        "accuracy-environments",
        f"Change of accuracy against {material.baseline}",
        panels,
        "Points of accuracy with 95 % intervals, on the same samples. A filled diamond: the "
        "interval leaves 0 out. A ring: no difference is shown.",
        "tables/drift.csv",
        ("drift", "drift_low", "drift_high"),
        "kind = environment",
    )


def _panel(model: str, rows: Sequence[Record]) -> Panel:
    estimates = [estimate(row["environment"], row, "drift", 100.0) for row in rows]
    said = "; ".join(
        f"{row['environment']}: {words.with_interval(row, 'drift', '+.2f', 100)}" for row in rows
    )
    return Panel(model, said, partial(forest, estimates, "change of accuracy, points", 0.0))


def estimate(name: str, row: Record, column: str, scale: float, tone: str = "") -> Estimate:
    """A row of a forest from a row of a table."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    have = words.known(low) and words.known(high)
    return Estimate(
        name,
        scale * row[column],
        scale * low if have else None,
        scale * high if have else None,
        tone or reads(row, column).tone,
    )


def _table(material: Material, rows: Sequence[Record]) -> Table:
    columns = (
        "environment",
        "status",
        "accuracy %",
        "change, points",
        "reads",
        "same decisions as baseline %",
        "SQNR to baseline, dB",
    )
    return Table("Clean runs", columns, tuple(_row(material, r) for r in rows), "tables/drift.csv")


def _row(material: Material, row: Record) -> tuple[Entry, ...]:
    name = words.cell(row, material.several_models).removesuffix(", clean")
    if row["status"] != "ok":
        return (name, words.status(row), *[words.ABSENT] * 5)
    baseline = row["environment"] == material.baseline
    return (
        name,
        words.status(row),
        words.with_interval(row, "accuracy", ".2f", 100),
        words.ABSENT if baseline else words.with_interval(row, "drift", "+.2f", 100),
        Text("baseline", "muted") if baseline else reads(row),
        words.percent(row["agreement_baseline"]),
        words.number(row["sqnr_baseline_db"], ".1f"),
    )


def other_metrics(material: Material) -> list[Table]:
    """Metrics that the spec names, or the user's own."""
    own = material.rows("metrics")
    rows: list[tuple[Any, ...]] = [
        (
            words.cell(row, material.several_models),
            words.status(row),
            str(row["metric"]),
            words.number(row["value"]),
            words.number(row["n"], "d"),
        )
        for row in own
    ]
    tables = []
    if rows:
        columns = ("cell", "status", "metric", "value", "values")
        tables.append(
            Table("Metrics of your own", columns, tuple(rows), "tables/metrics.csv", folded=True)
        )
    named = [n for n in material.plan["metrics"] if ":" not in n]
    if named:
        tables.append(_named(material, named))
    return tables


def _named(material: Material, names: Sequence[str]) -> Table:
    rows = tuple(
        (
            words.cell(row, material.several_models),
            *(words.number(row[name]) if name in row else words.ABSENT for name in names),
        )
        for row in material.rows("drift")
        if row["status"] == "ok"
    )
    title = "Metrics that the spec names"
    return Table(title, ("cell", *names), rows, "tables/drift.csv", folded=True)
