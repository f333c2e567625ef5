"""Verdicts for the terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.qualify.decide import FAIL, INCONCLUSIVE, PASS
from hwbench.qualify.verdict import Judgement, Qualification

STYLES = {PASS: "green", FAIL: "bold red", INCONCLUSIVE: "yellow"}


def verdict_text(found: Qualification) -> RenderableType:
    """The whole verdict, a line per gate and cell, follow-ups, and what was not tested."""
    counts = {name: sum(g.verdict == name for g in found.gates) for name in STYLES}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    head = Text("\nVerdict: ").append(found.verdict.upper(), style=STYLES[found.verdict])
    parts: list[RenderableType] = [head.append(f" ({told})"), _table(found)]
    parts.append(Text(_errors(found), style="dim"))
    reasons = [f"  - {_reason(each)}" for each in found.gates if each.verdict != PASS]
    if reasons:
        parts.append(Text("\n".join(["\nWhy:", *reasons])))
    if found.untrusted:
        lines = [f"  - {each.place}: {each.untrusted}" for each in found.untrusted]
        parts.append(Text("\n".join(["\nNot trustworthy:", *dict.fromkeys(lines)])))
    lines = [f"  - {each['what']}: {each['why']}" for each in found.not_tested]
    parts.append(Text("\n".join(["\nNot tested:", *lines])))
    return Group(*parts)


def _table(found: Qualification) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("gate", "cell", "verdict", "value", "interval", "zone", "unit", "n"):
        left = column in ("gate", "cell")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    several = len({each.cell["model"] for each in found.gates} - {""}) > 1
    for each in found.gates:
        place = each.place.strip("/")
        table.add_row(
            Text(each.gate),
            Text(place if several else place.removeprefix(f"{each.cell['model']}/")),
            Text(each.verdict, style=STYLES[each.verdict]),
            _number(each.value),
            "-" if each.low is None else f"[{_number(each.low)}, {_number(each.high)}]",
            _zone(each),
            each.unit or "-",
            "-" if each.n is None else str(each.n),
        )
    return table


def _zone(judged: Judgement) -> str:
    sign = -1 if judged.bound == "max" else 1
    ends = sorted([judged.limit, judged.limit + sign * judged.indifference])
    return f"{ends[0]:.4g}..{ends[1]:.4g}"


def _errors(found: Qualification) -> str:
    shared = "wrong fails share one error rate" if found.family else "error rates are per verdict"
    return (
        f"Each limit holds at its confidence, one-sided, however often one looks; {shared}."
        " A wrong overall pass is no likelier than that of one verdict."
    )


def _reason(judged: Judgement) -> str:
    parts = [f"{judged.gate} [{judged.place.strip('/')}]: {judged.note}"]
    if judged.bottleneck:
        parts.append(f"bottleneck: {judged.bottleneck}")
    if judged.follow_up:
        parts.append(f"decides: {judged.follow_up}")
    return ". ".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
