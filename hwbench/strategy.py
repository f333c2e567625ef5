"""The next round of work from the rows so far. Pure: resume, and any number of workers, are one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from hwbench import search
from hwbench.campaign import Progress
from hwbench.case import Case, cell_id
from hwbench.errors import Unsupported
from hwbench.job import (
    AccuracyWork,
    Assigned,
    BuildWork,
    Job,
    LatencyWork,
    Part,
    Scoring,
    SoakWork,
    Work,
)
from hwbench.plan import Deployment, Plan
from hwbench.population import Population, population
from hwbench.scenario import Condition
from hwbench.seeds import Key
from hwbench.spec.models import SoakSpec
from hwbench.state import Measured, Place, State
from hwbench.stats import early_stopping_count, minimum_count
from hwbench.trials import Trials

# Deployment, index of the case, batch, use: what latency compares.
Arm = tuple[Deployment, int, int, str]
Standing = tuple[Population, Progress]  # a campaign, and where it stands

MOST_TRIALS = 20_000  # of a job: what a worker and its parent hold of it stays small
MOST_CASES = 2_000


@dataclass(frozen=True)
class Round:
    """Jobs that need not see each other's results.

    Attributes:
        jobs: where there may be many, they are made as they are asked for.
        exclusive: one at a time, with nothing else running.
        steps: of progress; ``None`` to count them.
    """

    title: str
    jobs: Iterable[Job]
    exclusive: bool = False
    steps: int | None = None


class Strategy(Protocol):
    """Anything that can say what to do next."""

    def next_round(self, state: State) -> Round | None:
        """The next round, or ``None`` when everything is done."""


@dataclass(frozen=True)
class FixedSweep:
    """Build, baselines, the other clean cells, perturbed cells, latency: each once.

    Attributes:
        plan: what is to be done.
        golden: folder of the unperturbed outputs.
        workers: how many jobs will run at a time (a hint for cutting jobs, not for results).
    """

    plan: Plan
    golden: Path
    workers: int = 1

    def next_round(self, state: State) -> Round | None:
        """The first stage that has work left."""
        for title, jobs in (
            ("building", self._builds(state)),
            ("baseline", self._clean(state, baseline=True)),
            ("clean", self._clean(state, baseline=False)),
        ):
            if jobs:
                return Round(title, tuple(jobs))
        perturbed = _Perturbed(self, state)
        if steps := perturbed.steps:
            return Round("faults and noise", perturbed, steps=steps)
        probes = search.next_jobs(self.plan, state.probes, state.usable)
        if probes:
            return Round("search", tuple(probes), exclusive=True)
        latency = self._latency(state)
        if latency:
            return Round("latency", tuple(latency), exclusive=True)
        soaks = self._soaks(state)
        return Round("soak", tuple(soaks), exclusive=True) if soaks else None

    def _job(self, deployment: Deployment, work: Work) -> Job:
        model, _ = deployment.key
        deadline = self.plan.spec.deadline_s
        return Job(model, deployment.environment, work, deadline, self.plan.code_path)

    def _builds(self, state: State) -> list[Job]:
        """One job per artifact; environments that differ in threads share it."""
        jobs = []
        for each in self.plan.deployments:
            outcome = state.outcomes.get(("build", *each.key))
            if outcome is None or (outcome == "ok" and not each.artifact.exists()):
                subject = each.subject
                work = BuildWork(subject.source, str(each.artifact), str(subject.dataset))
                jobs.append(self._job(each, work))
        return jobs

    def golden_path(self, place: Place) -> Path:
        """File of an environment's unperturbed outputs."""
        return self.golden / f"{Key(place).hex()}.npz"

    def sites_path(self, place: Place) -> Path | None:
        """File of an environment's sites; only campaigns need one."""
        wanted = any(case.campaign for case in self.plan.cases)
        return self.golden / f"{Key(place).hex()}.sites.json" if wanted else None

    def accuracy(self, deployment: Deployment, parts: Iterable[Part]) -> Job:
        """The job of some trials in an environment."""
        spec, subject = self.plan.spec, deployment.subject
        model, _ = deployment.key
        work = AccuracyWork(
            str(deployment.artifact),
            str(subject.dataset),
            subject.batch,
            spec.seed,
            self.scoring(),
            tuple(parts),
            str(self.golden_path(deployment.key)),
            str(self.golden_path((model, self.plan.baseline))),
            spec.replay.memory_mib if spec.replay else 0.0,
        )
        return self._job(deployment, work)

    def scoring(self) -> Scoring:
        """How outputs are judged, by the spec."""
        task = self.plan.spec.task
        own = tuple(self.plan.spec.own_metrics)
        return Scoring(task.output, task.classes, task.tolerance, own)

    def _clean(self, state: State, *, baseline: bool) -> list[Job]:
        """Also where a worker told all its records and was stopped before what really ran."""
        jobs = []
        for each in self.plan.deployments:
            if (each.environment.id == self.plan.baseline) is not baseline:
                continue
            if state.outcomes.get(("build", *each.key)) != "ok":
                continue
            case = self.plan.cases[0]
            left = state.left(cell_id(*each.key, case.id), 1, each.subject.n_batches)
            if left or ("clean", *each.key) not in state.outcomes:
                jobs.append(self._listing_sites(self.accuracy(each, [Part(case, left)]), each))
        return jobs

    def _listing_sites(self, job: Job, deployment: Deployment) -> Job:
        path = self.sites_path(deployment.key)
        assert isinstance(job.work, AccuracyWork)
        return replace(job, work=replace(job.work, sites=str(path))) if path else job

    def campaigns(self, state: State) -> dict[str, Standing]:
        """Where every campaign stands, by cell; what a deployment does not have is left out."""
        found = {}
        for each in self.plan.deployments:
            sites = state.sites.get(each.key)
            for case in self.plan.perturbed(each) if sites else ():
                if case.campaign is not None:
                    cell = cell_id(*each.key, case.id)
                    try:
                        made = population(case, sites or ())
                    except Unsupported:  # the worker meets the same and tells it as the outcome
                        continue
                    subject, tallies = each.subject, state.tallies.get(cell, {})
                    found[cell] = made, made.progress(tallies, subject.n_batches, subject.n_samples)
        return found

    def _latency(self, state: State) -> list[Job]:
        """Blocks in which every arm runs once, in random order; an incomplete one runs again."""
        arms = self._arms(state)
        if not arms or self.plan.spec.latency is None:
            return []
        jobs: list[Job] = []
        for block in range(self.plan.spec.latency.processes):
            made = [self._latency_job(arm, block) for arm in arms]
            if all(_identity(job) in state.measured for job in made):
                continue
            order = Key((str(self.plan.spec.seed), "latency", str(block))).generator()
            for position, index in enumerate(order.permutation(len(arms)).tolist()):
                jobs.append(self._latency_job(arms[index], block, position))
        return jobs

    def _arms(self, state: State) -> list[Arm]:
        latency = self.plan.spec.latency
        if latency is None:
            return []
        return [
            (each, index, batch, use)
            for each in self.plan.deployments
            if state.usable(each.key)
            for index, case in enumerate(self.plan.cases)
            if case.latency and not self.plan.refusal(each, case)
            for batch in ([each.subject.fixed_batch] if each.subject.fixed_batch else latency.batch)
            for use in latency.use
        ]

    def _latency_job(self, arm: Arm, block: int, position: int = 0) -> Job:
        latency = self.plan.spec.latency
        assert latency is not None
        deployment, case, batch, use = arm
        server = latency.server if use == "server" else None
        work = LatencyWork(
            str(deployment.artifact),
            str(deployment.subject.dataset),
            batch,
            self.plan.cases[case],
            latency.min_duration_s,
            max(latency.min_count, _calls(latency.percentile), _JUDGED.get(use, 0)),
            latency.warmup_s,
            block,
            position,
            use,
            server.p99_ms if server else None,
            server.rate if server else None,
            self.plan.spec.seed,
            self.scoring(),
            str(self.golden_path(deployment.key)),
        )
        return self._job(deployment, work)

    def _soaks(self, state: State) -> list[Job]:
        """Every timed case once, alone, as long as was asked."""
        soak = self.plan.spec.soak
        if soak is None:
            return []
        return [
            self._job(each, _soak_work(each, case, soak))
            for each in self.plan.deployments
            if state.usable(each.key)
            for case in self.plan.cases
            if case.latency and not self.plan.refusal(each, case)
            if (*each.key, case.id) not in state.soaked
        ]


