"""Which perturbations are still to be prepared, and why others cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hwbench.backend import Environment
from hwbench.case import Case, Layer
from hwbench.job import AccuracyWork, Job, LatencyWork, PrepareWork
from hwbench.plan import Deployment, Plan, Subject
from hwbench.prepared import folder_of, located
from hwbench.record import Row
from hwbench.scenario import PreparedPerturbation

Refusals = Mapping[tuple[str, str], str]  # by model and case id: why nothing was prepared

# Where a perturbation needs no session: torch is what gives gradients.
_GRADIENTS = Environment("torch")


@dataclass(frozen=True)
class Preparing:
    """Prepared perturbations of a plan.

    Attributes:
        plan: what is to be done.
        root: folder of everything that was prepared.
    """

    plan: Plan
    root: Path

    def jobs(self, processes: Iterable[Row]) -> list[Job]:
        """A job per pattern that is neither there nor known to fail."""
        tried = {each["job"] for each in processes if _ended(each)}
        made = [job for job in self._all() if not Path(_work(job).folder).exists()]
        return [job for job in made if job.id not in tried]

    def refusals(self, processes: Iterable[Row]) -> dict[tuple[str, str], str]:
        """Why a case cannot be had for a model: what its preparing process said."""
        failed = {
            each["job"]: f"not prepared ({each['outcome']}): {each['message']}"
            for each in processes
            if _ended(each) and each["outcome"] != "ok"
        }
        found = {(job.model, _work(job).case.id): failed.get(job.id, "") for job in self._all()}
        return {key: reason for key, reason in found.items() if reason} | self._unguided()

    def locate(self, job: Job) -> Job:
        """The job with its cases knowing where their prepared inputs lie."""
        work, seed = job.work, self.plan.spec.seed
        if isinstance(work, AccuracyWork):
            parts = tuple(
                replace(part, case=located(part.case, self.root, job.model, seed))
                for part in work.parts
            )
            return replace(job, work=replace(work, parts=parts))
        if isinstance(work, LatencyWork):
            case = located(work.case, self.root, job.model, seed)
            return replace(job, work=replace(work, case=case))
        return job

    def _layers(self) -> Iterator[tuple[Subject, Case, int, Layer]]:
        subjects = {each.subject.source.name: each.subject for each in self.plan.deployments}
        for subject in subjects.values():
            for case in self.plan.cases:
                for index, layer in enumerate(case.layers):
                    if isinstance(layer.scenario, PreparedPerturbation):
                        yield subject, case, index, layer

    def _guide(self, subject: Subject, layer: Layer) -> Deployment | None:
        assert isinstance(layer.scenario, PreparedPerturbation)
        name = layer.scenario.guide
        wanted = (subject.source.name, name)
        return next((each for each in self.plan.deployments if each.key == wanted), None)

    def _unguided(self) -> dict[tuple[str, str], str]:
        """Cases whose guide is no environment of the plan."""
        return {
            (subject.source.name, case.id): f"the spec has no environment {layer.scenario.guide!r}"
            for subject, case, _, layer in self._layers()
            if isinstance(layer.scenario, PreparedPerturbation)
            and layer.scenario.guide
            and self._guide(subject, layer) is None
        }

    def _all(self) -> Iterator[Job]:
        for subject, case, index, layer in self._layers():
            assert isinstance(layer.scenario, PreparedPerturbation)
            guide = self._guide(subject, layer)
            if layer.scenario.guide and guide is None:
                continue
            if all(
                self.plan.refusal(d, case) for d in self.plan.deployments if d.subject is subject
            ):
                continue
            for pattern in range(case.patterns):
                yield self._job(subject, case, index, layer, pattern, guide)

    def _job(
        self,
        subject: Subject,
        case: Case,
        index: int,
        layer: Layer,
        pattern: int,
        guide: Deployment | None,
    ) -> Job:
        spec, name = self.plan.spec, subject.source.name
        folder = folder_of(self.root, name, layer, index, spec.seed) / str(pattern)
        work = PrepareWork(
            subject.source,
            str(guide.artifact) if guide else "",
            str(subject.dataset),
            subject.batch,
            spec.seed,
            case,
            index,
            pattern,
            spec.task.output,
            str(folder),
        )
        environment = guide.environment if guide else _GRADIENTS
        return Job(name, environment, work, spec.deadline_s, self.plan.code_path)


def _ended(process: Row) -> bool:
    return bool(process["kind"] == "prepare" and process["outcome"] != "interrupted")


def _work(job: Job) -> PrepareWork:
    assert isinstance(job.work, PrepareWork)
    return job.work
