"""What ``doctor`` found, for a person."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def diagnosis(found: dict[str, Any]) -> RenderableType:
    """The machine in a line, and a table of backends by capability."""
    machine = found["machine"]
    head = (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['memory_gib']} GiB,"
        f" {machine['architecture']}, {machine['system']}\n"
        f"instruction sets: {' '.join(machine['isa']) or 'none of note'}\n"
        f"fingerprint: {machine['fingerprint']}\n"
        f"{noise_text(found['noise'])}\n"
    )
    conditions = _conditions({**found["conditions"], "emulated board": found["boards"]})
    return Group(Text(head), _capabilities(found["backends"]), Text(), conditions)


def noise_text(found: dict[str, Any] | None) -> str:
    """The noise floor in a few lines."""
    if found is None:
        return "noise of latency: not measured; `hwbench doctor --noise` does, in minutes"
    lines = [
        f"noise of latency: processes differ by {found['spread']:.2%}"
        f" (at most {found['spread_high']:.2%}), a slowdown is found from"
        f" {found['floor_5_processes']:.2%} with 5 processes,"
        f" {found['floor_10_processes']:.2%} with 10",
        f"  {found['arms']} equal environments of {found['processes']} processes differed by"
        f" {found['largest']:.2%} at most; {found['measured']}, {found['trust']}",
    ]
    return "\n".join([*lines, *(f"  {reason}" for reason in found["trust_reasons"])])


def _conditions(conditions: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("condition", "enforced by", "state", "reason"):
        table.add_column(column, overflow="fold")
    for name, abilities in conditions.items():
        for index, (mechanism, found) in enumerate(abilities.items()):
            shown = Text("" if index else name)
            table.add_row(shown, Text(mechanism), Text(found["status"]), Text(found["reason"]))
    return table


def _capabilities(backends: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("backend", "capability", "state", "reason"):
        table.add_column(column, overflow="fold")
    for name, found in backends.items():
        if found["state"] != "found":
            table.add_row(
                Text(name), "", Text(found["state"]), Text(found.get("hint") or found["error"])
            )
            continue
        table.add_row(
            Text(f"{name} {found['version']}"), "devices", "", Text(", ".join(found["devices"]))
        )
        for kind in ("precisions", "features"):
            for capability, value in found[kind].items():
                table.add_row("", Text(capability), Text(value["status"]), Text(value["reason"]))
    return table
