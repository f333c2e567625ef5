"""The user's own metrics by cell: means over samples, from the sums that workers told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.record import Row


def table(names: Row, metrics: Sequence[str], records: Sequence[Row]) -> list[Row]:
    """One row per metric of a cell.

    Args:
        names: columns that name the cell, and its status.
        metrics: ``package.module:function`` names, in the order of the records' sums.
        records: of the cell.
    """
    good = [each["custom"] for each in records if each["outcome"] == "ok" and each["custom"]]
    total = np.sum(np.asarray(good, dtype=np.float64), axis=0) if good else None
    rows = []
    for index, metric in enumerate(metrics):
        value, count = (None, 0) if total is None else (total[2 * index], int(total[2 * index + 1]))
        mean = float(value) / count if value is not None and count else None
        rows.append({**names, "metric": metric, "value": mean, "n": count})
    return rows