def _soak_work(deployment: Deployment, case: Case, soak: SoakSpec) -> SoakWork:
    subject = deployment.subject
    return SoakWork(
        artifact=str(deployment.artifact),
        dataset=str(subject.dataset),
        batch=subject.fixed_batch or soak.batch,
        case=case,
        min_duration_s=soak.duration_s,
        min_count=1,
        warmup_s=soak.warmup_s,
        block=0,
        position=0,
        window_s=soak.window_s,
    )


@dataclass(frozen=True)
class _Perturbed:
    """The jobs of all perturbed cells, made one by one.

    A job per environment and condition stack, cut where that would leave workers idle or be too
    large. Each has its share of every case, so that a worker starts up once for all.
    """

    sweep: FixedSweep
    state: State
    campaigns: Mapping[str, Standing] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "campaigns", self.sweep.campaigns(self.state))

    @property
    def steps(self) -> int:
        """Trials that are left."""
        return sum(self._steps(each) for each in self._open())

    def _steps(self, deployment: Deployment) -> int:
        """Of millions of cells most have not begun: nothing is made of these but a sum."""
        n_batches, done = deployment.subject.n_batches, self.state.done
        place, total = deployment.key, 0
        for case in self.sweep.plan.perturbed(deployment):
            cell = cell_id(*place, case.id)
            if cell in done:
                total += len(self._left(deployment, case))
            else:
                total += self._n_patterns(cell, case) * n_batches
        return total

    def __iter__(self) -> Iterator[Job]:
        open_ = self._open()
        for each in open_:
            least = -(-2 * self.sweep.workers // len(open_))
            for group in self._groups(each):
                wanted = max(least, -(-sum(len(left) for _, left in group) // MOST_TRIALS))
                pieces = min(wanted, max(left.n_patterns for _, left in group))
                for piece in range(pieces):
                    parts = self._parts(each, group, piece, pieces)
                    if parts:
                        yield self.sweep.accuracy(each, parts)

    def _open(self) -> list[Deployment]:
        return [each for each in self.sweep.plan.deployments if self.state.usable(each.key)]

    def _n_patterns(self, cell: str, case: Case) -> int:
        return len(self.campaigns[cell][1].faults) if cell in self.campaigns else case.patterns

    def _left(self, deployment: Deployment, case: Case) -> Trials:
        """What is not finished of a case."""
        cell = cell_id(*deployment.key, case.id)
        return self.state.left(cell, self._n_patterns(cell, case), deployment.subject.n_batches)

    def _groups(self, deployment: Deployment) -> Iterator[list[tuple[Case, Trials]]]:
        """Unfinished cases under the same conditions, those of one process, some at a time."""
        cases = self.sweep.plan.perturbed(deployment)
        for some in _by_conditions(cases):
            for start in range(0, len(some), MOST_CASES):
                these = ((case, self._left(deployment, case)) for case in some[start:][:MOST_CASES])
                group = [(case, left) for case, left in these if left]
                if group:
                    yield group

    def _parts(
        self, deployment: Deployment, group: list[tuple[Case, Trials]], piece: int, pieces: int
    ) -> list[Part]:
        parts = []
        for case, left in group:
            share = left.share(piece, pieces)
            if not share:
                continue
            chosen: Mapping[int, Assigned] = {}
            standing = self.campaigns.get(cell_id(*deployment.key, case.id))
            if standing:
                population, progress = standing
                patterns = (n for low, high in share.patterns for n in range(low, high))
                chosen = population.assigned(progress, patterns)
            parts.append(Part(case, share, chosen))
        return parts


def _by_conditions(cases: Iterable[Case]) -> list[list[Case]]:
    groups: dict[tuple[Condition, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(case.conditions, []).append(case)
    return list(groups.values())


# What LoadGen needs to judge: the 90th percentile of a stream, the 99th of several, each with one
# call over it; of a server with two, because one stall is no verdict.
_JUDGED = {
    "loadgen-singlestream": early_stopping_count(0.90, 1),
    "multistream": early_stopping_count(0.99, 1),
    "server": early_stopping_count(0.99, 2),
}


def _calls(percentile: str | None) -> int:
    """What a percentile such as ``p99.9`` needs of each process."""
    return 0 if percentile is None else minimum_count(float(percentile[1:]) / 100)


def _identity(job: Job) -> Measured:
    work = job.work
    assert isinstance(work, LatencyWork)
    return (job.model, job.environment.id, work.case.id, work.batch, work.use, work.block)
