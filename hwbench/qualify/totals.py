"""From a run to evidence on numbers made of sums, and on what soaks tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hwbench import score, stats
from hwbench.collect.planned import Planned as Cell
from hwbench.collect.records import vectors_in
from hwbench.qualify.cells import Run
from hwbench.qualify.evidence import Known
from hwbench.qualify.gather import Gathered, Untold, check_status, refuse
from hwbench.qualify.scale import Scale, of_gate
from hwbench.qualify.summed import Summed
from hwbench.record import Row
from hwbench.spec.gates import DECIBELS, GateSpec
from hwbench.stats.corruption import SEVERITIES
from hwbench.store import Store

# What float32 can tell apart is 24 bits, 150 dB: outputs equal to the bit count as so far above it.
MOST_DB = 200.0
_SOAK_CONFIDENCE = 0.95  # of the table's intervals
_RECORDS = ["cell", "pattern", "batch", "outcome", "partials"]
_HELD_BYTES = 256 << 20  # of sums, of as many cells as that are read in one pass over the run

Floats = npt.NDArray[np.float64]


def gather_total(run: Run, gate: GateSpec, cell: Cell, read: Sums) -> Gathered:
    """The evidence of one cell on a metric whose sums every record has.

    Args:
        run: what is judged.
        gate: on such a metric.
        cell: where.
        read: of this metric.

    Raises:
        Untold: there is none.
    """
    check_status(run, cell)
    if cell.sampled:
        raise Untold(f"a campaign's faults are not alike: gate {gate.metric} under drawn patterns")
    scale = of_gate(gate)
    sums = read.of(cell)
    drawn = cell.case["unit"] if cell.case.get("perturbed") else ""
    batch = int(cell.environment["batch"])
    fixed = gate.samples == "these"
    if fixed and drawn != "pattern":
        raise Untold("samples are the units here: nothing is random about these samples alone")
    made = Summed(sums, metric_of(gate, scale), drawn, "batch", batch, fixed)
    if math.isnan(made.value):
        raise Untold(f"{gate.metric} is not defined here: no class axis, no labels, or no output")
    return Gathered(made, scale)


def metric_of(gate: GateSpec, scale: Scale) -> Callable[[Floats], float]:
    """The metric of a total, as harm."""
    finish = next(each.finish for each in score.METRICS if each.name == gate.metric)
    if gate.metric in DECIBELS:
        return lambda total: scale.to(min(finish(total), MOST_DB))
    return lambda total: scale.to(finish(total))


class Sums:
    """A metric's sums in some cells, which are asked for in this order.

    Args:
        store: the run.
        metric: one of ``score.METRICS``.
        cells: all that will be asked for.
    """

    def __init__(self, store: Store, metric: str, cells: Sequence[Cell]) -> None:
        self._store, self._metric = store, metric
        self._left = [each for each in cells if not each.sampled]
        self._held: dict[str, _Read] = {}

    def of(self, cell: Cell) -> Floats:
        """Sums of a cell, shape (patterns, batches, width), patterns in the order drawn.

        Raises:
            Untold: a trial gave no output, or there is none.
        """
        while cell.id not in self._held and self._left:
            self._held = self._read()
        found = self._held[cell.id]
        if found.failed or not found.sums:
            what = f"{found.failed} trials gave no output, of which {self._metric} says nothing"
            raise Untold(what, follow_up="gate p_due, which counts them")
        patterns, batches = (sorted({key[axis] for key in found.sums}) for axis in (0, 1))
        return np.stack([np.stack([found.sums[p, b] for b in batches]) for p in patterns])

    def _read(self) -> dict[str, _Read]:
        """The next cells, as many as memory is meant to hold."""
        start, width = _place(self._metric)
        made = {each.id: _Read() for each in self._next(width)}
        ids = pa.array(list(made))
        for part in self._store.batches("records", _RECORDS):
            rows = part.filter(pc.is_in(part["cell"], ids))
            well = pc.equal(rows["outcome"], "ok")
            for cell in rows.filter(pc.invert(well))["cell"].to_pylist():
                made[cell].failed += 1
            good = rows.filter(well)
            vectors = vectors_in(good["partials"])[:, start : start + width].copy()
            keys = (good[name].to_pylist() for name in ("cell", "pattern", "batch"))
            for cell, pattern, batch, vector in zip(*keys, vectors, strict=True):
                made[cell].sums.setdefault((pattern, batch), vector)
        return made

    def _next(self, width: int) -> list[Cell]:
        found, size = list[Cell](), 0
        while self._left and size < _HELD_BYTES:
            found.append(self._left.pop(0))
            samples, batch = found[-1].sizes
            size += found[-1].case["patterns"] * -(-samples // batch) * width * 8
        return found


@dataclass
class _Read:
    """What was read of a cell: sums by pattern and batch, and trials without outputs."""

    sums: dict[tuple[int, int], Floats] = field(default_factory=dict)
    failed: int = 0


def _place(metric: str) -> tuple[int, int]:
    """Where a metric's sums begin in the vector of all, and how many they are."""
    start = 0
    for each in score.METRICS:
        if each.name == metric:
            return start, each.width
        start += each.width
    raise AssertionError(f"{metric} is a metric of score.METRICS")


