"""Rows per second into the store, fsync included, and by pyarrow alone: interleaved, same rows.

store      rows appended one by one, as records come from workers, until all of them are on disk
floor      the same rows written by pyarrow at once, without fsync
merged     the store again where every flush has but 100 rows, so that parts are merged all the time
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hwbench.record import PARTS, Row, row
from hwbench.store import Store, schema

ROUNDS = 5
N_ROWS = 20_000
SMALL = 100  # rows of a flush where parts are merged


def record(index: int) -> Row:
    """A row as a worker of a classifier tells it."""
    values = {
        "cell": "model/onnxruntime-cpu-fp32-t1/bitflip-weights@rate=1e-06",
        "model": "model",
        "environment": "onnxruntime-cpu-fp32-t1",
        "scenario": "bitflip-weights",
        "severity_name": "rate",
        "severity": 1e-6,
        "pattern": index // 16,
        "batch": index % 16,
        "seed_key": f"{index // 16:032x}",
        "edits_hash": f"{index // 16:032x}",
        "n_edits": 12,
        "achieved": 1e-6,
        "n_samples": 64,
        "n_masked": 60,
        "n_benign": 3,
        "n_sdc": 1,
        "n_due": 0,
        "outcomes": index.to_bytes(16, "little"),
        "correct": index.to_bytes(8, "little"),
        "partials": np.full(10, float(index)).tobytes(),
        "method": "naive",
        "outcome": "ok",
    }
    return row("records", values)


def store(rows: list[Row], flush: int) -> float:
    """Seconds to have rows on disk, flushed after so many."""
    with tempfile.TemporaryDirectory() as folder:
        into = Store.create(Path(folder) / "run")
        start = time.perf_counter()
        for number, each in enumerate(rows, 1):
            into.append("records", [each])
            if number % flush == 0:
                into.flush()
        into.flush()
        return time.perf_counter() - start


def floor(rows: list[Row]) -> float:
    """Seconds of pyarrow alone."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        table = pa.Table.from_pylist(rows, schema=schema(PARTS["records"]))
        pq.write_table(table, Path(folder) / "rows.parquet", compression="zstd")
        return time.perf_counter() - start


def main() -> None:
    """Print the medians of interleaved rounds."""
    rows = [record(index) for index in range(N_ROWS)]
    ways: dict[str, Callable[[], float]] = {
        "store": lambda: store(rows, N_ROWS),
        "floor": lambda: floor(rows),
        "merged": lambda: store(rows, SMALL),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(way())
    base = median(times["floor"])
    for name, found in times.items():
        middle = median(found)
        print(f"{name:10} {N_ROWS / middle:>9,.0f} rows/s, {middle / base:.2f} of the floor's time")


if __name__ == "__main__":
    main()
