"""Gates on a run to a verdict, with everything a reader needs to check it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import pandas as pd

from hwbench.case import case_id, cell_id
from hwbench.collect.planned import Planned as Cell
from hwbench.qualify.cells import Run, is_named_by, is_of_scenario, is_of_severity
from hwbench.qualify.decide import FAIL, INCONCLUSIVE, PASS, Decision, decide
from hwbench.qualify.gather import Gathered, Untold, gather, gather_limit, too_close
from hwbench.qualify.totals import Sums, gather_corruption, gather_soak, gather_total
from hwbench.qualify.untested import untested
from hwbench.record import Row
from hwbench.spec.gates import CORRUPTIONS, FOUND, SOAKS, TOTALS, GateSpec
from hwbench.stats.fit import mtbf_hours
from hwbench.store import Store


@dataclass(frozen=True)
class Judgement:
    """One gate in one cell. Values are in the metric's unit; ``None`` where there is none.

    Attributes:
        gate: its label.
        metric: what is judged.
        cell: model, environment, scenario, severity_name and severity.
        verdict: pass, fail or inconclusive.
        value: estimate.
        low: lower limit.
        high: upper limit.
        limit: of the gate.
        bound: whether the limit is a max or a min.
        versus: what the value is a degradation of; ``absolute`` for none.
        indifference: width of the zone.
        confidence: of each limit, one-sided, at all looks together.
        unit: sampling unit.
        n: units judged.
        method: of the interval.
        bottleneck: what keeps the interval wide; empty where it is decided.
        follow_up: what decides it.
        note: why, and what to know of it.
        untrusted: why the numbers are not trustworthy; empty where they are.
    """

    gate: str
    metric: str
    cell: Row
    verdict: str
    limit: float
    bound: str
    versus: str
    indifference: float
    confidence: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    n: int | None = None
    method: str = ""
    bottleneck: str = ""
    follow_up: str = ""
    note: str = ""
    untrusted: str = ""

    @property
    def place(self) -> str:
        """The cell in one line."""
        case = case_id(*(self.cell[key] for key in ("scenario", "severity_name", "severity")))
        return cell_id(self.cell["model"], self.cell["environment"], case)


@dataclass(frozen=True)
class Qualification:
    """All verdicts on a run.

    Attributes:
        gates: one per gate and cell.
        not_tested: what nobody should take for tested: {what, why}.
        family: whether the error of a wrong fail is shared by all of them.
    """

    gates: tuple[Judgement, ...]
    not_tested: tuple[Mapping[str, str], ...]
    family: bool = False

    @property
    def verdict(self) -> str:
        """Fail if any fails, else inconclusive if any is, else pass."""
        found = {each.verdict for each in self.gates}
        return next((each for each in (FAIL, INCONCLUSIVE) if each in found), PASS)

    @property
    def untrusted(self) -> tuple[Judgement, ...]:
        """Verdicts on numbers that are not trustworthy."""
        return tuple(each for each in self.gates if each.untrusted)

    def to_json(self) -> dict[str, Any]:
        """As verdict.json has it."""
        return {
            "verdict": self.verdict,
            "family": self.family,
            "gates": [{**asdict(each), "place": each.place.strip("/")} for each in self.gates],
            "not_tested": [dict(each) for each in self.not_tested],
        }


def qualify(
    store: Store,
    tables: Mapping[str, pd.DataFrame],
    gates: Sequence[GateSpec],
    *,
    family: bool = False,
) -> Qualification:
    """Judge a run.

    Args:
        store: the run.
        tables: cells, latency, environments, campaigns and limits, as ``collect`` gives them.
        gates: at least one.
        family: let all verdicts together fail a good device with a probability of 1 - confidence.
    """
    run = Run(store, tables)
    named = [(gate, _cells(run, gate)) for gate in gates]
    tests = max(1, sum(len(cells) for _, cells in named)) if family else 1
    found = [
        judgement
        for gate, cells in named
        for judgement in _judged(run, gate, cells, tests) or [_nowhere(run, gate)]
    ]
    judged = {_key(each.cell) for each in found} | {
        _key(cell.names) for each in found for cell in _behind(run, each)
    }
    return Qualification(tuple(found), tuple(untested(run, judged, _key)), family)


def _behind(run: Run, judgement: Judgement) -> Iterator[Cell]:
    """The other cells that a number is made of: those of corruptions."""
    told = judgement.metric in CORRUPTIONS and judgement.value is not None
    for cell in run.cells if told else ():
        place = (judgement.cell["model"], judgement.cell["environment"])
        if cell.place == place and is_of_scenario(cell.case, "corruption"):
            yield cell


def _key(names: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(names[key] for key in ("model", "environment", "scenario", "severity"))


def _cells(run: Run, gate: GateSpec) -> list[Cell]:
    return [cell for cell in run.cells if is_named_by(cell, gate)]


def _judged(run: Run, gate: GateSpec, cells: list[Cell], tests: int) -> list[Judgement]:
    if gate.metric in FOUND:
        return [_of_limit(gate, row) for row in _rows(run, "limits", gate)]
    if gate.metric in SOAKS:
        return [_of_soak(gate, row) for row in _rows(run, "soak", gate)]
    if gate.metric in CORRUPTIONS:
        return [_of_corruption(run, gate, row, tests) for row in _rows(run, "mce", gate)]
    itself = gate.versus == "baseline" or gate.metric == "sqnr_baseline_db"
    if itself and gate.scenario == "clean":
        cells = [cell for cell in cells if cell.place[1] != run.plan["baseline"]]
    take = partial(gather, run, gate)
    if gate.metric in TOTALS:
        take = partial(gather_total, run, gate, read=Sums(run.store, gate.metric, cells))
    return [_of_cell(run, gate, cell, tests, take) for cell in cells]


def _rows(run: Run, table: str, gate: GateSpec) -> list[Row]:
    """Rows of a table that is not one of cells, of the places and scenarios that a gate names."""
    return [
        row
        for row in run.rows(table, {})
        if any(fnmatchcase(row["environment"], each) for each in gate.environments)
        and any(fnmatchcase(row["model"], each) for each in gate.models)
        and _is_of_case(gate, row)
        and not ("_baseline_" in gate.metric and row["environment"] == run.plan["baseline"])
    ]


def _is_of_case(gate: GateSpec, row: Row) -> bool:
    """Whether a row's scenario is named; a search, or corruptions together, have none that is."""
    if gate.metric in CORRUPTIONS or (gate.metric in FOUND and gate.scenario == "clean"):
        return True
    named = is_of_scenario({"scenario": row["scenario"]}, gate.scenario)
    return named and (gate.metric in FOUND or is_of_severity(row["severity"], gate.severity))


