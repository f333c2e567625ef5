"""The numbers of one cell: accuracy, drift and outcome rates, each with its interval."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench import score, stats
from hwbench.record import Row

CONFIDENCE = 0.95
Matrix = npt.NDArray[np.int8]  # (patterns, samples)


@dataclass(frozen=True)
class CellRows:
    """The records of one cell as matrices over patterns and samples.

    Attributes:
        correct: 1 where a sample is classified rightly; ``None`` without labels. A failed trial
            gives no answer, so its samples are not right.
        harmed: 1 where the decision changed, the output broke, or the trial failed.
        partials: metric vectors summed over all trials that gave outputs.
    """

    patterns: tuple[int, ...]
    correct: Matrix | None
    harmed: Matrix
    partials: npt.NDArray[np.float64]


def arrange(rows: list[Row], n_samples: int, batch: int, labelled: bool) -> CellRows:
    """Records (any order, at most one per pattern and batch) to matrices."""
    patterns = tuple(sorted({each["pattern"] for each in rows}))
    place = {pattern: index for index, pattern in enumerate(patterns)}
    shape = (len(patterns), n_samples)
    correct, harmed = np.zeros(shape, np.int8), np.ones(shape, np.int8)
    width = sum(metric.width for metric in score.METRICS)
    total = np.zeros(width)
    for each in sorted(rows, key=lambda r: (r["pattern"], r["batch"])):
        if each["outcome"] != "ok":
            continue
        n, begin = each["n_samples"], each["batch"] * batch
        span = slice(begin, begin + n)
        outcome = score.unpack(each["outcomes"], n)
        harmed[place[each["pattern"]], span] = outcome >= score.Outcome.SDC
        if each["correct"] is not None:
            bits = np.unpackbits(np.frombuffer(each["correct"], np.uint8), count=n)
            correct[place[each["pattern"]], span] = bits
        total += np.asarray(each["partials"])
    return CellRows(patterns, correct if labelled else None, harmed, total)


def interval(name: str, value: float | None, found: stats.Interval | None, why: str = "") -> Row:
    """The four columns of a value with its interval; ``why`` stands where there is none."""
    low, high = (found.low, found.high) if found else (None, None)
    method = found.method if found else why
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_interval": method}


def mean_interval(
    values: Matrix,
    unit: str,
    low: float,
    high: float,
    pattern_bounds: tuple[float, float] | None = None,
) -> tuple[stats.Interval | None, str]:
    """Interval of the mean by the cell's sampling unit, or why there is none.

    ``pattern``: a draw is shared by all samples, so patterns are crossed with samples.
    ``sample``: every sample has draws of its own, so samples are the units, averaged over draws.
    """
    if unit == "pattern":
        found = stats.crossed_mean_interval(
            values, low, high, CONFIDENCE, pattern_bounds=pattern_bounds
        )
        return found, stats.TOO_FEW_PATTERNS
    means = values.mean(axis=0)
    order = np.random.default_rng(0).permutation(means.size)  # datasets come sorted by class
    return stats.betting_interval(means[order], low, high, CONFIDENCE), ""


def accuracy(rows: CellRows, unit: str, clean: bool) -> Row:
    """Accuracy with its interval: Wilson for clean, else by the sampling unit."""
    if rows.correct is None:
        return interval("accuracy", None, None, "no labels")
    value = float(rows.correct.mean())
    if clean:
        hits = int(rows.correct.sum())
        return interval("accuracy", value, stats.wilson(hits, rows.correct.size, CONFIDENCE))
    found, why = mean_interval(rows.correct, unit, 0.0, 1.0)
    return interval("accuracy", value, found, why)


def environment_drift(rows: CellRows, baseline: CellRows | None) -> Row:
    """Clean accuracy minus the baseline's clean accuracy: paired proportions."""
    if rows.correct is None:
        return interval("drift", None, None, "no labels")
    if baseline is None or baseline.correct is None:
        return interval("drift", None, None, "no baseline")
    one, two = rows.correct[0].astype(bool), baseline.correct[0].astype(bool)
    both, first, second = (int(each.sum()) for each in (one & two, one & ~two, ~one & two))
    neither = one.size - both - first - second
    value = (first - second) / one.size
    found = stats.newcombe_paired(both, first, second, neither, CONFIDENCE)
    return interval("drift", value, found)


