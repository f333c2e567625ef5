"""Everything a report is made from: the tables, the run's small files, and series for figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hwbench.errors import RequestError
from hwbench.histogram import Histogram
from hwbench.record import Row
from hwbench.search import COLUMNS
from hwbench.store import Store

VERDICT = "verdict.json"  # qualify writes it

_ARM = ("model", "environment", "scenario", "severity_name", "severity", "batch", "use")


@dataclass(frozen=True)
class Calls:
    """Recorded latencies of one process, in nanoseconds."""

    model: str
    environment: str
    scenario: str
    severity_name: str
    severity: float | None
    batch: int
    use: str
    block: int
    histogram: Histogram

    @property
    def arm(self) -> tuple[Any, ...]:
        """What the process was one of several of."""
        return tuple(getattr(self, name) for name in _ARM)


@dataclass(frozen=True)
class Material:
    """One run, read.

    Attributes:
        tables: as ``collect`` gives them.
        plan: plan.json.
        run: run.json.
        spec: text of the resolved spec.
        verdict: of the gates, where they were checked.
        outdated: whether rows came after the verdict.
        calls: latencies by process.
        soaks: rows of the part ``soak``.
        probes: processes of memory searches.
        command: how to make the report again.
    """

    name: str
    tables: Mapping[str, pd.DataFrame]
    plan: Mapping[str, Any]
    run: Mapping[str, Any]
    spec: str
    verdict: Mapping[str, Any] | None
    outdated: bool
    calls: tuple[Calls, ...]
    soaks: tuple[Row, ...]
    probes: tuple[Row, ...]
    command: str

    def rows(self, table: str) -> list[dict[Any, Any]]:
        """The rows of a table as dictionaries; none where the run has no such table."""
        frame = self.tables.get(table)
        return [] if frame is None else frame.to_dict("records")

    @property
    def several_models(self) -> bool:
        """Whether a model's name is needed to tell places apart."""
        return len({each["model"] for each in self.plan["environments"]}) > 1

    @property
    def baseline(self) -> str:
        """Environment id."""
        return str(self.plan["baseline"])


def read(store: Store, tables: Mapping[str, pd.DataFrame]) -> Material:
    """What a report needs of a run.

    Args:
        store: the run.
        tables: collected from it.

    Raises:
        RequestError: one of the run's small files is damaged.
    """
    folder, verdict = store.folder, _verdict(store)
    spec = folder / "spec.yaml"
    return Material(
        name=folder.resolve().name,
        tables=tables,
        plan=store.read_json("plan.json"),
        run=store.read_json("run.json"),
        spec=spec.read_text() if spec.exists() else "",
        verdict=verdict,
        outdated=_outdated(store, verdict),
        calls=tuple(_calls(store)),
        soaks=tuple(store.read("soak").to_pylist()),
        probes=tuple(_probes(store)),
        command=f"hwbench report {folder.name}",
    )


def _verdict(store: Store) -> Mapping[str, Any] | None:
    if not store.has(VERDICT):
        return None
    found = store.read_json(VERDICT)
    if isinstance(found, dict) and {"verdict", "gates"} <= found.keys():
        return found
    where = str(store.folder / VERDICT)
    hint = "make it again with `hwbench qualify`, or remove it."
    raise RequestError("has no verdict and gates.", where=where, hint=hint)


def _outdated(store: Store, verdict: Mapping[str, Any] | None) -> bool:
    judged = (verdict or {}).get("rows") or {}
    return any(store.count(part) != count for part, count in judged.items())


def _probes(store: Store) -> Iterator[Row]:
    for each in store.read("processes", list(COLUMNS)).to_pylist():
        if each["kind"] == "search" and each["outcome"] != "interrupted":
            yield each


def _calls(store: Store) -> Iterator[Calls]:
    """A process at a time: all raw latencies may not fit. Of a block run again, the last."""
    last: dict[tuple[Any, ...], Calls] = {}
    for each in _latency_rows(store):
        made = _histogram(each)
        if made is not None:
            arm = {name: each[name] for name in _ARM}
            found = Calls(**arm, block=each["block"] or 0, histogram=made)
            last[(*found.arm, found.block)] = found
    yield from last.values()


def _latency_rows(store: Store) -> Iterator[Row]:
    columns = [*_ARM, "block", "latencies_ns", "bucket_counts"]
    for batch in store.batches("latency", columns):
        names = batch.drop_columns(["latencies_ns"])
        for index, row in enumerate(names.to_pylist()):
            values = batch.column("latencies_ns")[index].values
            yield {**row, "latencies_ns": None if values is None else values.to_numpy()}


def _histogram(row: Row) -> Histogram | None:
    """A soak's rows are left out: its calls are followed over time, not as a distribution."""
    values = row["latencies_ns"]
    if row.get("bucket_counts") is not None or values is None or not len(values):
        return None
    return Histogram.of(np.asarray(values, np.int64))
