"""Uses by MLCommons LoadGen: it decides when calls arrive, times them and judges the run.

LoadGen's server counts latency from the moment a query was scheduled to arrive, so a stall is
waited for by everybody who came meanwhile; a closed loop asks nobody during a stall.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench import samples
from hwbench.backend import Array, Feeds, Session
from hwbench.errors import Unsupported
from hwbench.job import LatencyWork
from hwbench.measure import SIGN_S, Outputs, measure

MODULE = "mlperf_loadgen"
MISSING = f'{MODULE} is not installed. Hint: pip install "hwbench[loadgen]"'

SCENARIOS = {
    "loadgen-singlestream": "SingleStream",
    "multistream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
GATHERED = ("multistream", "offline")  # a query names rows, which are put into a batch
SEARCH_WIDTH = 0.05  # of the capacity: how close to the highest rate the search comes
CAPACITY_CALLS = 20
_SLACK = 1.1  # LoadGen asks so many more samples offline than the expected rate would need

_ENTRY = re.compile(r":::MLLOG (\{.*\})")
_SAMPLE = re.compile(r'"query_seq":(\d+),.*"complete_ns":(\d+)')
_REQUIREMENTS = {
    "result_perf_constraints_met": "latency is over the bound",
    "result_min_duration_met": "too short",
    "result_min_queries_met": "too few queries",
    "early_stopping_met": "too few queries for its percentile",
}

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """One test.

    Attributes:
        use: a key of ``SCENARIOS``.
        batch: rows of one inference.
        min_duration_s: at least so long.
        min_count: at least so many queries.
        p99_ms: server: bound on the 99th percentile.
        rate: server: queries per second; ``None`` searches.
        seed: of the arrivals and of the order of samples.
    """

    use: str
    batch: int
    min_duration_s: float
    min_count: int
    p99_ms: float | None = None
    rate: float | None = None
    seed: int = 0

    @classmethod
    def of(cls, work: LatencyWork) -> Wanted:
        """What a job asks for; every process draws arrivals of its own."""
        return cls(
            work.use,
            work.batch,
            work.min_duration_s,
            work.min_count,
            work.p99_ms,
            work.rate,
            1 + work.seed + work.block,
        )


@dataclass(frozen=True)
class Tested:
    """What LoadGen says.

    Attributes:
        columns: of ``processes``.
        latencies_ns: of every query in the order they were scheduled (samples, offline).
        kept: rows and outputs of some inferences.
    """

    columns: dict[str, Any]
    latencies_ns: Rows
    kept: tuple[tuple[Rows, Outputs], ...]


def run(
    session: Session,
    inputs: Sequence[Feeds],
    wanted: Wanted,
    alive: Callable[[], None] = lambda: None,
) -> Tested:
    """One test of a loaded model; for a server without a rate, a search.

    Args:
        session: what is measured.
        inputs: prepared batches of ``wanted.batch`` rows; row numbers count through them.
        wanted: the test.
        alive: called between queries, every ``SIGN_S``.

    Raises:
        Unsupported: LoadGen is not installed.
    """
    capacity = _capacity(session, inputs)
    if wanted.use != "server" or wanted.rate is not None:
        return _test(session, inputs, wanted, capacity, alive)
    tests: dict[float, Tested] = {}

    def holds(rate: float) -> bool:
        tests[rate] = _test(session, inputs, replace(wanted, rate=rate), capacity, alive)
        return bool(tests[rate].columns["loadgen"] == "VALID")

    best = highest(holds, capacity, SEARCH_WIDTH * capacity)
    if best is not None:
        return tests[best]
    lowest = tests[min(tests)]
    why = f"no rate keeps the bound, down to {min(tests):.3g} per s: {lowest.columns['loadgen']}"
    return replace(lowest, columns={**lowest.columns, "rate_per_s": None, "loadgen": why})


def highest(holds: Callable[[float], bool], capacity: float, width: float) -> float | None:
    """The highest rate that was tried and held, by bisection of what is below the capacity.

    Args:
        holds: tries a rate.
        capacity: a rate that cannot hold; never tried.
        width: ends the search.
    """
    low, high = 0.0, capacity
    while high - low > width:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low or None


def _capacity(session: Session, inputs: Sequence[Feeds]) -> float:
    """Inferences per second without a pause, from a few calls."""
    found = measure(session, inputs, min_duration_s=0.0, min_count=CAPACITY_CALLS, warmup_s=0.0)
    return 1e9 / float(np.median(found.latencies_ns))


class _System:
    """What LoadGen calls the system under test: one inference after the other."""

    def __init__(
        self,
        session: Session,
        inputs: Sequence[Feeds],
        wanted: Wanted,
        complete: Callable[[list[int]], None],
        alive: Callable[[], None],
    ) -> None:
        self.session = session
        self.inputs = inputs
        self.batch = wanted.batch
        self.gathered = wanted.use in GATHERED
        self.rows = {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}
        self.complete = complete
        self.alive = alive
        self.sign = time.monotonic() + SIGN_S
        self.failure: BaseException | None = None
        self.kept: list[tuple[Rows, Outputs]] = []
        self.count = self.due = 0

    @property
    def n_samples(self) -> int:
        """What a query can name."""
        return len(next(iter(self.rows.values()))) if self.gathered else len(self.inputs)

    def issue(self, query: Sequence[Any]) -> None:
        """Answer a query. What goes wrong is raised later: LoadGen's threads end the process."""
        width = self.batch if self.gathered else 1
        for begin in range(0, len(query), width):
            part = query[begin : begin + width]
            if self.failure is None:
                try:
                    self._infer([each.index for each in part])
                except BaseException as error:
                    self.failure = error
            else:
                time.sleep(1e-3)
            self.complete([each.id for each in part])
        if time.monotonic() >= self.sign:
            self.alive()
            self.sign = time.monotonic() + SIGN_S

    def _infer(self, indices: list[int]) -> None:
        if self.gathered:
            rows = np.resize(np.asarray(indices, np.int64), self.batch)  # the last batch is padded
            feeds: Feeds = {name: array[rows] for name, array in self.rows.items()}
        else:
            rows = np.arange(self.batch, dtype=np.int64) + indices[0] * self.batch
            feeds = self.inputs[indices[0]]
        outputs: dict[str, Array] = self.session.run(feeds)
        if self.count == self.due:
            self.kept.append((rows, outputs))
            self.due += 1 + self.count // 2
        self.count += 1


