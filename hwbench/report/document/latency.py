"""Latency: across environments, call by call, and under conditions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwbench.collect.latency import SINGLE
from hwbench.report.document import calls, words
from hwbench.report.document.accuracy import estimate
from hwbench.report.document.content import Entry, Figure, Panel, Part, Section, Table, Text, Tone
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record
from hwbench.report.plots.forest import forest

_TONES: dict[str, Tone] = {"slower": "bad", "faster": "good"}
_ALIKE = {
    "same": "Shown to be as fast within the threshold as",
    "below threshold": "Differ significantly, but by less than the threshold, from",
    "not shown": "Neither shown to differ nor to be as fast within the threshold as",
}
_FOLD = 12  # rows of a table that stand open
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
    parts: list[Part] = [
        *_medians(material, clean),
        *calls.figures(material),
        _table(material, [row for row in rows if row["scenario"] == "clean"]),
        *([_strained(material, strained)] if strained else []),
    ]
    return Section("latency", "Latency", tuple(_says(material, clean, strained)), tuple(parts))


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
    for verdict, said in _ALIKE.items():
        found = [row for row in clean if words.text(row["verdict"]) == verdict]
        if found:
            names = words.joined([_name(material, row) for row in found])
            says.append(f"{said} {material.baseline}: {names}.")
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
    use = "" if row["use"] == SINGLE else f", {row['use']}"
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
    per_process = row["n_calls"] // max(1, row["processes"])
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
        f"{row['processes']} x {per_process}",
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
            words.number(row["latency_p50_ms"], ".3g"),
            words.with_interval(row, "slowdown"),
            _slowdown(row),
            words.with_interval(row, "throughput_ratio"),
            words.with_interval(row, "latency_p99_ratio"),
            _trust(row),
        )
        for row in rows
    )
    columns = (
        "environment, condition, batch",
        "p50 ms",
        "p50 to own clean",
        "reads",
        "throughput to own clean",
        "p99 to own clean",
        "trust",
    )
    title = "Under conditions and faults, as ratios to the same environment's clean runs"
    folded = len(rows) > _FOLD
    return Table(title, columns, made, "tables/latency.csv", folded=folded)


def _slowdown(row: Record) -> Text:
    verdict = words.text(row["slowdown_verdict"])
    return Text(verdict + _SUFFIX.get(verdict, ""), _TONES.get(verdict, "muted"))
