"""One factor at a time: which scenario costs an environment most, from the table of drift."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from hwbench.record import Row

_DRIFT = ("drift", "drift_low", "drift_high", "drift_interval")


def table(drift: Sequence[Row], cases: Iterable[dict[str, Any]]) -> list[Row]:
    """A row per environment and factor, worst first; stacks change several factors at once.

    Args:
        drift: rows of that table.
        cases: of plan.json, for what is a stack and which severities are milder.
    """
    known = {each["scenario"]: each for each in cases if each.get("stack", 1) == 1}
    factors: dict[tuple[str, str], dict[tuple[str, str], list[Row]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in drift:
        told = row["status"] == "ok" and row.get("drift") is not None
        if told and row["kind"] != "environment" and row["scenario"] in known:
            place = (row["model"], row["environment"])
            factors[place][row["scenario"], row["severity_name"]].append(row)
    result = []
    for place, found in factors.items():
        rows = [_factor(place, key, levels, known) for key, levels in found.items()]
        rows.sort(key=lambda row: (row["drift"], row["scenario"]))
        result += [{**row, "rank": rank} for rank, row in enumerate(rows, start=1)]
    return result


def _factor(
    place: tuple[str, str],
    key: tuple[str, str],
    levels: list[Row],
    known: dict[str, dict[str, Any]],
) -> Row:
    scenario, severity_name = key
    lower = known[scenario]["milder"] == "lower"
    ordered = sorted(levels, key=lambda row: row["severity"] or 0.0, reverse=not lower)
    worst = min(ordered, key=lambda row: row["drift"])
    harmed = (row for row in ordered if row["drift_high"] is not None and row["drift_high"] < 0)
    first = next(harmed, None)
    return {
        "model": place[0],
        "environment": place[1],
        "scenario": scenario,
        "severity_name": severity_name,
        "levels": len(levels),
        "mildest": ordered[0]["severity"],
        "harshest": ordered[-1]["severity"],
        "worst_severity": worst["severity"],
        **{name: worst[name] for name in _DRIFT},
        "drift_mean": sum(row["drift"] for row in levels) / len(levels),
        "first_harm": first["severity"] if first else None,
    }
