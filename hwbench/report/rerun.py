"""A record that was run again: is it the same, what was hit, how far did the error get."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench import values
from hwbench.record import Row
from hwbench.rerun import RecordId, Rerun

_SHOWN = 20  # faults in the table; JSON has all


def rerun_json(found: Rerun) -> dict[str, Any]:
    """Everything as plain JSON; numbers that JSON has not are ``null``."""
    return {
        "record": _name(found.record),
        "reproduced": found.reproduced,
        "differs": list(found.differs),
        "method_stored": found.record.get("method"),
        "outcome": found.record["outcome"],
        "edits_hash": found.record["edits_hash"],
        "faults": [{**each, **_numbers(each)} for each in found.faults],
        "spread": [_finite({**each, "share": _share(each)}) for each in found.spread],
        "spread_gap": found.gap or None,
    }


def rerun_text(found: Rerun) -> RenderableType:
    """The same for a person."""
    parts: list[RenderableType] = [Text(_name(found.record)), Text(_verdict(found))]
    if found.faults:
        parts += [Text(), _faults_table(found)]
    if found.spread:
        parts += [Text(), _spread_table(found)]
    else:
        parts += [Text(), Text(found.gap)]
    return Group(*parts)


def _name(record: Row) -> str:
    return str(RecordId(record["cell"], record["pattern"], record["batch"]))


def _verdict(found: Rerun) -> str:
    record = found.record
    counts = ", ".join(
        f"{record[f'n_{name}']} {name}"
        for name in ("masked", "benign", "sdc", "due")
        if record[f"n_{name}"]
    )
    hits = "" if record["edits_hash"] is None else f", edits {record['edits_hash']}"
    stored = f"stored by {record['method']}: {counts}" if record["method"] else record["outcome"]
    if found.reproduced:
        return f"reproduced: yes, to the bit ({stored}{hits})"
    if not found.made:
        return f"reproduced: no (the worker gave no record; {stored}{hits})"
    return f"reproduced: no ({', '.join(found.differs)} differ; {stored}{hits})"


def _numbers(fault: Row) -> dict[str, Any]:
    """The bits that were named, and the values before and after."""
    mask = int(fault["mask"], 16)
    return {
        "bits": [bit for bit in range(mask.bit_length()) if mask >> bit & 1],
        "value_before": _plain(values.number(int(fault["before"], 16), fault["dtype"])),
        "value_after": _plain(values.number(int(fault["after"], 16), fault["dtype"])),
    }


def _plain(number: float | int) -> float | int | str:
    return number if math.isfinite(number) else str(number)


def _finite(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(each, float) and not math.isfinite(each) else each
        for key, each in content.items()
    }


def _faults_table(found: Rerun) -> Table:
    more = len(found.faults) - _SHOWN
    table = Table(title="Faults", title_justify="left", box=None, pad_edge=False)
    for name in ("site", "element", "op", "bits", "before", "after", "before (hex)", "after (hex)"):
        table.add_column(name, justify="left" if name in ("site", "op") else "right")
    for fault in found.faults[:_SHOWN]:
        told = _numbers(fault)
        whole = fault["op"] == "write"
        table.add_row(
            Text(fault["site"]),
            str(fault["element"]),
            fault["op"],
            "all" if whole else ",".join(map(str, told["bits"])),
            _digits(told["value_before"]),
            _digits(told["value_after"]),
            fault["before"],
            fault["after"],
        )
    if more > 0:
        table.caption = f"and {more} more (--json has all)"
    return table


def _digits(number: float | int | str) -> str:
    return f"{number:.6g}" if isinstance(number, float) else str(number)


def _share(reach: Mapping[str, Any]) -> float:
    return reach["changed"] / reach["elements"] if reach["elements"] else 0.0


def _spread_table(found: Rerun) -> Table:
    table = Table(
        title="Spread of the error, activations in topological order",
        title_justify="left",
        box=None,
        pad_edge=False,
        caption="SQNR of integers is over codes about their mean; NaN and Inf are left out of it",
        caption_justify="left",
    )
    for name in ("tensor", "written by", "dtype", "SQNR dB", "changed %", "NaN/Inf"):
        left = name in ("tensor", "written by", "dtype")
        table.add_column(name, justify="left" if left else "right")
    for each in found.spread:
        table.add_row(
            Text(each["tensor"]),
            Text(f"{each['op_type']} {each['layer']}".strip()),
            each["dtype"],
            _decibel(each),
            f"{100 * _share(each):.2f}" if each["changed"] else "-",
            str(each["not_finite"]) if each["not_finite"] else "-",
        )
    return table


def _decibel(reach: Mapping[str, Any]) -> str:
    if not reach["changed"]:
        return "-"
    return f"{reach['sqnr_db']:.1f}" if math.isfinite(reach["sqnr_db"]) else "undefined"
