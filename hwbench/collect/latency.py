"""The table of latencies: per cell, batch and use, with comparisons that treat processes as units.

Two families of tests are Holm-corrected, each over the table: ``ratio`` (to the baseline
environment's clean cell) and ``slowdown`` (to the same environment's clean cell).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.collect import trust
from hwbench.collect.cell import CONFIDENCE, holm, interval
from hwbench.record import Row

KEY = ("model", "environment", "scenario", "severity_name", "severity", "batch", "use")
TAILS = {
    "latency_p90_ms": 0.9,
    "latency_p95_ms": 0.95,
    "latency_p97_ms": 0.97,
    "latency_p99_ms": 0.99,
    "latency_p999_ms": 0.999,
}
FAMILIES = ("ratio", "slowdown")
SINGLE = "singlestream"
# What is compared is the time of a call; in these uses it is the time in a queue.
_NOT_COMPARED = {
    "offline": "compare throughput_per_s: latency is the wait in one queue",
    "server": "compare rate_per_s: latency depends on the rate",
}

Key = tuple[Any, ...]


@dataclass(frozen=True)
class _Arm:
    """The processes of one row, one a block: of a block run again, the last."""

    key: Key
    rows: list[Row]
    good: list[Row]

    @classmethod
    def of(cls, key: Key, rows: list[Row]) -> _Arm:
        blocks = {each["block"]: each for each in rows if each["outcome"] == "ok"}
        return cls(key, rows, [blocks[block] for block in sorted(blocks)])

    @property
    def medians(self) -> list[float]:
        return [each["latency_p50_ms"] for each in self.good]

    def under(self, environment: str, scenario: str = "clean") -> Key:
        """The key of the clean cell of an environment, at the same batch and use."""
        return (self.key[0], environment, scenario, "", None, *self.key[5:])


def table(
    processes: Iterable[Row], plan: Mapping[str, Any], noise: Mapping[str, Any] | None
) -> list[Row]:
    """One row per cell, batch and use.

    Args:
        processes: rows of any kind.
        plan: the run's plan.json.
        noise: this machine's noise floor as ``hwbench.noise`` keeps it, or ``None``.
    """
    arms = _arms(processes)
    places = [(each["model"], each["environment"]) for each in plan["environments"]]

    def order(arm: _Arm) -> tuple[int, str, float, int, str]:
        key = arm.key
        return (places.index((key[0], key[1])), key[2], key[4] or 0.0, key[5], key[6])

    ordered = sorted(arms.values(), key=order)
    threshold = _threshold(plan, noise)
    cases = {each["scenario"]: each for each in plan["cases"]}
    perturbed = {name: each.get("perturbed", name != "clean") for name, each in cases.items()}
    result = [_row(arm, perturbed.get(arm.key[2], True)) for arm in ordered]
    for family, environment in (("ratio", plan["baseline"]), ("slowdown", None)):
        _compare(family, ordered, result, arms, environment)
        for row in result:
            row["threshold"] = threshold
            row["verdict" if family == "ratio" else "slowdown_verdict"] = _verdict(
                row, family, threshold
            )
    return result


def _arms(processes: Iterable[Row]) -> dict[Key, _Arm]:
    found: dict[Key, list[Row]] = {}
    for each in processes:
        if each["kind"] == "latency" and each["outcome"] != "interrupted":
            found.setdefault(tuple(each[name] for name in KEY), []).append(each)
    return {key: _Arm.of(key, rows) for key, rows in found.items()}


def _threshold(plan: Mapping[str, Any], noise: Mapping[str, Any] | None) -> float:
    """The user's, or the machine's noise floor where that is higher."""
    floor = noise["floor"] if noise else 0.0
    return max(plan.get("latency_threshold") or 0.0, floor)


def _row(arm: _Arm, perturbed: bool) -> Row:
    names = dict(zip(KEY, arm.key, strict=True))
    if not arm.good:
        last = arm.rows[-1]
        return {**names, "status": last["outcome"], "note": last["message"], "processes": 0}
    good, medians = arm.good, arm.medians
    calls = sum(each["n_calls"] for each in good)
    constrained = any(each["conditions"] for each in good)
    wrong = trust.findings(
        good,
        constrained=constrained,
        perturbed=perturbed,
        queued=names["use"] in _NOT_COMPARED,
    )
    return {
        **names,
        "status": "ok",
        "note": None,
        "processes": len(medians),
        "n_calls": calls,
        **interval(
            "latency_p50_ms",
            _centre(medians),
            stats.median_interval(medians, CONFIDENCE),
            stats.TOO_FEW_PROCESSES,
        ),
        **_tails(good),
        "latency_min_ms": min(medians),
        "latency_max_ms": max(medians),
        "throughput_per_s": _median(good, "throughput_per_s"),
        "rate_per_s": _median(good, "rate_per_s"),
        "loadgen": _loadgen(good),
        "energy_mj": _energy(good),
        "import_ms": _median(good, "import_ms"),
        "load_ms": _median(good, "load_ms"),
        "first_inference_ms": _median(good, "first_inference_ms"),
        "time_to_first_ms": _time_to_first(good),
        "outlier_share": _share(good, "n_outliers", calls),
        "sampled_agreement": _median(good, "sampled_agreement"),
        "canary_ms": _canary(good),
        "same_input_speedup": _median(good, "same_input_speedup"),
        "odd_numbers": _odd(good),
        "trust": trust.verdict(wrong),
        "trust_reasons": "; ".join(map(str, wrong)) or None,
    }


def _centre(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _values(rows: list[Row], name: str) -> list[float]:
    return [each[name] for each in rows if each.get(name) is not None]


def _median(rows: list[Row], name: str) -> float | None:
    values = _values(rows, name)
    return float(np.median(values)) if values else None


def _share(rows: list[Row], name: str, calls: int) -> float | None:
    values = _values(rows, name)
    return sum(values) / calls if values and calls else None


def _tails(good: list[Row]) -> Row:
    """Percentiles with intervals, or null and the reason where the calls are too few."""
    result: Row = {}
    calls = [each["n_calls"] for each in good]
    for name, tail in TAILS.items():
        values = _values(good, name)
        if len(values) < len(good):
            result |= interval(name, None, None, "not recorded")
            continue
        found, why = stats.percentile_interval(values, calls, tail)
        told = found is not None or why == stats.TOO_FEW_PROCESSES
        result |= interval(name, _centre(values) if told else None, found, why)
    return result


def _loadgen(good: list[Row]) -> str | None:
    """One word where all processes agree; else how many are invalid, and why."""
    said = [each["loadgen"] for each in good if each.get("loadgen")]
    if not said or set(said) == {"VALID"}:
        return "VALID" if said else None
    bad = [each for each in said if each != "VALID"]
    return f"{len(bad)} of {len(said)}: {bad[0]}"


def _energy(good: list[Row]) -> float | None:
    """Millijoules per inference, warm-up included in both; null without a counter."""
    values = [
        1e3 * each["energy_j"] / (each["n_calls"] + (each["warmup_calls"] or 0))
        for each in good
        if each.get("energy_j") is not None
    ]
    return float(np.median(values)) if values else None


def _time_to_first(good: list[Row]) -> float | None:
    parts = ("import_ms", "load_ms", "first_inference_ms")
    sums = [
        sum(each[name] for name in parts)
        for each in good
        if all(each.get(name) is not None for name in parts)
    ]
    return float(np.median(sums)) if sums else None


def _canary(good: list[Row]) -> float | None:
    """Null under conditions, and in runs before there was one."""
    values = _values(good, "canary_ms")
    return _centre(values) if len(values) == len(good) else None


def _odd(good: list[Row]) -> str | None:
    """Denormals, NaN and Inf that a perturbation brought in: they change the speed of CPUs."""
    names = {"stored_denormal": "denormal weights", "stored_nonfinite": "NaN or Inf weights"}
    most = {text: max(_values(good, name), default=0) for name, text in names.items()}
    found = [f"up to {n:.0f} {text}" for text, n in most.items() if n]
    broken = max(_values(good, "nonfinite_outputs"), default=0.0)
    if broken:
        found.append(f"NaN or Inf in up to {broken:.0%} of the answers")
    return ", ".join(found) or None


def _compare(
    family: str,
    ordered: list[_Arm],
    result: list[Row],
    arms: dict[Key, _Arm],
    environment: str | None,
) -> None:
    """Fill in one family of comparisons; ``environment`` is the baseline, or each one's own."""
    tested: list[tuple[Row, list[float], list[float]]] = []
    for arm, row in zip(ordered, result, strict=True):
        if not arm.good:
            continue
        base = arm.under(environment or arm.key[1])
        if base == arm.key:
            row |= interval(family, 1.0, None, "baseline" if environment else "clean")
        elif arm.key[6] in _NOT_COMPARED:
            row |= interval(family, None, None, _NOT_COMPARED[arm.key[6]])
        elif base not in arms or not arms[base].good:
            row |= interval(family, None, None, "no baseline" if environment else "no clean")
        else:
            other = arms[base].medians
            row |= _ratio(family, arm.medians, other)
            if row[f"{_prefix(family)}p_value"] is not None:
                tested.append((row, arm.medians, other))
    _correct(family, tested)


