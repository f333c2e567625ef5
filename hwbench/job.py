"""A job: the work of one worker process, as plain JSON with a content hash."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from hwbench.backend import Environment, ModelSource, environment_from, source_from
from hwbench.case import Case, Goal, layer_from
from hwbench.scenario import Condition
from hwbench.seeds import canonical
from hwbench.trials import Trials


@dataclass(frozen=True)
class Scoring:
    """What decides about a sample; see ``spec.TaskSpec``."""

    output: str | None
    classes: bool
    tolerance: float
    custom: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildWork:
    """Make the artifact of a model in an environment."""

    source: ModelSource
    artifact: str
    dataset: str
    kind: Literal["build"] = "build"


@dataclass(frozen=True)
class PrepareWork:
    """Compute one pattern of a prepared perturbation over the whole dataset.

    Attributes:
        source: the model.
        artifact: of the job's environment, where the perturbation is guided by its session; else
            empty.
        dataset: folder of the prepared dataset.
        batch: samples per inference.
        seed: of the spec.
        case: the case whose layer is prepared.
        layer: its index.
        pattern: number of the draw.
        output: name of the scored output.
        folder: where the perturbed inputs go.
    """

    source: ModelSource
    artifact: str
    dataset: str
    batch: int
    seed: int
    case: Case
    layer: int
    pattern: int
    output: str | None
    folder: str
    kind: Literal["prepare"] = "prepare"


Trial = tuple[str, int, int]  # case id, pattern, batch


@dataclass(frozen=True)
class Assigned:
    """The fault that a campaign chose for a pattern.

    Attributes:
        sites: of the stratum.
        field: bit field of the stratum.
        n: which of a random order of the stratum's faults.
    """

    sites: tuple[str, ...]
    field: str
    n: int


@dataclass(frozen=True)
class Part:
    """Trials of one case.

    Attributes:
        assigned: by pattern, what a campaign chose; empty where patterns are drawn freely.
        alone: trials that are run the naive way, one by one: a run of several ended its process.
    """

    case: Case
    trials: Trials
    assigned: Mapping[int, Assigned] = field(default_factory=dict)
    alone: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class AccuracyWork:
    """Run patterns over batches and score them. The clean case writes golden, others read it.

    Attributes:
        artifact: folder of the artifact.
        dataset: folder of the prepared dataset.
        parts: what to do, case by case.
        golden: file of the unperturbed outputs.
        reference: the baseline environment's golden, or empty.
        replay_mib: bound on golden tensors that are kept to replay faults from; 0: naive runs only.
        sites: file for the tensors that can be hit, which campaigns share out; empty: not wanted.
        faults: patterns below this number have their edits written out, and those of one edit.
    """

    artifact: str
    dataset: str
    batch: int
    seed: int
    scoring: Scoring
    parts: tuple[Part, ...]
    golden: str
    reference: str
    replay_mib: float = 0.0
    sites: str = ""
    faults: int = 100
    kind: Literal["accuracy"] = "accuracy"

    @property
    def trials(self) -> list[Trial]:
        """Every trial, in order."""
        return [(part.case.id, *trial) for part in self.parts for trial in part.trials]

    @property
    def n_trials(self) -> int:
        """How many trials there are."""
        return sum(len(part.trials) for part in self.parts)

    @cached_property
    def cases(self) -> dict[str, Case]:
        """The cases by their ids."""
        return {part.case.id: part.case for part in self.parts}


@dataclass(frozen=True)
class LatencyWork:
    """Measure single calls in a fresh process.

    Attributes:
        batch: samples per inference.
        use: how calls arrive; see ``hwbench.spec.models.USES``.
        p99_ms: server: bound on the 99th percentile.
        rate: server: arrivals per second; ``None`` searches the highest that keeps the bound.
        seed: of the spec: faults and noise are those of the accuracy run.
        scoring: what decides whether a sampled call answers like the accuracy run.
        golden: file of the unperturbed outputs of the accuracy run.
    """

    artifact: str
    dataset: str
    batch: int
    case: Case
    min_duration_s: float
    min_count: int
    warmup_s: float
    block: int
    position: int
    use: str = "singlestream"
    p99_ms: float | None = None
    rate: float | None = None
    seed: int = 0
    scoring: Scoring = Scoring(None, False, 0.05)
    golden: str = ""
    kind: Literal["latency", "soak"] = "latency"

    @property
    def pattern(self) -> int:
        """Every block draws another: the process is the sampling unit, and so its own chip."""
        return self.block % self.case.patterns


@dataclass(frozen=True)
class SoakWork(LatencyWork):
    """Measure for ``min_duration_s`` in windows, to see latency drift; block and position are 0."""

    kind: Literal["latency", "soak"] = "soak"
    window_s: float = 1.0


@dataclass(frozen=True)
class SearchWork:
    """One probe of a search: does the model load and run under this condition, and how fast?

    Attributes:
        number: which probe of the search this is.
        import_only: stop behind the import of the runtime: its own floor.
    """

    artifact: str
    dataset: str
    batch: int
    case: Case
    min_duration_s: float
    min_count: int
    warmup_s: float
    number: int
    import_only: bool = False
    kind: Literal["search"] = "search"


@dataclass(frozen=True)
class ScreenWork:
    """Repeat inferences on one core and tell the digests of their outputs.

    Attributes:
        artifact: folder of the artifact.
        dataset: folder of the prepared dataset.
        core: the process is pinned to it; ``None`` on a GPU.
        duration_s: for so long, and at least once over all variants.
        variants: batches of the dataset; as many are made of them.
        plant: number of the call whose output gets a flipped bit; -1 for none.
    """

    artifact: str
    dataset: str
    batch: int
    core: int | None
    duration_s: float
    variants: int
    seed: int
    plant: int = -1
    kind: Literal["screen"] = "screen"


@dataclass(frozen=True)
class SpreadWork:
    """Show how far the error of one trial spreads through the model.

    Attributes:
        artifact: folder of the artifact.
        dataset: folder of the prepared dataset.
        faults: the trial's edits as rows of ``faults``; ``None`` to draw those of stored tensors.
    """

    artifact: str
    dataset: str
    batch: int
    seed: int
    case: Case
    pattern: int
    index: int
    faults: tuple[dict[str, Any], ...] | None = None
    kind: Literal["spread"] = "spread"


Work = BuildWork | PrepareWork | AccuracyWork | LatencyWork | SearchWork | SpreadWork | ScreenWork


@dataclass(frozen=True)
class Job:
    """One worker's work. ``code_path`` is put on ``sys.path`` (only under --allow-code)."""

    model: str
    environment: Environment
    work: Work
    deadline_s: float
    code_path: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def constrained(self) -> Case | None:
        """A case whose conditions the whole process is under; its parts share them."""
        if isinstance(self.work, LatencyWork | SearchWork | SpreadWork):
            return self.work.case
        if isinstance(self.work, AccuracyWork) and self.work.parts:
            return self.work.parts[0].case
        return None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What constrains the process."""
        return self.constrained.conditions if self.constrained else ()

    @property
    def constraint(self) -> str:
        """The conditions in words; empty without."""
        return self.constrained.constraint if self.constrained else ""

    @property
    def id(self) -> str:
        """Content hash."""
        return hashlib.sha256(canonical(self.to_json()).encode()).hexdigest()[:16]

    def without(self, done: Iterable[Trial]) -> Job:
        """The same job with trials left out."""
        if not isinstance(self.work, AccuracyWork):
            return self
        gone = defaultdict[str, list[tuple[int, int]]](list)
        for case, pattern, batch in done:
            gone[case].append((pattern, batch))
        parts = []
        for part in self.work.parts:
            left = part.trials - Trials.of(gone[part.case.id], part.trials.n_batches)
            if left or not part.case.layers:  # clean says what really ran, records or not
                parts.append(replace(part, trials=left))
        return replace(self, work=replace(self.work, parts=tuple(parts)))

    def alone(self, trials: set[Trial]) -> Job:
        """The same job with some trials to be run one by one."""
        if not isinstance(self.work, AccuracyWork) or not trials:
            return self
        parts = tuple(
            replace(part, alone=frozenset((p, b) for case, p, b in trials if case == part.case.id))
            for part in self.work.parts
        )
        return replace(self, work=replace(self.work, parts=parts))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, read back by ``job_from``."""
        content = asdict(self)
        content["environment"]["options"] = dict(self.environment.options)
        if isinstance(self.work, AccuracyWork):
            content["work"]["parts"] = [_part_to_json(part) for part in self.work.parts]
        if isinstance(self.work, LatencyWork | PrepareWork | SearchWork | SpreadWork):
            content["work"]["case"] = case_to_json(self.work.case)
        return content


