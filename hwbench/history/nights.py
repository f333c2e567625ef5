"""A folder of nightly runs as series: one per cell, number, machine and data."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hwbench.case import case_id, cell_id
from hwbench.errors import RequestError
from hwbench.record import Row

_CELL = ["model", "environment", "scenario", "severity_name", "severity", "status"]
_SHARES = ["accuracy", "harmed_per_sample"]
_TIMED = {"offline": "throughput_per_s", "server": "rate_per_s"}
_LATENCY = ["batch", "use", "latency_p50_ms", "throughput_per_s", "rate_per_s", "canary_ms"]


@dataclass(frozen=True, order=True)
class Key:
    """What one series is of.

    Attributes:
        cell: ``model/environment/scenario@severity``.
        how: batch and use of a latency; empty for shares.
        machine: fingerprint of the machine.
        data: digest of the data: on others, accuracy is another number.
    """

    cell: str
    metric: str
    how: str
    machine: str
    data: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.cell, self.metric, self.how)))


@dataclass(frozen=True)
class Night:
    """One run, as far as its history goes.

    Attributes:
        values: numbers by what they are of.
        failed: cells that should have given numbers, with their status.
        canary_ms: time of the canary workload beside the latencies; ``None`` where not measured.
    """

    folder: Path
    started: datetime
    machine: str
    values: Mapping[Key, float]
    failed: Mapping[str, str]
    canary_ms: float | None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """Values of one key, a night each, in order of time.

    Attributes:
        raw: as measured.
        values: normalised: latencies (rates) as they would be at the canary's median time.
        normalised: whether every night had a canary.
    """

    key: Key
    nights: tuple[Night, ...]
    raw: tuple[float, ...]
    values: tuple[float, ...]
    normalised: bool


def read(folder: Path, since: datetime | None = None) -> tuple[list[Night], list[str]]:
    """Every complete run below a folder in order of time, and why others were left out.

    Args:
        folder: of run folders, at any depth of two.
        since: runs that began earlier are left out, silently.

    Raises:
        RequestError: there is no run.
    """
    places = sorted(
        {path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/run.json")}
    )
    nights, left = [], []
    for place in places:
        try:
            run, plan = (json.loads((place / n).read_text()) for n in ("run.json", "plan.json"))
            started = datetime.fromisoformat(run["started"])
            if since is not None and started < since:
                continue
            if not plan["complete"]:
                left.append(f"{place}: not complete; hwbench sweep --resume finishes it")
                continue
            nights.append(_night(place, run, started))
        except (OSError, ValueError, KeyError) as error:
            left.append(
                f"{place}: cannot be read ({type(error).__name__}); hwbench report makes tables"
            )
    if not nights:
        what = "holds no complete run" + ("" if since is None else f" since {since:%Y-%m-%d}")
        hint = "give the folder that your nightly runs lie in."
        raise RequestError(f"{what}.", where=str(folder), hint=hint)
    return sorted(nights, key=lambda each: each.started), left


def series(nights: Sequence[Night]) -> list[Series]:
    """Series of every number that the last night has, in order of their names."""
    found: dict[Key, list[Night]] = defaultdict(list)
    for night in nights:
        for key in night.values:
            found[key].append(night)
    return [_series(key, tuple(found[key])) for key in sorted(nights[-1].values)]


def _series(key: Key, nights: tuple[Night, ...]) -> Series:
    raw = tuple(each.values[key] for each in nights)
    canaries = [each.canary_ms for each in nights]
    known = [each for each in canaries if each is not None]
    if key.metric in _SHARES or len(known) < len(canaries):
        return Series(key, nights, raw, raw, False)
    slower = np.array(known) / np.median(known)
    factor = 1 / slower if key.metric == "latency_p50_ms" else slower
    return Series(key, nights, raw, tuple((np.array(raw) * factor).tolist()), True)


def _night(folder: Path, run: dict[str, Any], started: datetime) -> Night:
    machine, data = run["machine"]["fingerprint"], {k: v["data"] for k, v in run["inputs"].items()}
    values: dict[Key, float] = {}
    failed: dict[str, str] = {}
    canaries = []
    for row in _rows(folder, "drift", [*_CELL, *_SHARES]):
        cell = _cell(row)
        if row["status"] != "ok":
            failed[cell] = row["status"]
        for metric in _SHARES:
            if row[metric] is not None:
                values[Key(cell, metric, "", machine, data[row["model"]])] = row[metric]
    for row in _rows(folder, "latency", [*_CELL, *_LATENCY]):
        metric = _TIMED.get(row["use"], "latency_p50_ms")
        how = f"batch {row['batch']} {row['use']}"
        if row["status"] != "ok":
            failed[f"{_cell(row)} {how}"] = row["status"]
        elif row[metric]:
            values[Key(_cell(row), metric, how, machine, data[row["model"]])] = row[metric]
        if row.get("canary_ms"):
            canaries.append(row["canary_ms"])
    canary = float(np.exp(np.mean(np.log(canaries)))) if canaries else None
    return Night(folder, started, machine, values, failed, canary, run["versions"])


def _rows(folder: Path, table: str, columns: list[str]) -> Iterator[Row]:
    """Rows of a written table, of the columns that it has."""
    file = pq.ParquetFile(folder / "tables" / f"{table}.parquet")
    known = set(file.schema_arrow.names)
    yield from file.read(columns=[each for each in columns if each in known]).to_pylist()


def _cell(row: Row) -> str:
    case = case_id(row["scenario"], row["severity_name"], row["severity"])
    return cell_id(row["model"], row["environment"], case)


def broken(nights: Sequence[Night]) -> dict[str, str]:
    """Cells without numbers tonight that had some the last time, with their status."""
    tonight = nights[-1]
    earlier = [each for each in nights[:-1] if each.machine == tonight.machine]
    if not earlier:
        return {}
    return {
        cell: status
        for cell, status in tonight.failed.items()
        if status != "open" and cell not in earlier[-1].failed and _known(cell, earlier[-1])
    }


def _known(cell: str, night: Night) -> bool:
    return any(f"{key.cell} {key.how}".strip() == cell for key in night.values)