def _of_cell(
    run: Run, gate: GateSpec, cell: Cell, tests: int, take: Callable[[Cell], Gathered]
) -> Judgement:
    blank = _blank(gate, cell.names)
    try:
        found = take(cell)
    except Untold as reason:
        return _untold(blank, reason)
    made = _decided(blank, gate, found, tests, str(run.store.folder))
    noise = too_close(run, gate, found.evidence, found.scale)
    if noise:
        made = replace(
            made,
            verdict=INCONCLUSIVE,
            note=noise,
            bottleneck="noise of this machine",
            follow_up="a quieter machine, or a limit farther away",
        )
    return made


def _of_limit(gate: GateSpec, row: Row) -> Judgement:
    names = {**{k: row[k] for k in ("model", "environment", "scenario")}, "severity": None}
    blank = _blank(gate, {**names, "severity_name": "limit_mib"})
    try:
        return _decided(blank, gate, gather_limit(gate, row), 1, "")
    except Untold as reason:
        return _untold(blank, reason)


def _of_soak(gate: GateSpec, row: Row) -> Judgement:
    names = ("model", "environment", "scenario", "severity_name", "severity")
    blank = _blank(gate, {name: row[name] for name in names})
    try:
        return _decided(blank, gate, gather_soak(gate, row), 1, "")
    except Untold as reason:
        return _untold(blank, reason)


