"""The numbers of a run that other systems are told, each with its labels and unit. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hwbench.collect.rows import rows_of
from hwbench.record import Row


@dataclass(frozen=True)
class Quantity:
    """A kind of number.

    Attributes:
        name: with its unit, as Prometheus wants it.
        help: one line.
        table: that it is from.
        column: of that table.
        scale: to the unit of ``name``.
    """

    name: str
    help: str
    table: str
    column: str
    scale: float = 1.0


QUANTITIES = (
    Quantity("hwbench_accuracy_ratio", "Share of samples classified rightly.", "drift", "accuracy"),
    Quantity("hwbench_accuracy_drift_ratio", "Accuracy minus its reference's.", "drift", "drift"),
    Quantity(
        "hwbench_harmed_ratio",
        "Share of samples whose decision changed or output broke.",
        "drift",
        "harmed_per_sample",
    ),
    Quantity("hwbench_latency_p50_seconds", "Median.", "latency", "latency_p50_ms", 1e-3),
    Quantity("hwbench_latency_p99_seconds", "99th percentile.", "latency", "latency_p99_ms", 1e-3),
    Quantity(
        "hwbench_throughput_samples_per_second",
        "Samples per second while latency was measured.",
        "latency",
        "throughput_per_s",
    ),
    Quantity(
        "hwbench_canary_seconds",
        "A fixed workload beside the latencies: this machine's speed.",
        "latency",
        "canary_ms",
        1e-3,
    ),
    Quantity(
        "hwbench_memory_minimum_bytes",
        "Smallest memory limit at which the model loads and runs.",
        "limits",
        "load_min_mib",
        2.0**20,
    ),
)
_LABELS = ("model", "environment", "scenario", "severity_name", "severity", "batch", "use")

Labels = tuple[tuple[str, str], ...]
Tables = Mapping[str, pd.DataFrame]


def values(
    quantity: Quantity, tables: Mapping[str, pd.DataFrame]
) -> Iterator[tuple[Labels, float]]:
    """Labels and value of every row that has one."""
    for row in rows_of(tables[quantity.table]):
        if row.get(quantity.column) is not None:
            yield labels(row), float(row[quantity.column]) * quantity.scale


def statuses(tables: Tables) -> Iterator[tuple[Labels, bool]]:
    """Labels of every planned cell, and whether it has numbers."""
    for row in rows_of(tables["cells"]):
        yield labels(row), row["status"] == "ok"


def labels(row: Row) -> Labels:
    """What the row is of, without what it does not have."""
    found = ((name, row.get(name)) for name in _LABELS)
    return tuple((name, _text(value)) for name, value in found if value not in (None, ""))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
