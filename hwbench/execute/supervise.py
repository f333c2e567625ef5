"""One job to its end: fresh workers behind every death, each death charged to what it announced."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from hwbench import fingerprint
from hwbench.case import Case, cell_id
from hwbench.execute.classify import Verdict, actual_json, classify, judged
from hwbench.execute.launch import Ended, StopSignal, run_worker
from hwbench.job import AccuracyWork, Job, LatencyWork, PrepareWork, SearchWork, Trial
from hwbench.record import PARTS, Row, row, rows_from

MAX_LOAD_CRASHES = 3
MAX_INTERRUPTIONS = 2


class Sink(Protocol):
    """Where rows go."""

    def append(self, part: str, rows: list[Row]) -> None:
        """Take rows of a part."""


@dataclass
class _State:
    """What is known of a job while it is being done."""

    done: set[Trial] = field(default_factory=set)
    announced: list[Trial] = field(default_factory=list)
    together: bool = False
    alone: set[Trial] = field(default_factory=set)
    load_crashes: int = 0
    interruptions: Counter[Trial | None] = field(default_factory=Counter)
    records: int = 0


def supervise(
    job: Job,
    sink: Sink,
    stop: StopSignal,
    on_trial: Callable[[int], None],
) -> str:
    """Do a job and give its last process outcome; unless stopped, every trial then has a row."""
    state = _State()
    for attempt in range(1_000_000):
        state.announced, state.together, state.records = [], False, 0
        left = job.without(state.done).alone(state.alone)
        ended = run_worker(left, lambda event: _take(event, job, sink, state, on_trial), stop)
        verdict, differs = judged(ended, classify(ended, job.deadline_s), job.environment)
        verdict = _enough(verdict, state)
        sink.append("processes", [_process_row(job, attempt, ended, verdict, differs, state)])
        if not _again(job, sink, state, verdict, ended, on_trial):
            return verdict.outcome
    raise AssertionError("unreachable: every attempt finishes a trial or counts against a limit")


def _take(
    event: dict[str, Any], job: Job, sink: Sink, state: _State, on_trial: Callable[[int], None]
) -> None:
    kind = event["event"]
    if kind == "trials":
        state.announced = [(case, pattern, batch) for case, pattern, batch in event["trials"]]
        state.together = event.get("together", False)
    elif kind == "record":
        case, pattern, batch = event["trial"]
        sink.append(
            "records", [_record_row(job, (case, pattern, batch), event["row"], Verdict("ok"))]
        )
        state.done.add((case, pattern, batch))
        state.records += 1
        on_trial(1)
    elif kind == "faults":
        cell = cell_id(job.model, job.environment.id, event["case"])
        shared = {"cell": cell, **event["shared"]}
        sink.append("faults", rows_from("faults", shared, event["columns"]))
    elif kind == "search":
        place = {"model": job.model, "environment": job.environment.id}
        sink.append("searches", [row("searches", {**place, **each}) for each in event["rows"]])
    elif kind == "latency":
        del event["event"]
        sink.append("latency", [_timed_row("latency", job, event)])
    elif kind == "soak":
        sink.append("soak", [_timed_row("soak", job, event["windows"])])


def _enough(verdict: Verdict, state: _State) -> Verdict:
    """A death from outside is run again, at most twice; after that it is the trial's own."""
    if verdict.outcome != "interrupted" or verdict.message == "the sweep was stopped":
        return verdict
    trial = next((each for each in state.announced if each not in state.done), None)
    state.interruptions[trial] += 1
    if state.interruptions[trial] <= MAX_INTERRUPTIONS:
        return verdict
    state.load_crashes = MAX_LOAD_CRASHES  # it was run again often enough
    return Verdict("crash", f"{verdict.message}, {state.interruptions[trial]} times in a row")


