"""The comparison as rows: one per cell and number, with a verdict that holds over all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hwbench.collect.cell import CONFIDENCE, holm
from hwbench.collect.rows import rows_of
from hwbench.compare import changes
from hwbench.compare.changes import Change
from hwbench.compare.comparable import Difference, differences, matched_models, redefined
from hwbench.compare.side import Cell, Side, cell_of, said
from hwbench.record import Column, Row

WORSE, BETTER, BROKE, MENDED = "worse", "better", "broke", "mended"
SAME, BELOW, NOT_SHOWN, DIFFERS = "same", "below threshold", "not shown", "differs"
DECIDED = (BROKE, WORSE, MENDED, BETTER, DIFFERS, BELOW)
_ALARMS = (WORSE, BROKE)

COLUMNS = (
    Column("model", "string", "the model's name in the first run"),
    Column("environment", "string", "environment id"),
    Column("scenario", "string", "scenario name; `clean` is the empty scenario"),
    Column("severity_name", "string", "parameter that is the severity; empty for clean"),
    Column("severity", "float64", "its value; null for clean"),
    Column(
        "metric",
        "string",
        "accuracy, harmed_per_sample, agreement (of clean decisions, without labels), a campaign's"
        " estimand, latency_p50_ms, throughput_per_s (offline), rate_per_s (server), load_min_mib"
        " (memory search) or status",
    ),
    Column("batch", "int64", "latency: samples per inference"),
    Column("use", "string", "latency: how calls arrived"),
    Column("before", "float64", "value in the first run"),
    Column("after", "float64", "value in the second run"),
    Column(
        "change", "float64", "after minus before; of latencies, rates and memory after / before"
    ),
    Column("change_low", "float64", "lower limit of change, 95 % (campaigns: their confidence)"),
    Column("change_high", "float64", "upper limit of change"),
    Column("change_interval", "string", "method of the interval, or why there is none"),
    Column("p_value", "float64", "two-sided, of no change"),
    Column("p_holm", "float64", "the same, Holm-corrected over this comparison"),
    Column("n", "string", "units on which it rests"),
    Column("pairing", "string", "same draws, or other draws: faults and noise of another seed"),
    Column("threshold", "float64", "change that is called worse or better, from here"),
    Column(
        "verdict",
        "string",
        "worse, better: shown after Holm, and beyond the threshold; below threshold: shown, and"
        " smaller; same: equal, or the interval lies within the threshold; not shown: none of"
        " these; broke, mended: only the first, only the second run has numbers; differs: neither"
        " better nor worse",
    ),
    Column("note", "string", "what else there is to know"),
    Column("trust", "string", "latency: unstable where either run's is"),
)


@dataclass(frozen=True)
class Thresholds:
    """From which change on a cell is worse.

    Attributes:
        points: of shares (accuracy, harm), in percentage points.
        percent: of latencies, rates and memory; ``None``: the larger of the two specs'. Never below
            the noise floor of either machine.
    """

    points: float = 0.5
    percent: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What became of every cell, and what the runs were made with that differs.

    Attributes:
        rows: with ``COLUMNS``.
        differences: of machine, versions, seed, models and what really ran.
        only_before: cells that the second run does not have.
        only_after: cells that the first run does not have.
        redefined: cells with other parameters under the same name: not compared.
        doubts: why the comparison is not to be trusted altogether.
    """

    before: Path
    after: Path
    rows: pd.DataFrame
    differences: list[Difference]
    only_before: list[Cell]
    only_after: list[Cell]
    redefined: list[Cell]
    doubts: list[str]

    @property
    def worse(self) -> bool:
        """Whether any cell got worse or broke."""
        return bool(self.rows["verdict"].isin(_ALARMS).any())

    @property
    def decided(self) -> pd.DataFrame:
        """The rows with a change that was shown, the alarming ones first."""
        found = self.rows[self.rows["verdict"].isin(DECIDED)]
        order = found["verdict"].map(DECIDED.index)
        return found.loc[order.sort_values(kind="stable").index]

    @property
    def silent(self) -> bool:
        """Whether there is nothing at all to tell."""
        found = (self.differences, self.only_before, self.only_after, self.redefined)
        return not any(found) and bool((self.rows["verdict"] == SAME).all())


