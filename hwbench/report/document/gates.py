"""What `hwbench qualify` left in the run: verdicts of gates, and what none of them covers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwbench.report.document import words
from hwbench.report.document.content import Entry, Table, Text, Tone

TONES: dict[str, Tone] = {"pass": "good", "fail": "bad", "inconclusive": "muted"}
_SAID = {
    "pass": "Every gate passes.",
    "fail": "A gate fails.",
    "inconclusive": "No gate fails, but one is inconclusive: the data decide it neither way.",
}


def said(verdict: Mapping[str, Any]) -> Text:
    """The verdict in a sentence."""
    word = str(verdict["verdict"])
    return Text(_SAID.get(word, word), TONES.get(word, "muted"))


def table(verdict: Mapping[str, Any]) -> Table:
    """One row per gate and cell, failures first."""
    order = {"fail": 0, "inconclusive": 1}
    ranked = sorted(verdict["gates"], key=lambda gate: order.get(gate.get("verdict"), 2))
    columns = ("gate", "cell", "verdict", "value", "interval", "limit", "what decides it", "note")
    return Table("Gates", columns, tuple(_row(gate) for gate in ranked), "verdict.json")


def _row(gate: Mapping[str, Any]) -> tuple[Entry, ...]:
    word = str(gate.get("verdict", ""))
    return (
        str(gate.get("gate", "")),
        _cell(gate.get("cell")),
        Text(word, TONES.get(word, "muted")),
        words.number(gate.get("value")),
        _interval(gate),
        _limit(gate),
        _decides(gate),
        _note(gate),
    )


def _cell(cell: Any) -> str:
    return words.cell(cell) if isinstance(cell, Mapping) else str(cell or "")


def _interval(gate: Mapping[str, Any]) -> str:
    low, high = gate.get("low"), gate.get("high")
    if low is None and high is None:
        return words.ABSENT
    return f"[{words.number(low)}, {words.number(high)}]"


def _limit(gate: Mapping[str, Any]) -> str:
    bound = f"{gate['bound']} " if gate.get("bound") else ""
    versus = gate.get("versus") or "absolute"
    against = "" if versus == "absolute" else f" against {versus}"
    return f"{bound}{words.number(gate.get('limit'))}{against}"


def _decides(gate: Mapping[str, Any]) -> str:
    found = [str(gate[name]) for name in ("bottleneck", "follow_up") if gate.get(name)]
    return ": ".join(found) or words.ABSENT


def _note(gate: Mapping[str, Any]) -> Entry:
    note = str(gate.get("note") or "")
    if gate.get("untrusted"):
        doubt = f"not to be trusted: {gate['untrusted']}"
        return Text(f"{note}; {doubt}" if note else doubt, "bad")
    return note or words.ABSENT


def uncovered(verdict: Mapping[str, Any] | None) -> list[Table]:
    """What a gate could have judged and none did."""
    found = (verdict or {}).get("not_tested") or []
    rows = tuple((str(each.get("what", "")), str(each.get("why", ""))) for each in found)
    title = "Without a verdict, by the gates' own account"
    return [Table(title, ("what", "why"), rows, "verdict.json", folded=True)] if rows else []
