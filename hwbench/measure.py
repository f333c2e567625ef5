"""The only place that times inference, beside LoadGen for the uses that it offers.

The process is the sampling unit: one call of ``measure`` gives one process's samples, and
statistics treat its calls as a cluster.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array, Feeds, Session
from hwbench.histogram import Histogram

MAX_CALLS = 1_000_000  # more are counted in a histogram
SIGN_S = 10.0  # between signs of life, so that a slow process is not taken for a hanging one

Samples = npt.NDArray[np.int64]
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Measurement:
    """Latencies of one process.

    Attributes:
        first_ns: the first inference, recorded apart.
        warmup_calls: unrecorded calls.
        latencies_ns: every recorded call in order, int64; of a soak those after the last fold.
        folded: all recorded calls of a soak; ``None`` when ``latencies_ns`` has them all.
        elapsed_ns: from the start of the first recorded call to the end of the last one.
        kept: outputs of some recorded calls, each with the index of its input.
    """

    first_ns: int
    warmup_calls: int
    latencies_ns: Samples
    folded: Histogram | None
    elapsed_ns: int
    kept: tuple[tuple[int, Outputs], ...]

    @property
    def n_calls(self) -> int:
        """Recorded calls."""
        return len(self.latencies_ns) if self.folded is None else len(self.folded)


def measure(
    session: Session,
    inputs: Sequence[Feeds],
    *,
    min_duration_s: float,
    min_count: int,
    warmup_s: float,
    max_calls: int = MAX_CALLS,
    alive: Callable[[], None] = lambda: None,
) -> Measurement:
    """Time single calls, inputs rotated, until both the duration and the count are reached.

    ``Session.run`` returns only when the outputs are there (devices are synchronised by the
    adapter), so the wall clock around it is the latency a caller sees.

    Args:
        session: what is measured.
        inputs: rotated, so that no single one is measured out of the cache alone.
        min_duration_s: at least so long.
        min_count: at least so many recorded calls.
        warmup_s: unrecorded calls first, after the very first one.
        max_calls: raw samples that are held; beyond them all become a histogram.
        alive: called between calls, every ``SIGN_S``.
    """
    first = _timed(session, inputs[0])
    warmup_calls = _warm_up(session, inputs, warmup_s)
    tape = _Tape(np.empty(max_calls, dtype=np.int64))
    with _no_collections():
        _fill(session, inputs, tape, int(min_duration_s * 1e9), min_count, alive)
    return Measurement(
        first, warmup_calls, tape.left(), tape.folded, tape.elapsed_ns, tuple(tape.kept)
    )


def repeat(session: Session, feeds: Feeds, count: int) -> Samples:
    """Latencies of ``count`` calls with the same input, in nanoseconds."""
    samples = np.empty(count, dtype=np.int64)
    with _no_collections():
        for index in range(count):
            samples[index] = _timed(session, feeds)
    return samples


@contextmanager
def _no_collections() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _timed(session: Session, feeds: Feeds) -> int:
    start = time.perf_counter_ns()
    session.run(feeds)
    return time.perf_counter_ns() - start


def _warm_up(session: Session, inputs: Sequence[Feeds], warmup_s: float) -> int:
    end, calls = time.perf_counter_ns() + int(warmup_s * 1e9), 0
    while time.perf_counter_ns() < end:
        session.run(inputs[calls % len(inputs)])
        calls += 1
    return calls


class _Tape:
    """Where samples go: a buffer that is folded into a histogram whenever it is full."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.used = 0
        self.folded: Histogram | None = None
        self.elapsed_ns = 0
        self.kept: list[tuple[int, Outputs]] = []

    def fold(self) -> None:
        """Make room."""
        values = self.samples[: self.used]
        folded = self.folded
        self.folded = Histogram.of(values) if folded is None else folded.with_values(values)
        self.used = 0

    def left(self) -> Samples:
        """The raw samples in the buffer, which in a soak are counted among the others too."""
        values = self.samples[: self.used].copy()
        if self.folded is not None:
            self.fold()
        return values


def _fill(
    session: Session,
    inputs: Sequence[Feeds],
    tape: _Tape,
    duration_ns: int,
    min_count: int,
    alive: Callable[[], None],
) -> None:
    """Record calls; keep the outputs of some, ever further apart, and of the last."""
    run, clock, n_inputs = session.run, time.perf_counter_ns, len(inputs)
    samples, room = tape.samples, len(tape.samples)
    begin, count, due = clock(), 0, 0
    every = int(SIGN_S * 1e9)
    sign = begin + every
    while True:
        index = count % n_inputs
        start = clock()
        outputs = run(inputs[index])
        end = clock()
        samples[tape.used] = end - start
        tape.used += 1
        if count == due:
            tape.kept.append((index, outputs))
            due += 1 + count // 2
        count += 1
        if end - begin >= duration_ns and count >= min_count:
            break
        if tape.used == room:
            tape.fold()
        if end >= sign:
            alive()
            sign = end + every
    tape.elapsed_ns = end - begin
    tape.kept.append((index, outputs))