def compare(
    before: Path,
    after: Path,
    thresholds: Thresholds | None = None,
    *,
    across_models: bool = False,
) -> Comparison:
    """Compare two run folders; neither is written to.

    Args:
        before: folder of the first run.
        after: folder of the second.
        thresholds: from which change on a cell is worse.
        across_models: whether the models may differ.

    Raises:
        RequestError: there is no run, or the two cannot be compared.
    """
    return _Pair.read(before, after, thresholds or Thresholds(), across_models).comparison()


@dataclass(frozen=True)
class _Pair:
    """The two runs, their cells matched by the names in the first."""

    before: Side
    after: Side
    models: dict[str, str]
    thresholds: Thresholds

    @classmethod
    def read(cls, before: Path, after: Path, thresholds: Thresholds, across: bool) -> _Pair:
        one, two = Side.read(before), Side.read(after)
        return cls(one, two, matched_models(one, two, across=across), thresholds)

    def comparison(self) -> Comparison:
        one, two = self.before.cells, self.after.cells
        named = {self._original(cell): cell for cell in two}
        common = {cell: named[cell] for cell in one if cell in named}
        other = redefined(self.before, self.after)
        changed = [cell for cell in common if _case(cell) in other]
        pairs = {cell: found for cell, found in common.items() if cell not in changed}
        rows = [row for pair in pairs.items() for row in self._cell(*pair)]
        rows += [*self._latencies(pairs), *self._campaigns(pairs), *self._limits()]
        self._judge(rows)
        return Comparison(
            self.before.folder,
            self.after.folder,
            pd.DataFrame(rows, columns=[each.name for each in COLUMNS]),
            differences(self.before, self.after, self.models),
            [cell for cell in one if cell not in named],
            [named[cell] for cell in named if cell not in one],
            changed,
            self._doubts(rows),
        )

    def _original(self, cell: Cell) -> Cell:
        """A cell of the second run by the model's name in the first."""
        names = {theirs: ours for ours, theirs in self.models.items()}
        return (names.get(cell[0], cell[0]), *cell[1:])

    def _cell(self, cell: Cell, other: Cell) -> Iterator[Row]:
        one, two = self.before.cells[cell], self.after.cells[other]
        if one["status"] != "ok" or two["status"] != "ok":
            yield from _status(cell, one, two)
            return
        case = self.before.case(cell)
        if case["patterns"] is None or self.after.case(other)["patterns"] is None:
            return  # a campaign's patterns are not alike: it has a rate of its own
        (first, keys), (second, other_keys) = self.before.outcomes(cell), self.after.outcomes(other)
        pairing = None
        if case["perturbed"]:
            pairing = "same draws" if keys & other_keys else "other draws"
        accuracy = changes.of_accuracy(first, second, case)
        if accuracy is not None:
            yield _row(cell, "accuracy", accuracy, pairing=pairing)
        elif _case(cell) == "clean":
            yield self._agreement(cell, other)
        if case["perturbed"]:
            found = changes.of_harm(first, second, case)
            yield _row(cell, "harmed_per_sample", found, pairing=pairing)

    def _agreement(self, cell: Cell, other: Cell) -> Row:
        """Without labels: do the two runs decide alike? Neither is known to be right."""
        task = self.before.spec.task
        found, note = changes.agreement(self.before.golden(cell), self.after.golden(other), task)
        row = _row(cell, "agreement", found, note=note)
        if found.after is not None and found.after < 1:
            row["verdict"] = DIFFERS
        return row

    def _latencies(self, pairs: dict[Cell, Cell]) -> Iterator[Row]:
        others = {(cell, batch, use): rows for cell, batch, use, rows in self.after.latencies()}
        unstable = self.before.unstable | {
            (self._original(cell), *how) for cell, *how in self.after.unstable
        }
        alike = self.before.run["machine"] == self.after.run["machine"]
        for cell, batch, use, rows in self.before.latencies():
            if cell not in pairs or (pairs[cell], batch, use) not in others:
                continue
            metric = changes.TIMED.get(use, "latency_p50_ms")
            found, note = changes.timed(
                rows, others[pairs[cell], batch, use], metric, same_machine=alike
            )
            if found is not None:
                trust = "unstable" if (cell, batch, use) in unstable else "trustworthy"
                yield _row(cell, metric, found, batch=batch, use=use, trust=trust, note=note)

    def _campaigns(self, pairs: dict[Cell, Cell]) -> Iterator[Row]:
        one, two = (
            {
                cell_of(row): row
                for row in rows_of(side.tables["campaigns"])
                if row["status"] == "ok" and row["rate_low"] is not None
            }
            for side in (self.before, self.after)
        )
        for cell, row in one.items():
            other = two.get(pairs.get(cell, cell))
            if other is None or row["estimand"] != other["estimand"]:
                continue
            if row["confidence"] == other["confidence"]:
                found = changes.of_rates(_rate(row), _rate(other), row["confidence"])
                yield _row(cell, row["estimand"], found)

    def _limits(self) -> Iterator[Row]:
        """Smallest memory: both searches end in a bracket; brackets apart are a change."""
        one, two = (_searched(side) for side in (self.before, self.after))
        for (model, environment, scenario), row in one.items():
            other = two.get((self.models.get(model, ""), environment, scenario))
            if other is not None:
                cell = (model, environment, scenario, "limit_mib", None)
                yield _row(cell, "load_min_mib", changes.of_brackets(row, other))

    def _judge(self, rows: list[Row]) -> None:
        """Holm over everything that was tested, and a verdict for each row."""
        holm(rows)
        points, percent = self.thresholds.points / 100, self._ratio_threshold()
        for row in rows:
            change: Change | None = row.pop("of", None)
            if change is not None:
                row["threshold"] = percent if change.ratio else points
                row["verdict"] = row.get("verdict") or verdict(
                    change, row.get("p_holm"), row["threshold"]
                )

    def _ratio_threshold(self) -> float:
        asked = self.thresholds.percent
        sides = (self.before, self.after)
        own = [each.plan.get("latency_threshold") or 0.0 for each in sides]
        floors = [(each.run.get("noise") or {}).get("floor", 0.0) for each in sides]
        return float(max(*(own if asked is None else [asked / 100]), *floors))

    def _doubts(self, rows: Sequence[Row]) -> list[str]:
        found = [
            f"{side.folder} is not complete: hwbench sweep --resume it"
            for side in (self.before, self.after)
            if not side.plan.get("complete", True)
        ]
        unstable = sum(row.get("trust") == "unstable" for row in rows)
        if unstable:
            found.append(f"{unstable} latencies are unstable in either run: see its report")
        return list(dict.fromkeys(found))


