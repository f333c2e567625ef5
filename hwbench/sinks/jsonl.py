"""JSON lines: every row of every table, with the run that it is of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from hwbench.collect.rows import rows_of


def lines(tables: Mapping[str, pd.DataFrame], about: Mapping[str, Any]) -> Iterator[str]:
    """One JSON object a row; infinite numbers are null, which JSON has no word for.

    Args:
        tables: of the run.
        about: put into every line: run, started, machine.
    """
    for name, frame in tables.items():
        for row in rows_of(frame):
            finite = {key: _finite(value) for key, value in row.items()}
            yield json.dumps({**about, "table": name, **finite}, default=_plain)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """A number of NumPy's as Python's."""
    return value.item()
