"""What a screening found, for a person and for a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.screen import Finding, consistent


def screened_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Plain data."""
    return {"consistent": consistent(findings), "places": [asdict(each) for each in findings]}


def screened(findings: Sequence[Finding]) -> RenderableType:
    """One line per place, and the sum."""
    table = Table(box=None, pad_edge=False)
    for column in ("place", "inferences", "different", "error rate per inference", "note"):
        table.add_column(column, justify="left" if column == "place" else "right", overflow="fold")
    for each in findings:
        style = "bold red" if each.different else "green"
        bound = "-" if each.upper is None else f"< {each.upper:.1e} (95 %)"
        note = "; ".join((*each.failures, *(f"while {load}" for load in each.loads)))
        table.add_row(
            each.place,
            str(each.inferences),
            Text(str(each.different), style=style),
            bound,
            Text(note),
        )
    return Group(table, Text(f"\n{_sum(findings)}"))


def _sum(findings: Sequence[Finding]) -> str:
    wrong = [each.place for each in findings if each.different]
    if wrong:
        return f"INCONSISTENT: {', '.join(wrong)} gave other bytes than most inferences did."
    failed = [each.place for each in findings if each.failures]
    if failed:
        return f"No difference seen, but workers failed on {', '.join(failed)}."
    return "Every place gave the same bytes; the bounds are by the rule of three."
