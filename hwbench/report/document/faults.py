"""Single faults: which layers and bit fields hurt, and what campaigns estimated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from hwbench.report.document import words
from hwbench.report.document.content import Entry, Figure, Panel, Part, Section, Table, Text
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record
from hwbench.report.plots.heat import heat

_MOST_SITES = 40  # rows of a drawing: a model may have hundreds
_SEVERAL_ROWS = 60
_SETTLED = 5e-5  # what prints as 0.00 % is no lower limit worth naming


def section(material: Material) -> Section:
    """Vulnerability by layer and bit field; campaigns."""
    rows = material.rows("vulnerability")
    campaigns = material.rows("campaigns")
    title = "Vulnerability to single faults"
    if not rows and not campaigns:
        none = "No single faults were injected (scenario singlebit): nothing ranks layers and bits."
        return Section("faults", title, (none,))
    says: list[Entry] = [*_campaign_words(material, campaigns), *_worst(material, rows)]
    figure = _figure(material, rows)
    parts: list[Part] = [figure] if figure else []
    parts += [_campaigns(material, campaigns)] if campaigns else []
    parts += [_table(material, rows)] if rows else []
    return Section("faults", title, tuple(says), tuple(parts))


def _campaign_words(material: Material, rows: Sequence[Record]) -> list[Entry]:
    """What the campaigns that stopped by their rule say, worst last."""
    done = [row for row in rows if words.known(row["reached"]) and row["reached"]]
    said: list[Entry] = []
    if done:
        worst = max(done, key=lambda row: row["rate_high"])
        said.append(
            f"{words.plural(len(done), 'campaign')} reached the margin asked for. The highest "
            f"upper limit is that of {words.cell(worst, material.several_models)}: "
            f"{words.with_interval(worst, 'rate', '.2f', 100)} % ({worst['estimand']}, "
            f"{words.percent(worst['confidence'], 'g')} % confidence)."
        )
    if len(done) < len(rows):
        said.append(f"{words.plural(len(rows) - len(done), 'campaign')} did not get that far.")
    return said


def _worst(material: Material, rows: Sequence[Record]) -> list[Entry]:
    """The place whose interval begins highest: an estimate from two faults ranks nothing."""
    firm = [row for row in rows if words.known(row["p_sdc_low"])]
    if not rows:
        return []
    if not firm:
        return ["No layer and bit field got enough faults for an interval: nothing is ranked."]
    worst = max(firm, key=lambda row: (row["p_sdc_low"], row["p_sdc"]))
    if worst["p_sdc"] == 0:
        return [f"None of {len(firm)} layers and bit fields with an interval changed a decision."]
    said = (
        f"{worst['field']} of {worst['consumer']} ({worst['site']}) in "
        f"{words.cell(worst, material.several_models)}: a single fault there silently changes "
        f"{words.with_interval(worst, 'p_sdc', '.2f', 100)} % of decisions (95 %, this place "
        f"alone of {len(firm)})."
    )
    if worst["p_sdc_low"] < _SETTLED:
        return [f"No place is shown to be vulnerable yet. The highest estimate: {said}"]
    return [Text(f"Most vulnerable: {said}", "bad")]


def _ranks(rows: Sequence[Record]) -> bool:
    """A cell of chance single faults (a low bit error rate) has no place with an interval."""
    return any(words.known(row["p_sdc_low"]) for row in rows)


def _figure(material: Material, rows: Sequence[Record]) -> Figure | None:
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        groups.setdefault((row["model"], words.cell(row, material.several_models)), []).append(row)
    firm = {key: found for key, found in groups.items() if _ranks(found)}
    panels = tuple(_panel(name, found) for (_, name), found in firm.items())
    if not panels:
        return None
    return Figure(
        "vulnerability",
        "P(sdc) per sample by layer and bit field, %",
        panels,
        "Share of (fault, sample) pairs whose decision changed silently, for one fault drawn "
        "uniformly over the bits of the cell. Layers from input to output. Italic: too few faults "
        "for an interval, the number is an anecdote. A dot: no fault there. Each drawing has a "
        "colour scale of its own, by square root up to its largest share.",
        "tables/vulnerability.csv",
        ("consumer", "site", "field", "p_sdc", "p_sdc_low", "n"),
        "one drawing a cell that has an interval anywhere",
    )


def _panel(name: str, rows: Sequence[Record]) -> Panel:
    sites = list(dict.fromkeys((row["site"], row["consumer"]) for row in rows))
    dropped = len(sites) - _MOST_SITES
    if dropped > 0:
        sites = _most_vulnerable(sites, rows)
    fields = sorted(dict.fromkeys(row["field"] for row in rows), key=_from_high_bits)
    values, firm = np.full((2, len(sites), len(fields)), np.nan)
    for row in rows:
        if (row["site"], row["consumer"]) in sites:
            at = sites.index((row["site"], row["consumer"])), fields.index(row["field"])
            values[at] = 100 * row["p_sdc"]
            firm[at] = words.known(row["p_sdc_low"])
    names = _names(sites)
    title = name + (
        f" (the {_MOST_SITES} worst of {len(sites) + dropped} tensors)" if dropped > 0 else ""
    )
    worst = np.nanmax(values) if np.isfinite(values).any() else 0.0
    said = f"{len(sites)} tensors by {len(fields)} bit fields; the largest share is {worst:.1f} %."
    return Panel(title, said, partial(heat, values, names, fields, firm))


def _most_vulnerable(
    sites: Sequence[tuple[str, str]], rows: Sequence[Record]
) -> list[tuple[str, str]]:
    """The worst ones, in their order in the network."""
    peak: dict[tuple[str, str], float] = {}
    for row in rows:
        place = (row["site"], row["consumer"])
        peak[place] = max(peak.get(place, 0.0), float(row["p_sdc"]))
    kept = set(sorted(sites, key=lambda place: -peak[place])[:_MOST_SITES])
    return [place for place in sites if place in kept]


def _names(sites: Sequence[tuple[str, str]]) -> list[str]:
    """The layer where that is enough, else the tensor."""
    layers = [consumer for _, consumer in sites]
    return _without_common_end(
        [consumer if consumer and layers.count(consumer) == 1 else site for site, consumer in sites]
    )


def _without_common_end(names: list[str]) -> list[str]:
    """What all names end in tells nothing: ``conv1/WithoutBiases``, ``fc/WithoutBiases``."""
    parted = [name.rpartition("/") for name in names]
    shared = len({end for _, _, end in parted}) == 1 and all(head for head, _, _ in parted)
    return [head for head, _, _ in parted] if shared and len(names) > 1 else names


_ORDER = ("sign", "exponent", "mantissa")


def _from_high_bits(field: str) -> tuple[int, int, str]:
    """Sign, exponent, mantissa; then bits from the highest; then whole words."""
    if field in _ORDER:
        return (0, _ORDER.index(field), field)
    digits = "".join(each for each in field.split("-")[0] if each.isdigit())
    return (1, -int(digits), field) if digits else (2, 0, field)


def _campaigns(material: Material, rows: Sequence[Record]) -> Table:
    made = tuple(
        (
            words.cell(row, material.several_models),
            words.status(row),
            words.text(row["estimand"]),
            words.with_interval(row, "rate", ".3f", 100),
            words.percent(row["confidence"], "g"),
            words.number(row["faults"], "d"),
            words.number(row["population"], "d"),
            _reached(row),
        )
        for row in rows
    )
    columns = (
        "cell",
        "status",
        "estimand",
        "rate %",
        "confidence %",
        "faults",
        "of possible",
        "margin",
    )
    return Table("Campaigns", columns, made, "tables/campaigns.csv")


def _reached(row: Record) -> Entry:
    if not words.known(row["reached"]):
        return words.ABSENT
    margin = words.percent(row["margin"], "g")
    asked = f"{margin} point" if margin == "1" else f"{margin} points"
    return Text(f"{asked}: reached", "good") if row["reached"] else Text(f"{asked}: open", "muted")


def _table(material: Material, rows: Sequence[Record]) -> Table:
    ranked = sorted(rows, key=lambda row: (-_low(row), -row["p_sdc"], -row["p_due"]))
    made = tuple(
        (
            words.cell(row, material.several_models),
            str(row["site"]),
            str(row["field"]),
            words.with_interval(row, "p_sdc", ".2f", 100),
            words.with_interval(row, "p_any_sdc", ".1f", 100),
            words.percent(row["p_due"]),
            words.percent(row["pvf"]),
            words.number(row["n"], "d"),
        )
        for row in ranked[:_SEVERAL_ROWS]
    )
    title = "Layers and bit fields, those shown to be worst first"
    if len(rows) > _SEVERAL_ROWS:
        title += f", of {len(rows)}"
    columns = (
        "cell",
        "tensor",
        "field",
        "P(sdc) per sample %",
        "patterns with any sdc %",
        "P(due) %",
        "PVF %",
        "faults",
    )
    return Table(title, columns, made, "tables/vulnerability.csv", folded=True)


def _low(row: Record) -> float:
    return float(row["p_sdc_low"]) if words.known(row["p_sdc_low"]) else -1.0