def gather_soak(gate: GateSpec, row: Row) -> Gathered:
    """The evidence of one row of the table ``soak``.

    Raises:
        Untold: the soak gave no numbers, or too few windows.
    """
    if row["status"] != "ok":
        refuse(row["status"], row["note"] or "", "soak")
    name, scale = gate.metric, of_gate(gate)
    if row[f"{name}_low"] is None:
        raise Untold(f"{row[f'{name}_interval']}", follow_up="soak: {duration_s: longer}")
    value, low, high = (scale.to(float(row[key])) for key in (name, f"{name}_low", f"{name}_high"))
    error, method = (1 - _SOAK_CONFIDENCE) / 2, str(row[f"{name}_interval"])
    made = Known(value, low, high, error, "window", int(row["windows"]), method, "windows")
    return Gathered(made, scale)


@dataclass(frozen=True)
class _Corrupted:
    """Errors of one environment by sample.

    Attributes:
        kinds: by kind, wrong decisions at the five severities, shape (5, samples).
        clean: wrong decisions without corruption, shape (samples,).
    """

    kinds: dict[str, Floats]
    clean: Floats


def gather_corruption(run: Run, gate: GateSpec, row: Row) -> Gathered:
    """The evidence of one row of the table ``mce``: samples are the units of all its cells.

    Raises:
        Untold: the table has no such number there.
    """
    if row[gate.metric] is None:
        raise Untold(
            f"the table mce has no {gate.metric} here: see docs/tables.md for what it needs"
        )
    own = _corrupted(run, (row["model"], row["environment"]))
    base = own
    if gate.metric != "mce_alexnet_percent":
        base = _corrupted(run, (row["model"], row["reference"]))
    kinds = [kind for kind in own.kinds if kind in base.kinds and base.kinds[kind].any()]
    columns = [own.clean, base.clean]
    for side in (own, base):
        columns += [errors for kind in kinds for errors in side.kinds[kind]]
    if len({each.size for each in columns}) > 1:
        raise Untold("the cells saw other samples")
    sums = np.stack([np.ones_like(own.clean), *columns], axis=-1)[None]
    return Gathered(Summed(sums, _corruption(gate.metric, kinds)), of_gate(gate))


def _corruption(metric: str, kinds: Sequence[str]) -> Callable[[Floats], float]:
    """The metric of summed errors: samples, two clean errors, then kinds x severities, twice."""

    def number(total: Floats) -> float:
        clean, base_clean = total[1:3] / total[0]
        own, base = (total[3:] / total[0]).reshape(2, len(kinds), -1)
        errors = dict(zip(kinds, own.tolist(), strict=True))
        if metric == "mce_alexnet_percent":
            return stats.mean_corruption_error(errors)
        theirs = dict(zip(kinds, base.mean(axis=1).tolist(), strict=True))
        if metric == "mce_baseline_percent":
            return stats.mean_corruption_error(errors, theirs)
        return stats.relative_mean_corruption_error(errors, clean, theirs, base_clean)

    return number


def _corrupted(run: Run, place: tuple[str, str]) -> _Corrupted:
    """The cells that the table ``mce`` takes: clean, and one corruption alone."""
    levels: dict[str, dict[float, Floats]] = {}
    clean = np.zeros(0)
    for cell in (each for each in run.cells if each.place == place):
        kinds = cell.case.get("kinds", [])
        if cell.case["id"] == "clean":
            clean = _wrong(run, cell)
        elif len(kinds) == 1 and kinds[0][0] == "corruption":
            levels.setdefault(kinds[0][1], {})[cell.case["severity"]] = _wrong(run, cell)
    whole = {
        kind: np.stack([found[level] for level in sorted(found)])
        for kind, found in levels.items()
        if len(found) == SEVERITIES
    }
    return _Corrupted(whole, clean)


def _wrong(run: Run, cell: Cell) -> Floats:
    """Share of patterns in which each sample is decided wrongly."""
    correct = run.outcomes(cell).correct
    if correct is None:
        raise Untold("the data have no labels")
    return np.asarray(1.0 - correct.mean(axis=0, dtype=np.float64))