def _part_to_json(part: Part) -> dict[str, Any]:
    """Patterns of one stratum follow one another by hundreds: its sites are told once."""
    strata = list(dict.fromkeys((each.sites, each.field) for each in part.assigned.values()))
    return {
        "case": case_to_json(part.case),
        "trials": asdict(part.trials),
        "alone": sorted(part.alone),
        "strata": strata,
        "assigned": [
            [pattern, strata.index((each.sites, each.field)), each.n]
            for pattern, each in part.assigned.items()
        ],
    }


def _part_from(content: Mapping[str, Any]) -> Part:
    strata: list[tuple[tuple[str, ...], str]] = [
        (tuple(sites), field) for sites, field in content["strata"]
    ]
    return Part(
        case_from(content["case"]),
        Trials(content["trials"]["n_batches"], tuple(map(_pair, content["trials"]["runs"]))),
        {pattern: Assigned(strata[i][0], strata[i][1], n) for pattern, i, n in content["assigned"]},
        frozenset(map(_pair, content["alone"])),
    )


def _pair(content: Sequence[int]) -> tuple[int, int]:
    first, second = content
    return first, second


def case_to_json(case: Case) -> dict[str, Any]:
    """Plain JSON of a case, read back by ``case_from``."""
    return {
        "name": case.name,
        "layers": [layer.to_json() for layer in case.layers],
        "severity_name": case.severity_name,
        "severity": case.severity,
        "patterns": case.patterns,
        "latency": case.latency,
        "campaign": case.campaign and asdict(case.campaign),
    }


