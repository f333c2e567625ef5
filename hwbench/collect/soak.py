"""Soaks to rows: how latency drifted, whether it stepped up, and what sensors said beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.collect.cell import interval
from hwbench.record import Row

# A sustained slowdown below this share is not called throttling, however certain it is.
THROTTLE_RATIO = 1.1
# The process got so much less CPU time behind a step that this explains it.
WITHHELD = 0.95
_NAMES = ("model", "environment", "scenario", "severity_name", "severity")


def table(soaks: list[Row], processes: Mapping[tuple[str, str], list[Row]]) -> list[Row]:
    """One row per soak that was begun."""
    series = {each["job"]: each for each in soaks}
    rows = []
    for of_place in processes.values():
        last = {each["job"]: each for each in of_place if each["kind"] == "soak"}
        for job, process in last.items():
            names = {name: process[name] for name in (*_NAMES, "batch")}
            state = {"status": process["outcome"], "note": process["message"]}
            found = series.get(job) if process["outcome"] == "ok" else None
            rows.append({**names, **state, **(numbers(found) if found else {})})
    return rows


def numbers(found: Row) -> Row:
    """Drift, step and sensors of one soak; logarithms, so that ratios are what is estimated."""
    mean = np.asarray(found["latency_mean_ms"], dtype=np.float64)
    times, logs = np.asarray(found["t_s"], dtype=np.float64), np.log(mean)
    trend = stats.slope(logs, times / 60)
    ends = stats.last_against_first(logs)
    return {
        "duration_s": float(times[-1] + times[0]),
        "windows": mean.size,
        "n_calls": int(sum(found["n_calls"])),
        "latency_mean_ms": float(np.average(mean, weights=found["n_calls"])),
        **_ratio("drift_per_min", trend),
        **_ratio("last_to_first", ends),
        **_throttling(logs, times, found["cpu_share"]),
        **_sensor("temperature_c", found["temperature_c"]),
        **_sensor("frequency_mhz", found["frequency_mhz"]),
        "course": course(mean),
    }


def course(values: Any, width: int = 30) -> str:
    """A line of blocks, as high as the mean of each stretch over the smallest."""
    parts = [float(each.mean()) for each in np.array_split(values, min(width, values.size))]
    low, high = min(parts), max(parts)
    steps = (8 * (each - low) / (high - low) if high > low else 0 for each in parts)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(each))] for each in steps)


def _ratio(name: str, found: Any) -> Row:
    """An estimate on logarithms as a ratio."""
    if found is None:
        return interval(name, None, None, stats.TOO_FEW_WINDOWS)
    low, high = math.exp(found.interval.low), math.exp(found.interval.high)
    made = stats.Interval(low, high, found.interval.confidence, found.interval.method)
    return interval(name, math.exp(found.value), made)


def _throttling(logs: Any, times: Any, shares: list[float]) -> Row:
    found = stats.step(logs)
    if found is None:
        return {"throttled": None, "diagnosis": stats.TOO_FEW_WINDOWS}
    ratio = math.exp(found.difference)
    throttled = bool(found.significant and ratio >= THROTTLE_RATIO)
    before, behind = (
        float(np.mean(each)) for each in (shares[: found.index], shares[found.index :])
    )
    row: Row = {
        "throttled": throttled,
        "step_statistic": found.statistic,
        "step_critical": found.critical,
        "cpu_share_first": before,
        "cpu_share_last": behind,
        "diagnosis": None,
    }
    if throttled:
        at = float(times[found.index])
        why = (
            f"it got less CPU time ({before:.2f} -> {behind:.2f}): a quota, or others on its cores"
            if behind < WITHHELD * before
            else "with as much CPU time as before: a lower clock, or slower memory"
        )
        row |= {"throttled_at_s": at, "throttled_ratio": ratio}
        row["diagnosis"] = f"{ratio:.2f} times slower from {at:.0f} s on, {why}"
    return row


def _sensor(name: str, values: list[float | None]) -> Row:
    known = [each for each in values if each is not None]
    if not known:
        return {f"{name}_first": None, f"{name}_last": None, f"{name}_max": None}
    return {f"{name}_first": known[0], f"{name}_last": known[-1], f"{name}_max": max(known)}