def _test(
    session: Session,
    inputs: Sequence[Feeds],
    wanted: Wanted,
    capacity: float,
    alive: Callable[[], None],
) -> Tested:
    try:
        import mlperf_loadgen as lg
    except ModuleNotFoundError as error:
        if error.name != MODULE:
            raise
        raise Unsupported(MISSING) from None

    def complete(ids: list[int]) -> None:
        lg.QuerySamplesComplete([lg.QuerySampleResponse(each, 0, 0) for each in ids])

    system = _System(session, inputs, wanted, complete, alive)
    settings = _settings(lg, wanted, capacity, system.n_samples)
    with tempfile.TemporaryDirectory() as folder:
        sut = lg.ConstructSUT(system.issue, _nothing)
        library = lg.ConstructQSL(system.n_samples, system.n_samples, _nothing, _nothing)
        try:
            lg.StartTestWithLogSettings(sut, library, settings, _logs(lg, folder), "")
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(sut)
        if system.failure is not None:
            raise system.failure
        said = _said(Path(folder) / "mlperf_log_detail.txt")
        latencies = _latencies(Path(folder) / "mlperf_log_trace.json", wanted.use)
    return Tested(_columns(said, latencies, wanted, capacity), latencies, tuple(system.kept))


def _nothing(*_: Any) -> None:
    """Samples are in memory already, and nothing is queued."""


def _settings(lg: Any, wanted: Wanted, capacity: float, n_samples: int) -> Any:
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, SCENARIOS[wanted.use])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1e3 * wanted.min_duration_s)
    settings.min_query_count = 1 if wanted.use == "offline" else wanted.min_count
    settings.performance_sample_count_override = n_samples
    settings.schedule_rng_seed = wanted.seed
    settings.sample_index_rng_seed = wanted.seed
    settings.qsl_rng_seed = wanted.seed
    expected_ns = round(1e9 / capacity)
    settings.single_stream_expected_latency_ns = expected_ns
    settings.multi_stream_expected_latency_ns = expected_ns
    settings.multi_stream_samples_per_query = wanted.batch
    settings.offline_expected_qps = capacity * wanted.batch / _SLACK
    if wanted.use == "server":
        settings.server_target_qps = wanted.rate
        settings.server_target_latency_ns = round(1e6 * (wanted.p99_ms or 0))
        settings.server_target_latency_percentile = 0.99
    return settings


def _logs(lg: Any, folder: str) -> Any:
    settings, output = lg.LogSettings(), lg.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    settings.log_output = output
    settings.enable_trace = True  # the only place where it tells single latencies
    return settings


def _said(path: Path) -> dict[str, Any]:
    """LoadGen's results by its own keys."""
    entries = map(json.loads, _ENTRY.findall(path.read_text()))
    return {each["key"]: each["value"] for each in entries}


def _latencies(path: Path, use: str) -> Rows:
    """Of every query (of every sample, offline), from the scheduled time, in nanoseconds."""
    found = [(int(query), int(done)) for query, done in _SAMPLE.findall(path.read_text())]
    if use == "offline":
        return np.array([done for _, done in found], np.int64)
    last: dict[int, int] = {}
    for query, done in found:  # a query is answered when its last sample is
        last[query] = max(done, last.get(query, 0))
    return np.array([last[query] for query in sorted(last)], np.int64)


def _columns(
    said: dict[str, Any], latencies: Rows, wanted: Wanted, capacity: float
) -> dict[str, Any]:
    """Percentiles are LoadGen's own."""
    queries = int(said["result_query_count"])
    kind = "percentile_per_query" if wanted.use == "multistream" else "percentile"
    shown = {
        name: said[f"result_{100 * p:.2f}_{kind}_latency_ns"] / 1e6
        for name, p in samples.PERCENTILES.items()
    }
    return {
        "n_calls": len(latencies) if wanted.use == "offline" else queries,
        **samples.summary(latencies, None),
        **shown,
        "throughput_per_s": _throughput(said, wanted),
        "rate_per_s": wanted.rate,
        "loadgen": _verdict(said),
    }


def _throughput(said: dict[str, Any], wanted: Wanted) -> float:
    """Samples per second: what LoadGen counts as one is a row where queries name rows."""
    if wanted.use == "offline":
        return float(said["result_samples_per_second"])
    if wanted.use == "server":
        return float(said["result_completed_samples_per_sec"]) * wanted.batch
    if wanted.use == "multistream":
        return wanted.batch * 1e9 / float(said["result_mean_query_latency_ns"])
    return float(said["result_qps_with_loadgen_overhead"]) * wanted.batch


def _verdict(said: dict[str, Any]) -> str:
    if said["result_validity"] == "VALID":
        return "VALID"
    reasons = [text for key, text in _REQUIREMENTS.items() if said.get(key) is False]
    return f"INVALID: {', '.join(reasons) or said.get('result_invalid_reason', '').strip()}"
