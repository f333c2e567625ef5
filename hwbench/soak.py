"""Latency over a long time, window by window; what the machine says of itself between windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwbench.backend import Feeds, Session
from hwbench.measure import measure


@dataclass(frozen=True)
class Sensors:
    """What the sensors say: ``None`` where there is none, never 0.

    Attributes:
        temperature_c: of the hottest core or package, in degrees Celsius.
        frequency_mhz: of the CPU now.
    """

    temperature_c: float | None
    frequency_mhz: float | None


@dataclass
class Windows:
    """One entry per window.

    Attributes:
        t_s: middle of the window, since the first one began.
        n_calls: recorded inferences.
        latency_mean_ms: of these; a CPU quota shows here and not in the median.
        latency_p50_ms: of these.
        latency_max_ms: of these.
        cpu_share: CPU time of the process per second of the window: below its threads, it had to
            wait.
        temperature_c: after the window.
        frequency_mhz: after the window.
    """

    t_s: list[float] = field(default_factory=list)
    n_calls: list[int] = field(default_factory=list)
    latency_mean_ms: list[float] = field(default_factory=list)
    latency_p50_ms: list[float] = field(default_factory=list)
    latency_max_ms: list[float] = field(default_factory=list)
    cpu_share: list[float] = field(default_factory=list)
    temperature_c: list[float | None] = field(default_factory=list)
    frequency_mhz: list[float | None] = field(default_factory=list)


def soak(
    session: Session,
    inputs: Sequence[Feeds],
    *,
    duration_s: float,
    window_s: float,
    warmup_s: float,
    sensors: Callable[[], Sensors],
    alive: Callable[[], None],
) -> Windows:
    """Windows of timed calls for so long; sensors are asked between windows only.

    Args:
        session: what is measured.
        inputs: rotated.
        duration_s: from the first window's begin.
        window_s: timed calls per window, at least one call.
        warmup_s: unrecorded calls before the first window.
        sensors: asked after every window, outside the timed region.
        alive: called after every window, as a sign of life.
    """
    measure(session, inputs, min_duration_s=0, min_count=1, warmup_s=warmup_s)
    made, begin = Windows(), time.perf_counter()
    while (start := time.perf_counter()) - begin < duration_s:
        cpu = time.process_time()
        found = measure(session, inputs, min_duration_s=window_s, min_count=1, warmup_s=0)
        cpu, end = time.process_time() - cpu, time.perf_counter()
        latencies_ms = found.latencies_ns / 1e6
        made.t_s.append((start + end) / 2 - begin)
        made.n_calls.append(len(latencies_ms))
        made.latency_mean_ms.append(float(latencies_ms.mean()))
        made.latency_p50_ms.append(float(np.median(latencies_ms)))
        made.latency_max_ms.append(float(latencies_ms.max()))
        made.cpu_share.append(cpu / (end - start))
        now = sensors()
        made.temperature_c.append(now.temperature_c)
        made.frequency_mhz.append(now.frequency_mhz)
        alive()
    return made


def read_sensors() -> Sensors:
    """By psutil; a reading of 0 or below is a sensor that is not there."""
    import psutil

    read = getattr(psutil, "sensors_temperatures", dict)  # absent on some systems
    degrees = [each.current for group in read().values() for each in group]
    try:
        frequency = psutil.cpu_freq()
    except (NotImplementedError, OSError):
        frequency = None
    return Sensors(
        _above_zero(max(degrees, default=None)),
        _above_zero(frequency.current if frequency else None),
    )


def _above_zero(value: float | None) -> float | None:
    return float(value) if value is not None and value > 0 else None
