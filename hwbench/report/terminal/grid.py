"""Tables without lines, as the terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hwbench.report.document import words
from hwbench.report.document.words import Record

ALARM, MUTED, GOOD = "bold red", "dim", "green"


def table(columns: Iterable[str]) -> Table:
    """An empty one; names stand left, numbers right, and what is too long is folded."""
    made = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return made


def titled(title: str, content: Table) -> Group:
    """The title as a line of its own: as a table's title it would wrap at the table's width."""
    return Group(Text(f"\n{title}", style="bold"), content)


def several(frame: pd.DataFrame) -> bool:
    """Whether a model's name is needed to tell places apart."""
    return bool(frame["model"].nunique() > 1)


def interval(row: Record, name: str, form: str, scale: float = 1.0) -> Text:
    """``[low, high]`` of a column, or why there is none."""
    return Text(words.interval(row, name, form, scale), style=MUTED)


def status(status: str) -> Text:
    """In colour: what cannot be done here is no alarm."""
    return Text(
        status, style=GOOD if status == "ok" else ALARM if status != "unsupported" else MUTED
    )
