"""From a gate and a cell to evidence, or to the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from hwbench.campaign import CRITICAL_SHARE
from hwbench.collect.latency import TAILS
from hwbench.collect.planned import Planned as Cell
from hwbench.qualify.cells import FAILED, Outcomes, Run
from hwbench.qualify.evidence import USUAL_SPREAD, Crossed, Evidence, Known, Processes, Samples
from hwbench.qualify.scale import Scale, of_gate
from hwbench.record import Row
from hwbench.score import Outcome
from hwbench.spec.gates import TIMES, GateSpec
from hwbench.stats import fit
from hwbench.stats.percentiles import refused

# How a device that does not answer ends. Its requirement is not kept: that is a verdict.
DEATHS = ("crash", "oom", "timeout")

# What a campaign of each estimand tells.
_ESTIMANDS = {
    "p_sdc": ("sdc_per_sample",),
    "p_any_sdc": ("any_sdc",),
    "p_critical": ("critical",),
    "fit": ("critical", "any_sdc", "sdc_per_sample"),
}
_BY_PATTERN = ("p_any_sdc", "p_critical", "harmed_any_pattern", "fit")

Floats = npt.NDArray[np.float64]


class Untold(Exception):
    """There is no evidence, and this is why.

    Args:
        reason: in one line.
        fails: whether the reason itself is a failure of the device.
        follow_up: what to do about it.
    """

    def __init__(self, reason: str, *, fails: bool = False, follow_up: str = "") -> None:
        self.reason, self.fails, self.follow_up = reason, fails, follow_up
        super().__init__(reason)


@dataclass(frozen=True)
class Gathered:
    """Evidence, on its scale.

    Attributes:
        evidence: as harm.
        scale: between the metric and harm.
        notes: what a reader must know of it.
        untrusted: why its numbers are not trustworthy; empty where they are.
    """

    evidence: Evidence
    scale: Scale
    notes: tuple[str, ...] = ()
    untrusted: str = ""


def gather(run: Run, gate: GateSpec, cell: Cell) -> Gathered:
    """The evidence of one cell on one gate.

    Raises:
        Untold: there is none.
    """
    if gate.metric in TIMES:
        return _times(run, gate, cell)
    check_status(run, cell)
    if gate.metric == "fit":
        return _fit(run, gate, cell)
    if cell.sampled:
        return Gathered(_campaign(run, gate, cell), of_gate(gate))
    return Gathered(_rates(run, gate, cell), of_gate(gate), _allowed(run, cell))


def gather_limit(gate: GateSpec, row: Row) -> Gathered:
    """The evidence of one row of the table ``limits``.

    Raises:
        Untold: the search found nothing, or has not ended.
    """
    if row["status"] != "ok":
        refuse(row["status"], row["note"] or "", "memory search")
    value, fails = row[gate.metric], row[gate.metric.replace("_min_", "_fails_")]
    if value is None:
        raise Untold("no limit was found at which it runs", fails=gate.metric == "load_min_mib")
    made = Known(value, fails or 0.0, value, 0.0, "bracket", row["probes"], "bisection", "probes")
    return Gathered(made, of_gate(gate))


def check_status(run: Run, cell: Cell) -> None:
    """Go on with a cell that has its numbers.

    Raises:
        Untold: it has not.
    """
    status, note = run.status(cell)
    if status != "ok":
        refuse(status, note, "cell", str(run.store.folder))


def refuse(status: str, note: str, what: str, folder: str = "") -> NoReturn:
    """Say why there is no evidence; the end of a process is one that fails the gate.

    Raises:
        Untold: always.
    """
    reason = f"{what} is {status}" + (f": {note}" if note else "")
    follow = f"hwbench sweep --resume {folder}" if status == "open" and folder else ""
    raise Untold(reason, fails=status in DEATHS, follow_up=follow)


def _allowed(run: Run, cell: Cell) -> tuple[str, ...]:
    model, environment = cell.place
    rows = run.rows("environments", {"model": model, "environment": environment})
    said = [row["deviation"] for row in rows if row["deviation"]]
    return tuple(f"{each} (allowed)" for each in said)


def _rates(run: Run, gate: GateSpec, cell: Cell) -> Evidence:
    found = run.outcomes(cell)
    if gate.metric == "accuracy":
        return _accuracy(run, gate, cell, found)
    if gate.metric in _BY_PATTERN:
        return _by_pattern(gate, cell, found)
    outcome = found.outcome
    harm = {
        "p_sdc": outcome == Outcome.SDC,
        "p_due": outcome >= Outcome.DUE,
        "harmed_per_sample": outcome >= Outcome.SDC,
        "agreement_golden": outcome >= Outcome.SDC,
    }[gate.metric]
    return _by_unit(gate, cell, harm.astype(np.int8), (0.0, 1.0), (0.0, 1.0))


def _accuracy(run: Run, gate: GateSpec, cell: Cell, found: Outcomes) -> Evidence:
    if found.correct is None:
        raise Untold("the data have no labels")
    if gate.versus == "absolute":
        return _by_unit(gate, cell, 1 - found.correct, (0.0, 1.0), (0.0, 1.0))
    where = run.plan["baseline"] if gate.versus == "baseline" else cell.place[1]
    reference = run.clean_of(cell.place[0], where)
    if reference is None or cell.shifted:
        raise Untold("there is no clean cell on the same samples to compare with")
    check_status(run, reference)
    clean = run.outcomes(reference).correct
    if clean is None or clean.shape[1] != found.correct.shape[1]:
        raise Untold("the reference saw other samples")
    right = float(clean[0].mean())  # no pattern can lose more, or win more than the rest
    return _by_unit(gate, cell, clean[0] - found.correct, (-1.0, 1.0), (right - 1.0, right))


def _by_unit(
    gate: GateSpec,
    cell: Cell,
    harm: npt.NDArray[np.int8],
    bounds: tuple[float, float],
    pattern_bounds: tuple[float, float],
) -> Evidence:
    """Patterns crossed with samples, or samples, as the scenario draws."""
    if cell.case["unit"] == "pattern":
        fixed = gate.samples == "these"
        return Crossed(harm, *bounds, pattern_bounds, gate.zone, fixed)
    if gate.samples == "these":
        raise Untold("samples are the units here: nothing is random about these samples alone")
    return Samples(harm, *bounds, drawn=bool(cell.case.get("perturbed")))


def _by_pattern(gate: GateSpec, cell: Cell, found: Outcomes, factor: float = 1.0) -> Evidence:
    """One 0 or 1 per pattern: did it harm these samples?"""
    if cell.case["unit"] != "pattern":
        raise Untold(f"{gate.metric} is about patterns shared by all samples")
    harmed = (found.outcome >= Outcome.SDC) & (found.outcome <= FAILED)
    silent = found.outcome == Outcome.SDC
    least = max(1.0, CRITICAL_SHARE * harmed.shape[1])
    hit = {
        "p_any_sdc": silent.any(axis=1),
        "harmed_any_pattern": harmed.any(axis=1),
        "p_critical": harmed.sum(axis=1) >= least,
        "fit": harmed.sum(axis=1) >= least,
    }[gate.metric]
    values = hit.astype(np.int8)[:, None]
    return Crossed(values, 0.0, 1.0, (0.0, 1.0), gate.zone / factor, fixed_samples=True)


def _campaign(run: Run, gate: GateSpec, cell: Cell) -> Known:
    """A campaign's own interval, made for its stop rule."""
    (row,) = run.rows("campaigns", cell.names)
    wanted = _ESTIMANDS.get(gate.metric, ())
    if row["estimand"] not in wanted:
        told = [metric for metric, each in _ESTIMANDS.items() if row["estimand"] in each]
        raise Untold(f"the campaign asks for {row['estimand']}: gate {' or '.join(told)}")
    return Known(
        row["rate"],
        row["rate_low"],
        row["rate_high"],
        (1 - row["confidence"]) / 2,
        "fault",
        int(row["faults"]),
        row["rate_interval"],
        "faults",
    )