def verdict(change: Change, p_holm: float | None, threshold: float) -> str:
    """What a change is, by its interval, its corrected p-value and what is worth telling."""
    if change.nothing:
        return SAME
    if change.interval is None or change.change is None or p_holm is None:
        return NOT_SHOWN
    scale = math.log if change.ratio else float
    bound = math.log1p(threshold) if change.ratio else threshold
    moved = scale(change.change)
    low, high = (scale(each) for each in (change.interval.low, change.interval.high))
    shown = p_holm < 1 - CONFIDENCE and not low <= 0 <= high
    if shown and abs(moved) > bound:
        return BETTER if (moved > 0) == change.higher_is_better else WORSE
    if -bound <= low and high <= bound:
        return BELOW if shown else SAME
    return BELOW if shown else NOT_SHOWN


def _case(cell: Cell) -> str:
    return said(cell).split("/", 2)[2]


def _names(cell: Cell) -> Row:
    return dict(zip([each.name for each in COLUMNS[:5]], cell, strict=True))


def _row(cell: Cell, metric: str, change: Change, **more: Any) -> Row:
    return {
        **_names(cell),
        "metric": metric,
        "before": change.before,
        "after": change.after,
        "change": change.change,
        "change_low": change.interval.low if change.interval else None,
        "change_high": change.interval.high if change.interval else None,
        "change_interval": change.method,
        "p_value": change.p_value,
        "n": change.n,
        "of": change,
        **more,
    }


def _status(cell: Cell, one: Row, two: Row) -> Iterator[Row]:
    """Of a cell that at least one of the runs has no numbers of."""
    if one["status"] == two["status"] or "open" in (one["status"], two["status"]):
        return
    ended = BROKE if one["status"] == "ok" else MENDED if two["status"] == "ok" else DIFFERS
    why = two["note"] or ""
    note = f"{one['status']} -> {two['status']}{': ' if why else ''}{why}"
    yield {**_names(cell), "metric": "status", "p_value": None, "verdict": ended, "note": note}


def _rate(row: Row) -> tuple[float, float, float]:
    return row["rate"], row["rate_low"], row["rate_high"]


def _searched(side: Side) -> dict[tuple[str, str, str], Row]:
    rows = rows_of(side.tables["limits"])
    return {
        (row["model"], row["environment"], row["scenario"]): row
        for row in rows
        if row["status"] == "ok" and row["load_min_mib"] is not None
    }
