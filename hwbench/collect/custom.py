"""The user's own metrics by cell: means over samples, from the sums that workers told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.collect.records import Records
from hwbench.record import Row


def table(names: Row, metrics: Sequence[str], records: Records) -> list[Row]:
    """One row per metric of a cell.

    Args:
        names: columns that name the cell, and its status.
        metrics: ``package.module:function`` names, in the order of the records' sums.
        records: of the cell.
    """
    sums = np.array([each.tolist() for each in records.known("custom") if len(each)])
    total = sums.sum(axis=0) if len(sums) else None
    rows = []
    for index, metric in enumerate(metrics):
        value, count = (None, 0) if total is None else (total[2 * index], int(total[2 * index + 1]))
        mean = float(value) / count if value is not None and count else None
        rows.append({**names, "metric": metric, "value": mean, "n": count})
    return rows
