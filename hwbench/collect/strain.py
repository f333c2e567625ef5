"""What a condition costs in an environment: throughput and tail against the same one without.

A quota shows as rare stalls, so it is judged by throughput; contention by the tail. Both are
compared process by process, on logarithms (see ``stats.latency``): calls of one process share its
stalls and neighbours, so they are no units.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.collect.cell import CONFIDENCE, interval
from hwbench.collect.latency import SINGLE
from hwbench.record import Row

KEY = ("model", "environment", "scenario", "severity_name", "severity", "batch")
NAMES = [*KEY, "block", "use"]  # columns of ``latency`` that are read beside the samples
LEAST_CALLS = 100  # below, the 99th percentile is the maximum
TOO_FEW_CALLS = "too few calls"

Arm = tuple[Any, ...]


def add(table: list[Row], processes: Iterable[Row], samples: Iterable[Row]) -> None:
    """Add ``throughput_*`` and ``latency_p99_ratio*`` to the rows of the latency table.

    Args:
        table: its rows.
        processes: rows of ``processes``.
        samples: rows of ``latency``.
    """
    speed = _throughputs(processes)
    tail = _tails(samples, speed)
    for row in table:
        if row["status"] == "ok":
            if row["use"] != SINGLE:
                continue  # LoadGen tells throughput, and waiting in a queue is no tail
            arm = tuple(row[key] for key in KEY)
            itself = (*arm[:2], "clean", "", None, arm[5])
            row["throughput_per_s"] = _centre([*speed.get(arm, {}).values()])
            row |= _against("throughput_ratio", speed, arm, itself)
            row |= _against("latency_p99_ratio", tail, arm, itself)


def _throughputs(processes: Iterable[Row]) -> dict[Arm, dict[int, float]]:
    """Samples per second of timed calls, by arm and block; of a block run again, the last."""
    found: dict[Arm, dict[int, float]] = {}
    for each in processes:
        if (each["kind"], each["outcome"], each["use"]) == ("latency", "ok", SINGLE):
            arm = tuple(each[key] for key in KEY)
            speed = 1e3 * each["batch"] / each["latency_mean_ms"]
            found.setdefault(arm, {})[each["block"]] = speed
    return found


def _tails(
    samples: Iterable[Row], measured: dict[Arm, dict[int, float]]
) -> dict[Arm, dict[int, float]]:
    """99th percentile in ns by arm and block, of processes that ended well; NaN of few calls."""
    found: dict[Arm, dict[int, float]] = {}
    for each in samples:
        arm, block = tuple(each[key] for key in KEY), each["block"]
        if each["use"] == SINGLE and block in measured.get(arm, {}):
            calls = np.asarray(each["latencies_ns"])
            tail = float(np.quantile(calls, 0.99)) if calls.size >= LEAST_CALLS else np.nan
            found.setdefault(arm, {})[block] = tail
    return found


def _against(name: str, values: dict[Arm, dict[int, float]], arm: Arm, itself: Arm) -> Row:
    """The ratio with Welch's interval on logs of per-process values, or why there is none."""
    if arm == itself:
        return interval(name, 1.0, None, "itself")
    one, two = ([*values.get(each, {}).values()] for each in (arm, itself))
    if not one or not two:
        return interval(name, None, None, "no clean run")
    if not np.isfinite([*one, *two]).all():
        return interval(name, None, None, TOO_FEW_CALLS)
    found = stats.ratio_of_medians(one, two, CONFIDENCE)
    if found is None:
        return interval(name, _centre(one) / _centre(two), None, stats.TOO_FEW_PROCESSES)
    return interval(name, found.ratio, found.interval)


def _centre(values: list[float]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(values))))
