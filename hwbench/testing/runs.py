"""Runs of any size without running anything: the plan is a real one, its rows are drawn.

For benchmarks and tests of what comes behind the store. The numbers hang together as those of a
sweep do (outcomes with counts, correctness and metric vectors), and mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hwbench import engine, score, vectors
from hwbench.case import cell_id
from hwbench.execute import Stop
from hwbench.record import PARTS, Row, row
from hwbench.seeds import Key
from hwbench.spec import Spec
from hwbench.store import Store, schema

Outcomes = npt.NDArray[np.uint8]  # (patterns, samples)
Floats = npt.NDArray[np.float64]

_ROWS = 20_000  # of a part
_PLACES = {"conv1": ("Conv", 0), "conv2": ("Conv", 1), "fc": ("Gemm", 2)}
_STARTS = dict(
    zip(
        (each.name for each in score.METRICS),
        np.cumsum([0, *(each.width for each in score.METRICS)]).tolist(),
        strict=False,
    )
)
_WIDTH = sum(each.width for each in score.METRICS)


def generate(spec: Spec, folder: Path, *, seed: int = 0, cache: Path | None = None) -> Store:
    """A complete run of a spec whose rows are drawn; single faults have rows of their own.

    Args:
        spec: without campaigns, searches and soaks.
        folder: of the run.
        seed: of all that is drawn.
        cache: of prepared data; default: the user's.
    """
    stop = Stop()
    stop.request()  # the plan is written, and nothing is started
    options = engine.Options(output=folder, cache=cache)
    store = engine.start(spec, options, engine.Silent(), stop)
    plan = store.read_json("plan.json")
    store.append("processes", list(_processes(plan, seed)))
    if spec.latency:
        store.append("latency", list(_samples(plan, seed)))
    store.flush()
    cells = [_Cell(each, case, seed) for each in plan["environments"] for case in plan["cases"]]
    half = -(-len(cells) // 2)  # as two workers would: rows of two cells arrive interleaved
    for pair in zip_longest(cells[:half], cells[half:]):
        _store(store, [each for each in pair if each is not None])
    store.write_json("plan.json", {**plan, "complete": True})
    return store


def _store(store: Store, cells: list[_Cell]) -> None:
    tables = [each.records() for each in cells]
    order = np.argsort(np.concatenate([np.arange(len(each)) for each in tables]), kind="stable")
    rows = pa.concat_tables(tables).take(order)
    for begin in range(0, len(rows), _ROWS):
        store.append_table("records", rows.slice(begin, _ROWS))
    for each in cells:
        if each.single:
            store.append_table("faults", each.faults())


@dataclass(frozen=True)
class _Cell:
    """One environment under one case of a plan."""

    environment: dict[str, Any]
    case: dict[str, Any]
    seed: int

    @property
    def id(self) -> str:
        place = self.environment["model"], self.environment["environment"]
        return cell_id(*place, self.case["id"])

    @property
    def clean(self) -> bool:
        return bool(self.case["id"] == "clean")

    @property
    def single(self) -> bool:
        return bool(self.case["scenario"].startswith("singlebit"))

    @property
    def batches(self) -> int:
        return int(-(-self.environment["n_samples"] // self.environment["batch"]))

    def stream(self, *parts: str, shared: bool = False) -> np.random.Generator:
        """Random numbers of this cell, or of this case in all environments."""
        place = self.case["id"] if shared else self.id
        return Key((str(self.seed), place, *parts)).generator()

    def right(self) -> npt.NDArray[np.bool_]:
        """Samples that are classified rightly without faults: nearly the same everywhere."""
        model, place = self.environment["model"], self.environment["environment"]
        n_samples = self.environment["n_samples"]
        level = Key((str(self.seed), model)).generator().random(n_samples)
        own = Key((str(self.seed), model, place)).generator().normal(0, 0.005, n_samples)
        return np.asarray(level + own < 0.95)

    def outcomes(self) -> Outcomes:
        """A few patterns do nearly all the harm, the same ones in every environment."""
        patterns, n_samples = self.case["patterns"] or 1, self.environment["n_samples"]
        if self.clean:
            return np.zeros((patterns, n_samples), np.uint8)
        harm = np.where(self.stream("harm", shared=True).random(patterns) < 0.05, 0.3, 5e-4)
        level = self.stream("level", shared=True).random((patterns, n_samples))
        level = level * self.stream("own").uniform(0.98, 1.02, (patterns, n_samples))
        made = np.full((patterns, n_samples), score.Outcome.MASKED, np.uint8)
        made[level < 4 * harm[:, None]] = score.Outcome.BENIGN
        made[level < harm[:, None]] = score.Outcome.SDC
        made[level < harm[:, None] / 10] = score.Outcome.DUE
        return made

    def records(self) -> pa.Table:
        """Rows of the part, in the order of patterns and batches."""
        outcome, batch = self.outcomes(), self.environment["batch"]
        patterns, n_samples = outcome.shape
        right = self.right() & (outcome < score.Outcome.SDC)
        sizes = np.tile([min(batch, n_samples - b * batch) for b in range(self.batches)], patterns)
        lanes = np.zeros((patterns, self.batches * batch), np.uint8)
        lanes[:, :n_samples] = outcome
        hits = np.zeros_like(lanes)
        hits[:, :n_samples] = right
        lanes, hits = (each.reshape(-1, batch) for each in (lanes, hits))
        inside = np.arange(batch) < sizes[:, None]
        counts = {
            f"n_{each.name.lower()}": ((lanes == each) & inside).sum(axis=1)
            for each in score.Outcome
        }
        partials = self._partials(sizes, counts, hits.sum(axis=1))
        rows = len(sizes)
        columns = {
            **{name: [value] * rows for name, value in self._names().items()},
            "pattern": np.repeat(np.arange(patterns), self.batches),
            "batch": np.tile(np.arange(self.batches), patterns),
            "n_edits": None if self.clean else self.stream("edits").integers(1, 2, rows),
            "achieved": None if self.clean else self.stream("achieved").random(rows),
            "n_samples": sizes,
            **counts,
            "outcomes": _packed(_quads(lanes), -(-sizes // 4)),
            "correct": _packed(np.packbits(hits, axis=1), -(-sizes // 8)),
            "partials": [score.packed(each) for each in partials],
            "method": ["naive"] * rows,
            "outcome": ["ok"] * rows,
        }
        return _table("records", columns, rows)

    def _names(self) -> Row:
        names = {name: self.environment[name] for name in ("model", "environment")}
        case = {name: self.case[name] for name in ("scenario", "severity_name", "severity")}
        return {"cell": self.id, **names, **case}

    def _partials(
        self, sizes: npt.NDArray[np.int64], counts: dict[str, Any], hits: npt.NDArray[np.int64]
    ) -> Floats:
        """Metric vectors that finish to plausible values, shape (records, width)."""
        stream, rows = self.stream("partials"), len(sizes)
        made = np.zeros((rows, _WIDTH))

        def put(name: str, *values: Any) -> None:
            for index, value in enumerate(values):
                made[:, _STARTS[name] + index] = value

        kept = counts["n_masked"] + counts["n_benign"]
        for name, value in (
            ("top1", hits),
            ("top5", np.minimum(hits + 1, sizes)),
            *((f"agreement_{each}", kept) for each in ("golden", "baseline")),
            *((f"churn_{each}", sizes - kept) for each in ("golden", "baseline")),
            *((name, counts["n_sdc"]) for name in score.SILENT),
            *((f"kl_{each}_nats", stream.random(rows)) for each in ("golden", "baseline")),
            *((f"cosine_{each}", sizes - stream.random(rows)) for each in ("golden", "baseline")),
        ):
            put(name, value, sizes)
        for name in ("sqnr_golden_db", "sqnr_baseline_db"):
            put(name, sizes * stream.uniform(90, 110, rows), stream.exponential(1.0, rows))
        confident = stream.multinomial(sizes, np.arange(1, 6) / 15)  # the upper five bins
        for index in range(5):
            at, rows_of_bin = _STARTS["ece"] + vectors.BINS - 5 + index, confident[:, index]
            made[:, at] = rows_of_bin
            made[:, at + vectors.BINS] = rows_of_bin * stream.uniform(0.9, 1.0, rows)
            made[:, at + 2 * vectors.BINS] = stream.binomial(rows_of_bin, 0.9)
        classes = min(self.environment["classes"] or 0, vectors.MOST_CLASSES)
        if classes:
            labels = stream.multinomial(sizes, np.full(classes, 1 / classes))
            start = _STARTS["macro_f1"]
            for part, values in enumerate((stream.binomial(labels, 0.95), labels, labels)):
                first = start + part * vectors.MOST_CLASSES
                made[:, first : first + classes] = values
        return made

    def faults(self) -> pa.Table:
        """One flipped bit a pattern."""
        stream, rows = self.stream("faults"), self.case["patterns"]
        names, width = list(_PLACES), 8 if self.environment["precision"] == "int8" else 32
        consumer = [names[each] for each in stream.integers(len(names), size=rows)]
        bits = stream.integers(width, size=rows)
        before = stream.integers(1 << width, size=rows)
        digits = width // 4
        columns = {
            "cell": [self.id] * rows,
            "pattern": np.arange(rows),
            "layer": np.zeros(rows, np.int64),
            "site": [f"{name}.weight" for name in consumer],
            "element": stream.integers(1000, size=rows),
            "mask": [f"{1 << bit:0{digits}x}" for bit in bits.tolist()],
            "op": ["flip"] * rows,
            "before": [f"{value:0{digits}x}" for value in before.tolist()],
            "after": [f"{value:0{digits}x}" for value in (before ^ (1 << bits)).tolist()],
            "dtype": ["int8" if width == 8 else "float32"] * rows,
            "kind": ["weight"] * rows,
            "consumer": consumer,
            "op_type": [_PLACES[name][0] for name in consumer],
            "order": [_PLACES[name][1] for name in consumer],
        }
        return _table("faults", columns, rows)


def _table(part: str, columns: dict[str, Any], rows: int) -> pa.Table:
    """Columns of a part; absent ones are null."""
    wanted = schema(PARTS[part])
    arrays = [
        pa.nulls(rows, field.type)
        if columns.get(field.name) is None
        else columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], field.type)
        for field in wanted
    ]
    return pa.Table.from_arrays(arrays, schema=wanted)


def _quads(lanes: Outcomes) -> Outcomes:
    """``score.pack`` of every row at once."""
    padded = np.zeros((len(lanes), -(-lanes.shape[1] // 4) * 4), np.uint8)
    padded[:, : lanes.shape[1]] = lanes
    shifted = padded.reshape(len(lanes), -1, 4) << np.array([0, 2, 4, 6], np.uint8)
    return np.asarray(np.bitwise_or.reduce(shifted, axis=2), np.uint8)


def _packed(content: Outcomes, lengths: npt.NDArray[np.int64]) -> pa.Array:
    """The first bytes of each row as an Arrow binary array."""
    inside = np.arange(content.shape[1]) < lengths[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content[inside].tobytes())]
    return pa.Array.from_buffers(pa.binary(), len(lengths), buffers)


def _processes(plan: dict[str, Any], seed: int) -> Iterator[Row]:
    """A build and a clean run of each environment, and the timed processes of its clean cell."""
    for each in plan["environments"]:
        place = {name: each[name] for name in ("model", "environment")}
        done = {**place, "outcome": "ok", "phase": "done", "attempt": 0, "peak_rss_mib": 100.0}
        actual = {
            "device": each["device"],
            "threads": each["threads"],
            "provider": "generated",
            "isa": None,
            "version": "0",
            "ops": [{"executed": each["precision"], "kernel": "generated"}],
        }
        told = {"actual": json.dumps(actual), "load_ms": 10.0, "import_ms": 100.0}
        told |= {"first_inference_ms": 1.0, "run_ms": 50.0, "wall_s": 1.0}
        clean = {**done, **told, "kind": "accuracy", "scenario": "clean", "severity_name": ""}
        yield row("processes", {**done, "kind": "build", "job": "build", "scenario": ""})
        yield row("processes", {**clean, "job": "clean"})
    yield from (row("processes", each) for each, _ in _timed(plan, seed))


def _samples(plan: dict[str, Any], seed: int) -> Iterator[Row]:
    names = [column.name for column in PARTS["latency"]]
    for process, calls in _timed(plan, seed):
        told = {name: process[name] for name in names if name in process}
        yield row("latency", {**told, "latencies_ns": calls})


def _timed(plan: dict[str, Any], seed: int) -> Iterator[tuple[Row, list[int]]]:
    """Five processes of 2,000 calls of each environment's clean cell."""
    if plan["latency_threshold"] is None:
        return
    for each in plan["environments"]:
        place = {name: each[name] for name in ("model", "environment")}
        for block in range(5):
            stream = Key((str(seed), *place.values(), "latency", str(block))).generator()
            calls = 1e6 * stream.lognormal(0.0, 0.05, 2000)
            names = ("p50", "p90", "p95", "p97", "p99", "p999")
            tails = np.quantile(calls, [0.5, 0.9, 0.95, 0.97, 0.99, 0.999]) / 1e6
            told = {f"latency_{n}_ms": v for n, v in zip(names, tails.tolist(), strict=True)}
            process = {
                **place,
                **told,
                "kind": "latency",
                "job": f"latency-{block}",
                "scenario": "clean",
                "severity_name": "",
                "batch": 1,
                "block": block,
                "use": "singlestream",
                "outcome": "ok",
                "n_calls": calls.size,
                "latency_mean_ms": float(calls.mean() / 1e6),
                "load_ms": 10.0,
                "import_ms": 100.0,
                "first_inference_ms": 1.0,
                "relative_sd": 0.05,
                "autocorrelation": 0.0,
                "n_outliers": 0,
            }
            yield process, calls.astype(np.int64).tolist()
