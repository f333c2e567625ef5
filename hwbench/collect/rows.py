"""A table as rows, for whoever goes through it one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hwbench.record import Row


def rows_of(frame: pd.DataFrame) -> Iterator[Row]:
    """A table's rows by column name, with ``None`` for what is missing."""
    known = frame.astype(object).where(frame.notna(), None)
    for row in known.to_dict("records"):
        yield {str(name): value for name, value in row.items()}
