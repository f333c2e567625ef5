"""The next round of work from the rows so far. Pure: resume, and any number of workers, are one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from hwbench import search
from hwbench.backend import Site
from hwbench.campaign import Progress
from hwbench.case import Case
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
from hwbench.population import Population, Tally, population
from hwbench.scenario import Condition
from hwbench.seeds import Key
from hwbench.spec.models import SoakSpec
from hwbench.stats import early_stopping_count, minimum_count

Place = tuple[str, str]  # model name, environment id
# Deployment, index of the case, batch, use: what latency compares.
Arm = tuple[Deployment, int, int, str]
Measured = tuple[str, str, str, int, str, int]


@dataclass(frozen=True)
class State:
    """What the stored rows say.

    Attributes:
        outcomes: of finished build and clean processes, by (kind, model, environment).
        done: (pattern, batch) pairs that have a record, by cell.
        measured: finished latency jobs as (model, environment, case id, batch, use, block).
        sites: tensors that can be hit, by place; told where a campaign wants them.
        tallies: what each pattern of a campaign did, by cell.
        soaked: finished soaks as (model, environment, case id).
        probes: of searches, by model, environment and case name.
    """

    outcomes: dict[tuple[str, str, str], str] = field(default_factory=dict)
    done: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    measured: set[Measured] = field(default_factory=set)
    sites: dict[Place, tuple[Site, ...]] = field(default_factory=dict)
    tallies: dict[str, dict[int, Tally]] = field(default_factory=dict)
    soaked: set[tuple[str, str, str]] = field(default_factory=set)
    probes: Mapping[search.Place, Sequence[search.Probe]] = field(default_factory=dict)

    def usable(self, place: Place) -> bool:
        """Whether an environment built and does what was asked."""
        return self.outcomes.get(("build", *place)) == "ok" and self.outcomes.get(
            ("clean", *place)
        ) in ("ok", None)


@dataclass(frozen=True)
class Round:
    """Jobs that need not see each other's results."""

    title: str
    jobs: tuple[Job, ...]
    exclusive: bool = False


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
            ("faults and noise", self._perturbed(state)),
        ):
            if jobs:
                return Round(title, tuple(jobs))
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

    def _accuracy(self, deployment: Deployment, parts: Iterable[Part]) -> Job:
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
            trials = tuple((0, index) for index in range(each.subject.n_batches))
            done = state.done.get(f"{'/'.join(each.key)}/{case.id}", set())
            left = tuple(trial for trial in trials if trial not in done)
            if left or ("clean", *each.key) not in state.outcomes:
                jobs.append(self._listing_sites(self._accuracy(each, [Part(case, left)]), each))
        return jobs

    def _listing_sites(self, job: Job, deployment: Deployment) -> Job:
        path = self.sites_path(deployment.key)
        assert isinstance(job.work, AccuracyWork)
        return replace(job, work=replace(job.work, sites=str(path))) if path else job

    def campaigns(self, state: State) -> dict[str, tuple[Population, Progress]]:
        """Where every campaign stands, by cell; what a deployment does not have is left out."""
        found = {}
        for each in self.plan.deployments:
            sites = state.sites.get(each.key)
            for case in self.plan.perturbed if sites else ():
                if case.campaign is not None and not self.plan.refusal(each, case):
                    cell = f"{'/'.join(each.key)}/{case.id}"
                    try:
                        made = population(case, sites or ())
                    except Unsupported:  # the worker meets the same and tells it as the outcome
                        continue
                    subject, tallies = each.subject, state.tallies.get(cell, {})
                    found[cell] = made, made.progress(tallies, subject.n_batches, subject.n_samples)
        return found

    def _perturbed(self, state: State) -> list[Job]:
        """A job per environment and condition stack, cut where that would leave workers idle."""
        open_ = [each for each in self.plan.deployments if state.usable(each.key)]
        pieces = max(1, -(-2 * self.workers // len(open_))) if open_ else 1
        jobs = []
        for each in open_:
            for parts in _by_conditions(self._parts_left(each, state)):
                for piece in range(min(pieces, _n_patterns(parts))):
                    jobs.append(self._accuracy(each, _share(parts, piece, pieces)))
        return [job for job in jobs if job.work.kind == "accuracy" and job.work.parts]

    def _parts_left(self, deployment: Deployment, state: State) -> list[Part]:
        parts, campaigns = [], self.campaigns(state)
        for case in self.plan.perturbed:
            if self.plan.refusal(deployment, case):
                continue
            cell = f"{'/'.join(deployment.key)}/{case.id}"
            done, assigned = state.done.get(cell, set()), dict[int, Assigned]()
            patterns = range(case.patterns)
            if cell in campaigns:
                population, progress = campaigns[cell]
                assigned = population.assigned(progress)
                patterns = range(len(assigned))
            batches = range(deployment.subject.n_batches)
            trials = [(p, b) for p in patterns for b in batches]
            left = tuple(trial for trial in trials if trial not in done)
            if left:
                chosen = {p: assigned[p] for p, _ in left if p in assigned}
                parts.append(Part(case, left, chosen))
        return parts

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


def _by_conditions(parts: list[Part]) -> list[list[Part]]:
    """Parts whose cases are under the same conditions: those of one process."""
    groups: dict[tuple[Condition, ...], list[Part]] = {}
    for part in parts:
        groups.setdefault(part.case.conditions, []).append(part)
    return list(groups.values())


def _n_patterns(parts: list[Part]) -> int:
    return max((len({pattern for pattern, _ in part.trials}) for part in parts), default=0)


def _share(parts: list[Part], piece: int, pieces: int) -> list[Part]:
    """Every ``pieces``-th pattern: all cases stay in one worker, which starts up once."""
    cut = []
    for part in parts:
        trials = tuple(t for t in part.trials if t[0] % pieces == piece)
        chosen = {p: part.assigned[p] for p, _ in trials if p in part.assigned}
        cut.append(replace(part, trials=trials, assigned=chosen))
    return [part for part in cut if part.trials]


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