def _again(
    job: Job,
    sink: Sink,
    state: _State,
    verdict: Verdict,
    ended: Ended,
    on_trial: Callable[[int], None],
) -> bool:
    """Whether a fresh worker goes on behind this one; charges trials that this one lost."""
    if verdict.outcome == "interrupted":
        return ended.killed != "stop"
    if verdict.outcome == "ok" or not isinstance(job.work, AccuracyWork):
        return False
    if state.together:  # nobody knows whose fault it was: each is run again by itself
        state.alone |= set(state.announced) - state.done
        return True
    lost = _lost(job.work, state, verdict)
    if not lost and verdict.outcome == "crash":
        state.load_crashes += 1
        if state.load_crashes < MAX_LOAD_CRASHES:
            return True
    lost = lost or [trial for trial in job.work.trials if trial not in state.done]
    sink.append("records", [_record_row(job, trial, {}, verdict) for trial in lost])
    state.done.update(lost)
    on_trial(len(lost))
    return len(state.done) < job.work.n_trials


def _lost(work: AccuracyWork, state: _State, verdict: Verdict) -> list[Trial]:
    """The trials a worker took with it; none when it ended before it announced one.

    What is unsupported in one trial is so in all of its case, and so is a limit under which
    nothing but the unperturbed model does not run. A process that is not what was asked says
    nothing about any trial.
    """
    if verdict.outcome == "invalid":
        return []
    charged = {trial for trial in state.announced if trial not in state.done}
    if verdict.outcome == "unsupported" or _too_tight(work, verdict):
        cases = {case for case, _, _ in charged}
        charged = {trial for trial in work.trials if trial[0] in cases}
    return [trial for trial in work.trials if trial in charged - state.done]


def _too_tight(work: AccuracyWork, verdict: Verdict) -> bool:
    """Whether every batch would end like this one: a limit was met, and nothing is drawn."""
    limited = all(part.case.conditions and not part.case.perturbed for part in work.parts)
    return limited and verdict.outcome in ("oom", "timeout")


def _record_row(job: Job, trial: Trial, values: Row, verdict: Verdict) -> Row:
    assert isinstance(job.work, AccuracyWork)
    case = job.work.cases[trial[0]]
    return row(
        "records",
        {
            "cell": cell_id(job.model, job.environment.id, case.id),
            "model": job.model,
            "environment": job.environment.id,
            **_names(case),
            "pattern": trial[1],
            "batch": trial[2],
            "outcome": verdict.outcome,
            "message": verdict.message,
            **values,
        },
    )


def _case_columns(job: Job) -> Row:
    """What names the case of a process, and which of its processes this is."""
    work = job.work
    if isinstance(work, LatencyWork):
        timed = {"block": work.block, "position": work.position}
        return {**_names(work.case), **timed, "batch": work.batch, "use": work.use}
    if isinstance(work, SearchWork):
        return {**_names(work.case), "block": work.number, "batch": work.batch}
    if isinstance(work, PrepareWork):
        return _names(work.case)
    if isinstance(work, AccuracyWork) and len(work.cases) == 1:
        return _names(work.parts[0].case)
    return {}


def _names(case: Case) -> Row:
    return {
        "scenario": case.name,
        "severity_name": case.severity_name,
        "severity": case.severity,
    }


def _timed_row(part: str, job: Job, values: Row) -> Row:
    names = {column.name for column in PARTS[part]}
    case = {name: value for name, value in _case_columns(job).items() if name in names}
    place = {"job": job.id, "model": job.model, "environment": job.environment.id}
    return row(part, {**place, **case, **values})


def _process_row(
    job: Job, attempt: int, ended: Ended, verdict: Verdict, differs: str | None, state: _State
) -> Row:
    told = {key: value for key, value in ended.values.items() if key != "actual"}
    return row(
        "processes",
        {
            "job": job.id,
            "kind": job.work.kind,
            "model": job.model,
            "environment": job.environment.id,
            "scenario": "",
            "machine": fingerprint.mark(),
            "conditions": job.constraint or None,
            "mechanism": "; ".join(filter(None, (ended.emulator, ended.mechanism))) or None,
            "attempt": attempt,
            "outcome": verdict.outcome,
            "phase": ended.phase,
            "signal": ended.signal,
            "exit_status": ended.status,
            "message": verdict.message,
            "cpu_s": ended.cpu_s,
            "major_faults": ended.major_faults,
            "reclaim_stall": None if ended.stall is None else ended.stall.reclaiming,
            "wall_s": ended.wall_s,
            "trials": state.records,
            "actual": actual_json(ended),
            "deviation": differs,
            "load_average": os.getloadavg()[0],
            **_case_columns(job),
            **ended.counters,
            **told,
        },
    )