def scenario_drift(rows: CellRows, clean: CellRows | None, unit: str) -> Row:
    """Accuracy under the scenario minus clean accuracy, on the same samples."""
    if rows.correct is None:
        return interval("drift", None, None, "no labels")
    if clean is None or clean.correct is None:
        return interval("drift", None, None, "no clean run")
    difference = rows.correct - clean.correct[0]
    right = float(clean.correct[0].mean())  # no pattern can lose more, or win more than the rest
    found, why = mean_interval(difference, unit, -1.0, 1.0, (-right, 1.0 - right))
    return interval("drift", float(difference.mean()), found, why)


def harm(rows: CellRows, unit: str) -> Row:
    """Rates of harm: per sample, and per pattern over the whole dataset."""
    found, why = mean_interval(rows.harmed, unit, 0.0, 1.0)
    per_sample = interval("harmed_per_sample", float(rows.harmed.mean()), found, why)
    hit = rows.harmed.any(axis=1)
    wilson = stats.wilson(int(hit.sum()), hit.size, CONFIDENCE)
    return {**per_sample, **interval("harmed_any_pattern", float(hit.mean()), wilson)}


def interaction(
    first: tuple[CellRows, CellRows], second: tuple[CellRows, CellRows], unit: str
) -> Row:
    """How much more the first environment loses than the second; each is (clean, scenario)."""
    sides = []
    for clean, scenario in (first, second):
        if clean.correct is None or scenario.correct is None:
            return interval("interaction", None, None, "no labels")
        sides.append((clean.correct[0], scenario.correct))
    if first[1].patterns != second[1].patterns:
        return interval("interaction", None, None, "different patterns")
    found = stats.interaction(*sides, shared_patterns=unit == "pattern", confidence=CONFIDENCE)
    direction = "more" if found.difference < 0 else "less"
    return {
        **interval("interaction", found.difference, found.interval, stats.TOO_FEW_PATTERNS),
        "loses": None if found.interval is None else direction if found.named else "alike",
        "p_value": found.p_value,
        "only_here": found.only_first,
        "only_baseline": found.only_second,
        "patterns": len(first[1].patterns),
        "n_samples": int(sides[0][0].size),
    }


def similarity(rows: CellRows) -> Row:
    """Every metric but top-1 from the summed vectors; infinite SQNR stays infinite."""
    values = score.finish(rows.partials)
    del values["top1"]  # accuracy counts failed trials too
    return {name: (None if np.isnan(value) else value) for name, value in values.items()}


def counts(rows: list[Row]) -> Row:
    """The cell's counts over all its records."""
    good = [each for each in rows if each["outcome"] == "ok"]
    failures = Counter(each["outcome"] for each in rows if each["outcome"] != "ok")
    totals = {
        name: sum(each[name] for each in good)
        for name in ("n_samples", "n_masked", "n_benign", "n_sdc", "n_due")
    }
    return {
        "patterns": len({each["pattern"] for each in rows}),
        "trials": len(rows),
        "trials_failed": sum(failures.values()),
        "failures": ", ".join(f"{name}: {count}" for name, count in sorted(failures.items()))
        or None,
        **totals,
        "edits_mean": _mean(good, "n_edits"),
        "achieved_mean": _mean(good, "achieved"),
    }


def _mean(rows: list[Row], name: str) -> float | None:
    values: list[Any] = [each[name] for each in rows if each[name] is not None]
    return float(np.mean(values)) if values else None