def _fit(run: Run, gate: GateSpec, cell: Cell) -> Gathered:
    kinds = [kind for kind, _ in cell.case["kinds"]]
    if kinds != ["singlebit"] or cell.case["severity"] != 1:
        raise Untold("fit is about single bit flips: gate a scenario singlebit with count 1")
    assert gate.raw_fit_per_mbit is not None
    mbit = gate.mbit or _mbit(run, cell)
    factor = fit.raw_fit(gate.raw_fit_per_mbit, mbit)
    if cell.sampled:
        made: Evidence = _campaign(run, gate, cell)
    else:
        made = _by_pattern(gate, cell, run.outcomes(cell), factor)
    notes = (
        f"{gate.raw_fit_per_mbit:g} FIT/Mbit (yours) x {mbit:.4g} Mbit = {factor:.4g} raw FIT",
    )
    return Gathered(made, Scale(lambda x: x / factor, lambda p: p * factor), notes)


def _mbit(run: Run, cell: Cell) -> float:
    if not cell.sampled:
        raise Untold("the size of the memory is not known: add mbit, or make it a campaign")
    (row,) = run.rows("campaigns", cell.names)
    return float(row["population"]) / fit.BITS_PER_MBIT


def _times(run: Run, gate: GateSpec, cell: Cell) -> Gathered:
    table = _latency_row(run, gate, cell)
    values = _arm(run, gate, cell, table)
    reference = None
    if gate.versus != "absolute":
        where = run.plan["baseline"] if gate.versus == "baseline" else cell.place[1]
        other = run.clean_of(cell.place[0], where)
        if other is None or other.id == cell.id:
            raise Untold(f"it is the {gate.versus} itself, or there is none")
        reference = _arm(run, gate, other, _latency_row(run, gate, other))
    made = Processes(values, reference, _spread(run))
    return Gathered(made, of_gate(gate), untrusted=_untrusted(table))


