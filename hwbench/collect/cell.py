"""The numbers of one cell: accuracy, drift and outcome rates, each with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench import score, stats
from hwbench.collect.records import COUNTS, Records
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
    """

    patterns: tuple[int, ...]
    correct: Matrix | None
    harmed: Matrix

    @property
    def nbytes(self) -> int:
        """Memory of the matrices."""
        return self.harmed.nbytes + (0 if self.correct is None else self.correct.nbytes)


def arrange(records: Records, n_samples: int, batch: int, labelled: bool) -> CellRows:
    """A cell's records as matrices."""
    harmed = records.outcomes(n_samples, batch) >= score.Outcome.SDC
    correct = records.correct(n_samples, batch).view(np.int8) if labelled else None
    patterns = tuple(records.patterns.tolist())
    return CellRows(patterns, correct, harmed.view(np.int8))


def interval(name: str, value: float | None, found: stats.Interval | None, why: str = "") -> Row:
    """The four columns of a value with its interval; ``why`` stands where there is none."""
    low, high = (found.low, found.high) if found else (None, None)
    method = found.method if found else why
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_interval": method}


def holm(rows: Iterable[Row], prefix: str = "") -> None:
    """Add ``p_holm``, corrected over all rows that have a ``p_value``; both behind a prefix."""
    tested = [row for row in rows if row.get(f"{prefix}p_value") is not None]
    corrected = stats.holm([row[f"{prefix}p_value"] for row in tested])
    for row, p_holm in zip(tested, corrected.tolist(), strict=True):
        row[f"{prefix}p_holm"] = p_holm


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
    mixed = stats.shuffled(means)  # datasets come sorted by class
    found = stats.betting_interval(mixed, low, high, CONFIDENCE)
    # Where early and late samples disagree, both its limits may lie on one side of the mean.
    mean = float(means.mean())
    return replace(found, low=min(found.low, mean), high=max(found.high, mean)), ""


def _share(flags: npt.NDArray[Any]) -> float:
    return int(np.count_nonzero(flags)) / flags.size


def accuracy(rows: CellRows, unit: str, clean: bool) -> Row:
    """Accuracy with its interval: Wilson for clean, else by the sampling unit."""
    if rows.correct is None:
        return interval("accuracy", None, None, "no labels")
    hits, size = int(np.count_nonzero(rows.correct)), rows.correct.size
    if clean:
        return interval("accuracy", hits / size, stats.wilson(hits, size, CONFIDENCE))
    found, why = mean_interval(rows.correct, unit, 0.0, 1.0)
    return interval("accuracy", hits / size, found, why)


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


def shift_drift(rows: CellRows, clean: CellRows | None) -> Row:
    """Accuracy on other data minus accuracy on the spec's: two independent sets of samples."""
    if rows.correct is None:
        return interval("drift", None, None, "no labels")
    if clean is None or clean.correct is None:
        return interval("drift", None, None, "no clean run")
    hits = [(int(each.correct.sum()), each.correct.size) for each in (rows, clean)
            if each.correct is not None]  # fmt: skip
    (one, n_one), (two, n_two) = hits
    found = stats.newcombe_unpaired(one, n_one, two, n_two, CONFIDENCE)
    return interval("drift", one / n_one - two / n_two, found)


def harm(rows: CellRows, unit: str) -> Row:
    """Rates of harm: per sample, and per pattern over the whole dataset."""
    found, why = mean_interval(rows.harmed, unit, 0.0, 1.0)
    per_sample = interval("harmed_per_sample", _share(rows.harmed), found, why)
    hit = rows.harmed.any(axis=1)
    wilson = stats.wilson(int(hit.sum()), hit.size, CONFIDENCE)
    return {**per_sample, **interval("harmed_any_pattern", int(hit.sum()) / hit.size, wilson)}


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


def similarity(records: Records) -> Row:
    """Every metric but top-1 from the summed vectors; infinite SQNR stays infinite."""
    values = score.finish(records.partials)
    del values["top1"]  # accuracy counts failed trials too
    return {name: (None if np.isnan(value) else value) for name, value in values.items()}


def counts(records: Records) -> Row:
    """The cell's counts over all its records."""
    failures = Counter(each["outcome"] for each in records.failed)
    return {
        "patterns": len(records.patterns),
        "trials": len(records),
        "trials_failed": len(records.failed),
        "failures": ", ".join(f"{name}: {count}" for name, count in sorted(failures.items()))
        or None,
        **{name: int(records.integers(name)[records.ok].sum()) for name in COUNTS},
        "edits_mean": _mean(records.known("n_edits")),
        "achieved_mean": _mean(records.known("achieved")),
    }


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(np.mean(values)) if values.size else None
