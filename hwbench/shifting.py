"""Clean runs on other data: rounds behind the sweep's own, since nothing is compared pairwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hwbench.case import Case, cell_id
from hwbench.job import AccuracyWork, Job, Part
from hwbench.plan import Deployment, Plan
from hwbench.seeds import Key
from hwbench.state import State
from hwbench.strategy import FixedSweep, Round


def golden_path(golden: Path, model: str, environment: str, case: str) -> Path:
    """File of an environment's outputs on a case's data."""
    return golden / f"{Key((model, environment, case)).hex()}.npz"


def next_round(plan: Plan, state: State, golden: Path) -> Round | None:
    """What is left: the baseline first, whose outputs the others are compared with."""
    for first in (True, False):
        jobs = [
            job
            for each in plan.deployments
            if (each.environment.id == plan.baseline) is first and state.usable(each.key)
            for job in _jobs(plan, each, state, golden)
        ]
        if jobs:
            return Round("other data", tuple(jobs))
    return None


def _jobs(plan: Plan, deployment: Deployment, state: State, golden: Path) -> Iterator[Job]:
    spec, name = plan.spec, deployment.subject.source.name
    scoring = FixedSweep(plan, golden).scoring()
    for case in plan.cases:
        if case.replacement is None:
            continue
        subject = plan.shifted[name, case.id]
        left = state.left(cell_id(*deployment.key, case.id), 1, subject.n_batches)
        if not left:
            continue
        work = AccuracyWork(
            artifact=str(deployment.artifact),
            dataset=str(subject.dataset),
            batch=subject.batch,
            seed=spec.seed,
            scoring=scoring,
            parts=(Part(_plain(case), left),),
            golden=str(golden_path(golden, *deployment.key, case.id)),
            reference=str(golden_path(golden, name, plan.baseline, case.id)),
        )
        yield Job(name, deployment.environment, work, spec.deadline_s, plan.code_path)


def _plain(case: Case) -> Case:
    """Without layers it is what a worker takes for a clean run, under this case's name."""
    return replace(case, layers=())
