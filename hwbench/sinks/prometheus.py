"""Prometheus' text format, for the node exporter's textfile collector.

https://prometheus.io/docs/instrumenting/exposition_formats/: a HELP and a TYPE line per name,
backslash, quote and line feed escaped in label values, a line feed at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from hwbench.sinks.numbers import QUANTITIES, Labels, statuses, values


def text(tables: Mapping[str, pd.DataFrame], run: Mapping[str, Any], started_s: float) -> str:
    """All numbers of a run as gauges.

    Args:
        tables: of the run.
        run: its run.json.
        started_s: when it began, in seconds since 1970.
    """
    machine = (("fingerprint", run["machine"]["fingerprint"]), ("cpu", run["machine"]["cpu"]))
    info = (*machine, ("version", run["versions"]["hwbench"]))
    lines = [
        *_gauge("hwbench_run_started_timestamp_seconds", "When the run began.", [((), started_s)]),
        *_gauge("hwbench_run_info", "Machine and version, as labels.", [(info, 1.0)]),
        *_gauge(
            "hwbench_cell_ok",
            "1 where a cell has numbers.",
            [(each, float(ok)) for each, ok in statuses(tables)],
        ),
    ]
    for each in QUANTITIES:
        lines += _gauge(each.name, each.help, values(each, tables))
    return "\n".join(lines) + "\n"


def _gauge(name: str, help: str, samples: Iterable[tuple[Labels, float]]) -> list[str]:
    found = [f"{name}{_braced(labels)} {_number(value)}" for labels, value in samples]
    return [f"# HELP {name} {help}", f"# TYPE {name} gauge", *found] if found else []


def _braced(labels: Labels) -> str:
    inner = ",".join(f'{name}="{escaped(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""


def escaped(value: str) -> str:
    """A label's value as the format has it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    special = {float("inf"): "+Inf", float("-inf"): "-Inf"}
    return special.get(value, repr(value))