def _of_corruption(run: Run, gate: GateSpec, row: Row, tests: int) -> Judgement:
    names = {"model": row["model"], "environment": row["environment"], "scenario": "corruption"}
    blank = _blank(gate, {**names, "severity_name": "", "severity": None})
    try:
        return _decided(blank, gate, gather_corruption(run, gate, row), tests, "")
    except Untold as reason:
        return _untold(blank, reason)


def _blank(gate: GateSpec, names: Row) -> Judgement:
    return Judgement(
        gate=gate.label,
        metric=gate.metric,
        cell=dict(names),
        verdict=INCONCLUSIVE,
        limit=gate.limit,
        bound="max" if gate.max is not None else "min",
        versus=gate.versus,
        indifference=gate.zone,
        confidence=gate.confidence,
    )


def _untold(blank: Judgement, reason: Untold) -> Judgement:
    verdict = FAIL if reason.fails else INCONCLUSIVE
    bottleneck = "" if reason.fails else "no evidence"
    return replace(
        blank,
        verdict=verdict,
        note=reason.reason,
        bottleneck=bottleneck,
        follow_up=reason.follow_up,
    )


def _nowhere(run: Run, gate: GateSpec) -> Judgement:
    """A gate on what the run has not got: that is no pass."""
    names = {"model": "", "environment": "", "scenario": gate.scenario}
    blank = _blank(gate, {**names, "severity_name": "", "severity": None})
    needs = next((why for metrics, why in _NEEDS if gate.metric in metrics), "")
    known = ", ".join(dict.fromkeys(str(case["id"]) for case in run.plan["cases"]))
    return _untold(blank, Untold(needs or f"no such cell in this run; it has {known}"))


# What metrics that are of no cell need in a run.
_NEEDS = (
    (CORRUPTIONS, "no such row in the table mce: it needs labels, and all five levels of a kind"),
    (FOUND, "no such row in the table limits: it needs a scenario {memory: {search: true}}"),
    (SOAKS, "no such row in the table soak: it needs soak: {duration_s: ...}"),
)


def _decided(
    blank: Judgement, gate: GateSpec, found: Gathered, tests: int, folder: str
) -> Judgement:
    evidence = found.evidence
    made = decide(gate, evidence, found.scale, tests)
    notes = [made.note, *found.notes]
    if evidence.n < evidence.available:
        notes.append(f"{evidence.n} of {evidence.available} judged: looks are planned")
    if gate.metric == "fit" and made.high is not None:
        notes.append(f"at least {mtbf_hours(made.high):.3g} h between failures")
    if made.needs and made.needs.note:
        notes.append(made.needs.note)
    return replace(
        blank,
        verdict=made.verdict,
        value=made.value,
        low=made.low,
        high=made.high,
        unit=evidence.unit,
        n=evidence.n,
        method=evidence.method,
        bottleneck=made.needs.bottleneck if made.needs else "",
        follow_up=_follow_up(made, evidence.available, _extension(blank, folder)),
        note="; ".join(notes),
        untrusted=found.untrusted,
    )


def _extension(blank: Judgement, folder: str) -> dict[str, str]:
    """The command that adds units of a name to this cell, but for their number."""
    if not folder:
        return {}
    command = f": hwbench sweep --extend {folder} "
    return {
        "patterns": f"{command}{blank.cell['scenario']}.patterns=",
        "processes": f"{command}latency.processes=",
    }


def _follow_up(made: Decision, n: int, extension: Mapping[str, str]) -> str:
    """What decides, and the command for it where there is one."""
    if made.needs is None or not made.needs.more:
        return ""
    counts = made.needs.more
    more = " and ".join(f"{count:,} more {name}" for name, count in counts.items())
    if "samples" in counts:
        return more + ": a larger data set, so a new run"
    if "faults" in counts:
        return more + ": a smaller margin in a new campaign"
    if "windows" in counts:
        return more + ": a longer soak in a new run"
    return more + "".join(
        f"{extension[name]}{n + count}" for name, count in counts.items() if name in extension
    )
