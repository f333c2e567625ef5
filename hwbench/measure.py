"""The only place that times inference.

The process is the sampling unit: one call of ``measure`` gives one process's samples, and
statistics treat its calls as a cluster.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwbench.backend import Feeds, Session

MAX_CALLS = 1_000_000


@dataclass(frozen=True)
class Measurement:
    """Latencies of one process.

    Attributes:
        first_ns: the first inference, recorded apart.
        warmup_calls: unrecorded calls.
        latencies_ns: every recorded call in order, int64.
    """

    first_ns: int
    warmup_calls: int
    latencies_ns: npt.NDArray[np.int64]


def measure(
    session: Session,
    inputs: Sequence[Feeds],
    *,
    min_duration_s: float,
    min_count: int,
    warmup_s: float,
) -> Measurement:
    """Time single calls, inputs rotated, until both the duration and the count are reached.

    ``Session.run`` returns only when the outputs are there (devices are synchronised by the
    adapter), so the wall clock around it is the latency a caller sees.
    """
    first = _timed(session, inputs[0])
    warmup_calls = _warm_up(session, inputs, warmup_s)
    samples = np.empty(MAX_CALLS, dtype=np.int64)
    collecting = gc.isenabled()
    gc.disable()
    try:
        count = _fill(session, inputs, samples, int(min_duration_s * 1e9), min_count)
    finally:
        if collecting:
            gc.enable()
    return Measurement(first, warmup_calls, samples[:count].copy())


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


def _fill(
    session: Session,
    inputs: Sequence[Feeds],
    samples: npt.NDArray[np.int64],
    duration_ns: int,
    min_count: int,
) -> int:
    run, clock, n_inputs = session.run, time.perf_counter_ns, len(inputs)
    begin, count = clock(), 0
    while count < len(samples):
        start = clock()
        run(inputs[count % n_inputs])
        end = clock()
        samples[count] = end - start
        count += 1
        if end - begin >= duration_ns and count >= min_count:
            break
    return count