def case_from(content: Mapping[str, Any]) -> Case:
    """A case from its JSON form."""
    layers = tuple(layer_from(each) for each in content["layers"])
    goal = content["campaign"] and Goal(**content["campaign"])
    return Case(**{**content, "layers": layers, "campaign": goal})


def job_from(content: Mapping[str, Any]) -> Job:
    """A job from its JSON form."""
    return Job(
        content["model"],
        environment_from(content["environment"]),
        _work_from(dict(content["work"])),
        content["deadline_s"],
        tuple(content["code_path"]),
        content["variables"],
    )


def _scoring_from(content: Mapping[str, Any]) -> Scoring:
    return Scoring(**{**content, "custom": tuple(content["custom"])})


def _work_from(content: dict[str, Any]) -> Work:
    if content["kind"] == "build":
        return BuildWork(**{**content, "source": source_from(content["source"])})
    if content["kind"] == "prepare":
        source, case = source_from(content["source"]), case_from(content["case"])
        return PrepareWork(**{**content, "source": source, "case": case})
    if content["kind"] == "screen":
        return ScreenWork(**content)
    if content["kind"] in ("latency", "soak"):
        kind = SoakWork if content["kind"] == "soak" else LatencyWork
        scoring = _scoring_from(content["scoring"])
        return kind(**{**content, "case": case_from(content["case"]), "scoring": scoring})
    if content["kind"] == "search":
        return SearchWork(**{**content, "case": case_from(content["case"])})
    if content["kind"] == "spread":
        faults = content["faults"] if content["faults"] is None else tuple(content["faults"])
        return SpreadWork(**{**content, "case": case_from(content["case"]), "faults": faults})
    parts = tuple(_part_from(each) for each in content["parts"])
    return AccuracyWork(**{**content, "scoring": _scoring_from(content["scoring"]), "parts": parts})