def _prefix(family: str) -> str:
    return "" if family == "ratio" else f"{family}_"


def _ratio(family: str, medians: list[float], base: list[float]) -> Row:
    found = stats.ratio_of_medians(medians, base, CONFIDENCE)
    name = f"{_prefix(family)}p_value"
    if found is None:
        value = _centre(medians) / _centre(base)
        return {**interval(family, value, None, stats.TOO_FEW_PROCESSES), name: None}
    return {**interval(family, found.ratio, found.interval), name: found.p_value}


def _correct(family: str, tested: list[tuple[Row, list[float], list[float]]]) -> None:
    """Holm over the family, and what each comparison could have found in it."""
    prefix = _prefix(family)
    holm((row for row, _, _ in tested), prefix)
    for row, one, other in tested:
        row[f"{prefix}detectable"] = stats.detectable_ratio(
            one, other, tests=len(tested), confidence=CONFIDENCE
        )


def _verdict(row: Row, family: str, threshold: float) -> str | None:
    """``slower`` or ``faster`` only where it is both shown and large enough to matter."""
    p_holm = row.get(f"{_prefix(family)}p_holm")
    if p_holm is None:
        return None
    low, high = row[f"{family}_low"], row[f"{family}_high"]
    bound = math.log1p(threshold)
    excludes = p_holm < 1 - CONFIDENCE and not low <= 1 <= high
    if excludes and abs(math.log(row[family])) > bound:
        return "slower" if row[family] > 1 else "faster"
    if -bound <= math.log(low) and math.log(high) <= bound:
        return "same"
    return "below threshold" if excludes else "not shown"
