"""Latency: across environments, call by call, and under conditions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hwbench.report.document import words
from hwbench.report.document.accuracy import estimate
from hwbench.report.document.content import Entry, Figure, Panel, Section, Table, Text, Tone
from hwbench.report.document.material import Calls, Material
from hwbench.report.document.words import Record
from hwbench.report.plots.curves import MOST, parts
from hwbench.report.plots.distributions import Sample, densities, tails
from hwbench.report.plots.forest import forest

_TONES: dict[str, Tone] = {"slower": "bad", "faster": "good"}
_ALIKE = ("not shown", "same", "below threshold")
_RIDGES = 12
_SUFFIX = {
    "slower": " (significant after Holm's correction)",
    "faster": " (significant after Holm's correction)",
}


def section(material: Material) -> Section:
    """Medians with their comparison, distributions, and what conditions cost."""
    rows = material.rows("latency")
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        why = "Latency was not measured." if not rows else "No latency measurement succeeded."
        return Section("latency", "Latency", (why,), (_table(material, rows),) if rows else ())
    clean = [row for row in good if row["scenario"] == "clean"]
    strained = [row for row in good if row["scenario"] != "clean"]
    figures = [*_medians(material, clean), *_distributions(material)]
    tables = [_table(material, rows)]
    if strained:
        tables.append(_strained(material, strained))
    return Section(
        "latency", "Latency", tuple(_says(material, clean, strained)), (*figures, *tables)
    )


def _says(material: Material, clean: Sequence[Record], strained: Sequence[Record]) -> list[Entry]:
    says: list[Entry] = []
    for word in ("slower", "faster"):
        found = [row for row in clean if words.text(row["verdict"]) == word]
        if found:
            names = words.joined([f"{_name(material, row)} ({row['ratio']:.2f}x)" for row in found])
            says.append(
                Text(
                    f"Significantly {word} than {material.baseline} after Holm's correction over "
                    f"the table, and by more than the threshold: {names}.",
                    _TONES[word],
                )
            )
    rest = [row for row in clean if words.text(row["verdict"]) in _ALIKE]
    if rest:
        names = words.joined([f"{_name(material, row)}: {row['verdict']}" for row in rest])
        says.append(f"No difference that matters is shown for {names}.")
    slowed = [row for row in strained if words.text(row["slowdown_verdict"]) == "slower"]
    if slowed:
        names = words.joined([f"{_name(material, row)} ({row['slowdown']:.2f}x)" for row in slowed])
        says.append(Text(f"Slower than itself clean, after the same correction: {names}.", "bad"))
    unstable = sum(words.text(row["trust"]) != "trustworthy" for row in (*clean, *strained))
    if unstable:
        says.append(
            Text(
                f"{words.plural(unstable, 'row')} of {len(clean) + len(strained)} "
                "did not pass the checks of trust: the table says why.",
                "bad",
            )
        )
    return says


def _name(material: Material, row: Record) -> str:
    """Environment, condition, batch and use, as far as they tell something."""
    place = words.cell(row, material.several_models).removesuffix(", clean")
    use = "" if row["use"] == "singlestream" else f", {row['use']}"
    return f"{place}, batch {row['batch']}{use}"


def _medians(material: Material, clean: Sequence[Record]) -> list[Figure]:
    groups = _grouped(clean)
    panels = tuple(_median_panel(material, key, rows) for key, rows in groups.items())
    if not panels:
        return []
    return [
        Figure(
            "latency-medians",
            "Median latency by environment",
            panels,
            "Geometric mean over processes of each process's median, with 95 % intervals "
            "(processes are the units). A filled diamond: significantly slower or faster than the "
            "baseline after Holm's correction.",
            "tables/latency.csv",
            ("latency_p50_ms", "latency_p50_ms_low", "latency_p50_ms_high", "verdict"),
            "scenario = clean",
        )
    ]


Group = tuple[str, int, str]  # model, batch, use


def _grouped(rows: Sequence[Record]) -> dict[Group, list[Record]]:
    found: dict[Group, list[Record]] = {}
    for row in rows:
        found.setdefault((row["model"], row["batch"], row["use"]), []).append(row)
    return found


def _titled(material: Material, key: Group) -> str:
    model = f"{key[0]}, " if material.several_models else ""
    return f"{model}batch {key[1]}, {key[2]}"


def _median_panel(material: Material, key: Group, rows: Sequence[Record]) -> Panel:
    estimates = [
        estimate(
            row["environment"],
            row,
            "latency_p50_ms",
            1.0,
            _TONES.get(words.text(row["verdict"]), "muted"),
        )
        for row in rows
    ]
    said = "; ".join(
        f"{row['environment']}: {words.with_interval(row, 'latency_p50_ms', '.3g')} ms"
        for row in rows
    )
    return Panel(
        _titled(material, key),
        said,
        partial(forest, estimates, "ms (logarithmic)", None, logarithmic=True),
    )


def _distributions(material: Material) -> list[Figure]:
    places = [(each["model"], each["environment"]) for each in material.plan["environments"]]
    order = {place: number for number, place in enumerate(places)}
    calls = sorted(material.calls, key=lambda each: order[each.model, each.environment])
    arms = _arms(calls)
    clean = {key: found for key, found in arms.items() if key[2] == "clean"}
    strained = {key: found for key, found in arms.items() if key[2] != "clean"}
    figures = []
    if clean:
        figures.append(
            _density_figure(
                material, "latency-distributions", "Distribution of single calls", clean
            )
        )
        figures.append(_tail_figure(material, clean))
    if strained:
        figures.append(
            _density_figure(
                material,
                "latency-conditions",
                "Distribution of single calls under conditions",
                strained,
            )
        )
    return figures


Arms = dict[tuple[Any, ...], list[Calls]]


def _arms(calls: Sequence[Calls]) -> Arms:
    found: Arms = {}
    for each in calls:
        found.setdefault(each.arm, []).append(each)
    return found


def _samples(arms: Arms) -> dict[Group, list[Sample]]:
    """By model, batch and use; the scenario is part of a name where there is one."""
    found: dict[Group, list[Sample]] = {}
    for (model, environment, scenario, name, severity, batch, use), calls in arms.items():
        ordered = sorted(calls, key=lambda each: each.block)
        label = environment
        if scenario != "clean":
            label += f" {scenario}" if severity is None else f" {scenario} {name} {severity:g}"
        sample = Sample(label, tuple(each.histogram for each in ordered))
        found.setdefault((model, batch, use), []).append(sample)
    return found


def _density_figure(material: Material, key: str, title: str, arms: Arms) -> Figure:
    panels = []
    for group, samples in _samples(arms).items():
        for part, more in parts(samples, _RIDGES):
            panels.append(
                Panel(
                    _titled(material, group) + more,
                    _quantiles(part),
                    partial(densities, part),
                )
            )
    return Figure(
        key,
        title,
        tuple(panels),
        "Height: share of the calls of all processes on a logarithmic axis, each row scaled to "
        "its own peak. Ticks below: medians of the processes; ticks far apart mean that runs "
        "differ more than calls do.",
        "latency/*.parquet",
        ("latencies_ns", "environment", "scenario", "block"),
        "every recorded call; the 0.01 % slowest lie beyond the drawing",
    )


def _tail_figure(material: Material, arms: Arms) -> Figure:
    panels = []
    for group, samples in _samples(arms).items():
        for part, more in parts(samples, MOST):
            panels.append(
                Panel(_titled(material, group) + more, _quantiles(part), partial(tails, part))
            )
    return Figure(
        "latency-tails",
        "How many calls take longer",
        tuple(panels),
        "Thin: one process. Thick: all of them. A long flat foot is a rare but large delay; "
        "percentiles with too few calls behind them are refused in the table.",
        "latency/*.parquet",
        ("latencies_ns", "environment", "block"),
        "scenario = clean, every recorded call",
    )


def _quantiles(samples: Sequence[Sample]) -> str:
    said = []
    for each in samples:
        middle, tail = (value / 1e6 for value in each.pooled().quantiles([0.5, 0.99]))
        said.append(f"{each.name}: median {middle:.3g} ms, 99 % within {tail:.3g} ms")
    return "; ".join(said)


def _table(material: Material, rows: Sequence[Record]) -> Table:
    columns = (
        "environment, condition, batch",
        "status",
        "p50 ms",
        "p99 ms",
        "ratio to baseline",
        "reads",
        "would find",
        "processes x calls",
        "trust",
    )
    made = tuple(_row(material, row) for row in rows)
    return Table("Latency", columns, made, "tables/latency.csv")


def _row(material: Material, row: Record) -> tuple[Entry, ...]:
    if row["status"] != "ok":
        return (_name(material, row), words.status(row), *[words.ABSENT] * 7)
    calls = row["n_calls"] // max(1, row["processes"])
    verdict = words.text(row["verdict"])
    finds = row["detectable"]
    return (
        _name(material, row),
        words.status(row),
        words.with_interval(row, "latency_p50_ms", ".3g"),
        words.with_interval(row, "latency_p99_ms", ".3g"),
        words.with_interval(row, "ratio") if words.known(row["ratio"]) else words.ABSENT,
        Text(verdict + _SUFFIX.get(verdict, ""), _TONES.get(verdict, "muted")),
        f"{100 * (finds - 1):+.1f} %" if words.known(finds) else words.ABSENT,
        f"{row['processes']} x {calls}",
        _trust(row),
    )


def _trust(row: Record) -> Text:
    if words.text(row["trust"]) == "trustworthy":
        return Text("trustworthy", "good")
    return Text(f"{words.text(row['trust'])}: {words.text(row['trust_reasons'])}", "bad")


def _strained(material: Material, rows: Sequence[Record]) -> Table:
    made = tuple(
        (
            _name(material, row),
            words.with_interval(row, "slowdown"),
            words.text(row["slowdown_verdict"]),
            words.with_interval(row, "throughput_ratio"),
            words.with_interval(row, "latency_p99_ratio"),
        )
        for row in rows
    )
    columns = (
        "environment, condition, batch",
        "p50 to own clean",
        "reads",
        "throughput to own clean",
        "p99 to own clean",
    )
    title = "Under conditions and faults, as ratios to the same environment's clean runs"
    return Table(title, columns, made, "tables/latency.csv")