def _spread(run: Run) -> float:
    """What processes on this machine differ by at least, where that was measured."""
    known: dict[str, Any] = run.provenance.get("noise") or {}
    return float(known.get("spread_high", USUAL_SPREAD))


def _untrusted(row: Row) -> str:
    return "" if row["trust"] == "trustworthy" else row["trust_reasons"] or "unstable"


def _latency_row(run: Run, gate: GateSpec, cell: Cell) -> Row:
    """The row of ``latency`` that a gate is about; it says whether the numbers are trustworthy."""
    rows = [row for row in run.rows("latency", cell.names) if row["use"] == gate.use]
    rows = [row for row in rows if gate.batch in (None, row["batch"])]
    if not rows:
        status, note = run.status(cell)
        if status != "ok":
            refuse(status, note, "cell", str(run.store.folder))
        batch = "" if gate.batch is None else f" at batch {gate.batch}"
        raise Untold(f"no {gate.use} latency was measured there{batch}: latency: true in the spec")
    row = min(rows, key=lambda each: each["batch"] or 0)
    if row["status"] != "ok":
        refuse(row["status"], row["note"] or "", "latency")
    return row


def _arm(run: Run, gate: GateSpec, cell: Cell, table: Row) -> Floats:
    """Harm per process, in the order of blocks; of a block run again, the last."""
    rows = [
        each
        for each in run.processes(cell)
        if each["batch"] == table["batch"] and each["use"] == gate.use
    ]
    dead = [each for each in rows if each["outcome"] in DEATHS]
    if dead:
        what = f"{len(dead)} of {len(rows)} processes ended in {dead[0]['outcome']}"
        raise Untold(f"{what}: no latency is kept by a process that dies", fails=True)
    good = list({each["block"]: each for each in rows if each["outcome"] == "ok"}.values())
    if gate.metric in TAILS:
        reason = refused([each["n_calls"] for each in good], TAILS[gate.metric])
        if reason:
            raise Untold(reason, follow_up=f"latency: {{percentile: {_percentile(gate.metric)}}}")
    scale, found = of_gate(gate), [each[gate.metric] for each in good]
    if any(value is None or not value > 0 for value in found):
        raise Untold(f"{gate.metric} was not recorded")
    flip = -1.0 if gate.metric == "throughput_per_s" and gate.versus != "absolute" else 1.0
    return np.asarray([flip * scale.to(float(value)) for value in found])


def _percentile(metric: str) -> str:
    return {"latency_p999_ms": "p99.9"}.get(metric, metric.split("_")[1])


def noise_floor(run: Run) -> float:
    """The machine's known noise, as a share; 0 where it was never measured."""
    known: dict[str, Any] | None = run.provenance.get("noise")
    return float(known["floor"]) if known else 0.0


def too_close(run: Run, gate: GateSpec, evidence: Evidence, scale: Scale) -> str:
    """Why a time is nearer to its limit than this machine's noise; empty where it is not."""
    floor = noise_floor(run)
    if gate.metric not in TIMES or not floor:
        return ""
    told = f"this machine's noise floor is {floor:.1%} (hwbench doctor --noise)"
    reach = math.log1p(floor)
    if gate.versus != "absolute" and abs(math.log(gate.limit)) < reach:
        return f"no gate can be tighter than the machine's noise: {told}"
    if abs(evidence.value - scale.to(gate.limit)) < reach:
        return f"nearer to the limit than the machine's noise: {told}"
    return ""
