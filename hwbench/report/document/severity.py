"""What scenarios cost: accuracy over severity, who loses more than the baseline, and by what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hwbench.collect.campaigns import STRATIFIED
from hwbench.report.document import accuracy, words
from hwbench.report.document.content import Entry, Figure, Panel, Section, Table, Text
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record
from hwbench.report.plots.curves import MOST, Curve, Scale, curves, parts, suits_logarithm
from hwbench.report.plots.forest import forest

_LEVEL = 0.05
_WORST = 8


def section(material: Material) -> Section:
    """Every scenario of the sweep but campaigns, which have patterns of unlike weight."""
    rows = [
        row
        for row in material.rows("drift")
        if row["kind"] != "environment" and words.text(row["accuracy_interval"]) != STRATIFIED
    ]
    title = "Accuracy under scenarios"
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        return Section("scenarios", title, ("No scenario gave accuracy or agreement.",))
    figures = [each for each in (_curves(material, good), _single(material, good)) if each]
    tables = [
        _table(material, rows),
        *_interaction_tables(material),
        *_sensitivity(material),
        *_other_data(material),
        *_corruption(material),
        *accuracy.other_metrics(material),
    ]
    says = (*_conclusions(material, good), *_interactions(material))
    return Section("scenarios", title, says, (*figures, *tables))


def _conclusions(material: Material, good: Sequence[Record]) -> list[Entry]:
    drifts = [row for row in good if words.known(row["drift"])]
    if not drifts:
        return ["There are no labels: what is told is the share of decisions equal to clean."]
    worse = [row for row in drifts if accuracy.reads(row).tone == "bad"]
    says: list[Entry] = []
    if worse:
        worst = min(worse, key=lambda row: row["drift"])
        says.append(
            Text(
                f"{len(worse)} of {len(drifts)} cells lose accuracy (interval below 0); the worst "
                f"is {words.cell(worst, material.several_models)} with "
                f"{words.with_interval(worst, 'drift', '+.1f', 100)} points.",
                "bad",
            )
        )
    else:
        says.append(f"In none of {len(drifts)} cells a loss of accuracy is shown.")
    return [*says, accuracy.by_chance(drifts)]


def _interactions(material: Material) -> list[Entry]:
    tested = [row for row in material.rows("interaction") if words.known(row["p_holm"])]
    if not tested:
        return []
    found = [row for row in tested if row["p_holm"] < _LEVEL and words.text(row["loses"]) == "more"]
    if not found:
        return [
            "No environment is shown to lose more than the baseline does under the same faults "
            f"or noise ({len(tested)} tests, Holm-corrected, 5 %)."
        ]
    names = words.joined([words.cell(row, material.several_models) for row in found])
    return [
        Text(
            f"More is lost than in the baseline in {words.plural(len(found), 'cell')} of "
            f"{len(tested)} (significant at 5 % after Holm's correction): {names}.",
            "bad",
        )
    ]


Group = tuple[str, str, str]  # model, scenario, severity_name


def _groups(rows: Sequence[Record]) -> dict[Group, list[Record]]:
    found: dict[Group, list[Record]] = {}
    for row in rows:
        if words.known(row["severity"]) and math.isfinite(row["severity"]):
            key = (row["model"], row["scenario"], row["severity_name"])
            found.setdefault(key, []).append(row)
    return found


def _levels(rows: Sequence[Record]) -> set[float]:
    return {row["severity"] for row in rows}


def _curves(material: Material, good: Sequence[Record]) -> Figure | None:
    groups = {key: rows for key, rows in _groups(good).items() if len(_levels(rows)) > 1}
    panels = tuple(p for key, rows in groups.items() for p in _panels(material, key, rows))
    if not panels:
        return None
    return Figure(
        "severity-curves",
        "Accuracy over severity",
        panels,
        "Harsher is further right. Bands are 95 % intervals; where there are too few patterns "
        "for one there is no band. The dotted line is the baseline's clean accuracy. Without "
        "labels: the share of decisions that equal the environment's own clean ones.",
        "tables/drift.csv",
        (
            "severity",
            "accuracy",
            "accuracy_low",
            "accuracy_high",
            "harmed_per_sample",
            "harmed_per_sample_low",
            "harmed_per_sample_high",
        ),
        "kind = scenario or shift, by scenario",
    )


def _panels(material: Material, key: Group, rows: Sequence[Record]) -> Iterator[Panel]:
    """A few environments each, so that lines can be told apart."""
    names = list(dict.fromkeys(row["environment"] for row in rows))
    milder = {case["scenario"]: case.get("milder", "lower") for case in material.plan["cases"]}
    scale = _scale(material, key, rows, milder.get(key[1]) == "higher")
    model = f"{key[0]}: " if material.several_models else ""
    for part, more in parts(names, MOST):
        lines = [_curve(name, [row for row in rows if row["environment"] == name]) for name in part]
        said = "; ".join(_said(line, scale.falling) for line in lines)
        yield Panel(
            f"{model}{key[1]}{more}",
            f"{scale.y}. {said}",
            partial(curves, lines, scale),
        )


def _scale(material: Material, key: Group, rows: Sequence[Record], falling: bool) -> Scale:
    labelled = any(words.known(row["accuracy"]) for row in rows)
    clean = [
        row
        for row in material.rows("drift")
        if (row["model"], row["environment"], row["kind"])
        == (key[0], material.baseline, "environment")
    ]
    level = 100 * clean[0]["accuracy"] if clean and words.known(clean[0]["accuracy"]) else None
    what = "accuracy, %" if labelled else "decisions equal to clean, %"
    return Scale(key[2], what, suits_logarithm(sorted(_levels(rows))), falling, level)


def _curve(name: str, rows: Sequence[Record]) -> Curve:
    ordered = sorted(rows, key=lambda row: row["severity"])
    points = [_point(row) for row in ordered]
    value, low, high = zip(*points, strict=True)
    return Curve(name, tuple(row["severity"] for row in ordered), value, low, high)


def _point(row: Record) -> tuple[float, float, float]:
    """Value and interval in percent; NaN where there is none."""
    if words.known(row["accuracy"]):
        return tuple(_number(100 * row[f"accuracy{end}"]) for end in ("", "_low", "_high"))  # type: ignore[return-value]
    if words.known(row["harmed_per_sample"]):
        ends = ("", "_high", "_low")  # of what was not harmed
        return tuple(_number(100 * (1 - row[f"harmed_per_sample{e}"])) for e in ends)  # type: ignore[return-value]
    return (_number(100 * row["agreement_golden"]), math.nan, math.nan)


def _number(value: Any) -> float:
    return float(value) if words.known(value) else math.nan


def _said(line: Curve, falling: bool) -> str:
    mild, harsh = (-1, 0) if falling else (0, -1)
    return (
        f"{line.name}: {line.y[mild]:.1f} at {line.x[mild]:g} to {line.y[harsh]:.1f} at "
        f"{line.x[harsh]:g}"
    )


def _single(material: Material, good: Sequence[Record]) -> Figure | None:
    """Scenarios with one severity, or none that is a number: nothing to draw a curve over."""
    curved = {key for key, rows in _groups(good).items() if len(_levels(rows)) > 1}
    rows = [
        row
        for row in good
        if (row["model"], row["scenario"], row["severity_name"]) not in curved
        and words.known(row["drift"])
    ]
    conditions = list(dict.fromkeys((row["model"], words.condition(row)) for row in rows))
    if not rows:
        return None
    panels = tuple(
        _single_panel(
            material,
            model,
            name,
            [r for r in rows if (r["model"], words.condition(r)) == (model, name)],
        )
        for model, name in conditions
    )
    return Figure(
        "single-severities",
        "Change of accuracy under scenarios of one severity",
        panels,
        "Points of accuracy against the environment's own clean run, with 95 % intervals. A "
        "filled diamond: the interval leaves 0 out.",
        "tables/drift.csv",
        ("drift", "drift_low", "drift_high"),
        "kind = scenario or shift, scenarios with one severity",
    )


def _single_panel(material: Material, model: str, name: str, rows: Sequence[Record]) -> Panel:
    estimates = [accuracy.estimate(row["environment"], row, "drift", 100.0) for row in rows]
    said = "; ".join(
        f"{row['environment']}: {words.with_interval(row, 'drift', '+.2f', 100)}" for row in rows
    )
    title = f"{model}: {name}" if material.several_models else name
    return Panel(title, said, partial(forest, estimates, "change of accuracy, points", 0.0))


def _table(material: Material, rows: Sequence[Record]) -> Table:
    columns = (
        "cell",
        "status",
        "accuracy %",
        "change, points",
        "reads",
        "harmed per sample %",
        "patterns that harm any %",
        "same decisions as clean %",
        "patterns",
    )
    made = tuple(_row(material, row) for row in rows)
    return Table("Every scenario", columns, made, "tables/drift.csv", folded=True)


def _row(material: Material, row: Record) -> tuple[Entry, ...]:
    name = words.cell(row, material.several_models)
    if row["status"] != "ok":
        return (name, words.status(row), *[words.ABSENT] * 7)
    return (
        name,
        words.status(row),
        words.with_interval(row, "accuracy", ".2f", 100),
        words.with_interval(row, "drift", "+.2f", 100),
        accuracy.reads(row),
        words.with_interval(row, "harmed_per_sample", ".2f", 100),
        words.with_interval(row, "harmed_any_pattern", ".1f", 100),
        words.percent(row["agreement_golden"]),
        words.number(row["patterns"], "d"),
    )


def _interaction_tables(material: Material) -> list[Table]:
    rows = [row for row in material.rows("interaction") if row["status"] == "ok"]
    if not rows:
        return []
    made = tuple(
        (
            words.cell(row, material.several_models),
            words.with_interval(row, "interaction", "+.2f", 100),
            _loses(row),
            words.number(row["p_holm"], ".3g"),
        )
        for row in rows
    )
    columns = ("cell", "loses more than the baseline by, points", "reads", "p, Holm-corrected")
    title = "Interaction: how much more is lost than in the baseline (negative: more)"
    return [Table(title, columns, made, "tables/interaction.csv", folded=True)]


def _loses(row: Record) -> Text:
    if not words.known(row["loses"]) or row["loses"] == "alike":
        return Text(accuracy.NOT_SHOWN, "muted")
    corrected = words.known(row["p_holm"]) and row["p_holm"] < _LEVEL
    if not corrected:
        return Text(f"loses {row['loses']} by its own interval, not after correction", "muted")
    said = f"loses {row['loses']}: significant after Holm's correction"
    return Text(said, "bad" if row["loses"] == "more" else "good")


def _sensitivity(material: Material) -> list[Table]:
    rows = material.rows("sensitivity")
    if not rows:
        return []
    made = tuple(
        (
            words.cell({**row, "severity": None}, material.several_models),
            words.number(row["rank"], "d"),
            f"{row['severity_name']} {words.number(row['worst_severity'], 'g')}".strip(),
            words.with_interval(row, "drift", "+.2f", 100),
            words.number(row["first_harm"], "g"),
        )
        for row in rows
    )
    columns = ("factor", "rank", "costs most at", "change there, points", "first shown harm at")
    title = "Which factor alone costs most accuracy"
    return [Table(title, columns, made, "tables/sensitivity.csv", folded=True)]


def _other_data(material: Material) -> list[Table]:
    rows = material.rows("shift")
    made = tuple(
        (
            words.cell(row, material.several_models),
            words.status(row),
            *(
                words.with_interval(row, name, "+.3f")
                for name in ("accuracy_shift", "ece_shift", "confidence_shift")
            ),
        )
        for row in rows
    )
    columns = ("cell", "status", "accuracy", "calibration error", "confidence")
    title = "Other data minus the spec's data"
    return [Table(title, columns, made, "tables/shift.csv", folded=True)] if rows else []


def _corruption(material: Material) -> list[Table]:
    rows: list[Mapping[Any, Any]] = list(material.rows("mce"))
    made = tuple(
        (
            words.cell({**row, "scenario": "corruption"}, material.several_models),
            words.number(row["kinds"], "d"),
            words.percent(row["mean_error"]),
            words.percent(row["clean_error"]),
            words.number(row["mce_baseline_percent"], ".1f"),
            words.number(row["mce_alexnet_percent"], ".1f"),
        )
        for row in rows
    )
    columns = (
        "environment",
        "kinds of 15",
        "mean error %",
        "clean error %",
        "mCE to baseline %",
        "mCE to AlexNet %",
    )
    title = "Mean corruption error"
    return [Table(title, columns, made, "tables/mce.csv", folded=True)] if rows else []
