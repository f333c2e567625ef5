"""Numbers and names as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from hwbench.report.document.content import Entry, Text

Record = Mapping[Any, Any]

ABSENT = "-"


def known(value: Any) -> bool:
    """Whether a table has a value here."""
    return value is not None and not pd.isna(value)


def number(value: Any, form: str = ".4g") -> str:
    """A number, or a dash where there is none."""
    if not known(value):
        return ABSENT
    if isinstance(value, float) and math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return f"{value:{form}}"


def text(value: Any) -> str:
    """A word of a table, or a dash."""
    return str(value) if known(value) else ABSENT


def percent(value: Any, form: str = ".2f") -> str:
    """A share as a percentage, without its sign."""
    return number(100 * value, form) if known(value) else ABSENT


def interval(row: Record, name: str, form: str = ".2f", scale: float = 1.0) -> str:
    """``[low, high]`` of a column, or why there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if not known(low) or not known(high):
        return text(row[f"{name}_interval"])
    return f"[{number(scale * low, form)}, {number(scale * high, form)}]"


def with_interval(row: Record, name: str, form: str = ".2f", scale: float = 1.0) -> str:
    """``value [low, high]``."""
    value = row[name]
    if not known(value):
        return text(row[f"{name}_interval"])
    return f"{number(scale * value, form)} {interval(row, name, form, scale)}"


def condition(row: Record, between: str = ", ") -> str:
    """The scenario with its severity: ``bitflip-weights, rate 1e-05``."""
    if not known(row.get("severity")):
        return str(row["scenario"])
    return f"{row['scenario']}{between}{row['severity_name']} {number(row['severity'], 'g')}"


def under(row: Record) -> str:
    """The same behind a place and a space; nothing for clean."""
    return "" if row["scenario"] == "clean" else f" {condition(row, ' ')}"


def place(row: Record, several_models: bool = True) -> str:
    """Environment of a row, with its model where that is needed to tell places apart."""
    return f"{row['model']}/{row['environment']}" if several_models else str(row["environment"])


def cell(row: Record, several_models: bool = True) -> str:
    """Model, environment and scenario of a row."""
    return f"{place(row, several_models)}, {condition(row)}"


def status(row: Record) -> Entry:
    """The status of a row, with its note where it is not ok."""
    if row["status"] == "ok":
        return Text("ok", "good")
    return Text(
        f"{row['status']}: {text(row['note'])}" if known(row["note"]) else row["status"],
        "muted" if row["status"] in ("unsupported", "open") else "bad",
    )


def plural(count: int, one: str, many: str = "") -> str:
    """``1 cell``, ``2 cells``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def joined(names: list[str], most: int = 6) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
