"""One stored record again, the naive way in a fresh worker, and how its error spreads."""

from __future__ import annotations

import difflib
import math
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwbench import engine, state
from hwbench.case import Case, cell_id
from hwbench.engine import Options
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.execute.classify import classify
from hwbench.execute.launch import run_worker
from hwbench.execute.supervise import supervise
from hwbench.job import AccuracyWork, BuildWork, Job, Part, SpreadWork, Work
from hwbench.plan import Deployment, Plan
from hwbench.record import Row
from hwbench.store import Store
from hwbench.strategy import FixedSweep
from hwbench.trials import Trials

# What a rerun must repeat to the bit; the method may differ, for a rerun is always naive.
REPEATED = (
    "seed_key",
    "edits_hash",
    "n_edits",
    "achieved",
    "n_samples",
    "n_masked",
    "n_benign",
    "n_sdc",
    "n_due",
    "outcomes",
    "correct",
    "partials",
    "outcome",
)


@dataclass(frozen=True)
class RecordId:
    """Which record: ``CELL#PATTERN[:BATCH]``, the first batch where none is named."""

    cell: str
    pattern: int
    batch: int | None = None

    @classmethod
    def parse(cls, text: str) -> RecordId:
        """From its text.

        Raises:
            RequestError: it is not of that form.
        """
        cell, mark, numbers = text.rpartition("#")
        pattern, _, batch = numbers.partition(":")
        if not mark or not pattern.isdecimal() or not (batch or "0").isdecimal():
            hint = "write CELL#PATTERN or CELL#PATTERN:BATCH, such as 'm/e/bitflip@rate=1e-05#0:2'."
            raise RequestError("is no name of a record.", where=text, hint=hint)
        return cls(cell, int(pattern), int(batch) if batch else None)

    def __str__(self) -> str:
        """The text that ``parse`` reads."""
        return f"{self.cell}#{self.pattern}" + ("" if self.batch is None else f":{self.batch}")


@dataclass(frozen=True)
class Rerun:
    """What came of running a record again.

    Attributes:
        record: as stored.
        made: the same row as it came out now; empty where the worker gave none.
        faults: rows of ``faults`` of this pattern.
        spread: ``hwbench.replay.spread.Reach`` per activation, as plain values.
        gap: why there is no spread; empty where there is.
    """

    record: Row
    made: Row
    faults: Sequence[Row]
    spread: Sequence[Mapping[str, Any]]
    gap: str

    @property
    def differs(self) -> tuple[str, ...]:
        """Columns that were not repeated to the bit."""
        return tuple(
            name for name in REPEATED if not same(self.record.get(name), self.made.get(name))
        )

    @property
    def reproduced(self) -> bool:
        """Whether every reproducible column is the same."""
        return bool(self.made) and not self.differs


def same(a: Any, b: Any) -> bool:
    """Whether two column values are equal to the bit; NaN equals NaN."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


@dataclass
class _Rows:
    """A sink that keeps rows in memory."""

    parts: defaultdict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    def append(self, part: str, rows: list[Row]) -> None:
        """Take rows of a part."""
        self.parts[part] += rows


def rerun(folder: Path, wanted: RecordId, options: Options, stop: Stop) -> Rerun:
    """Run a record again and compare.

    Args:
        folder: of the run; nothing in it is changed.
        wanted: which record.
        options: whether code may run, and where artifacts are kept.
        stop: ends the workers early.

    Raises:
        RequestError: no such run or record, its model or data have changed, or the artifact
            cannot be built again.
    """
    store = Store.open(folder)
    record = find(store, wanted)
    _, made = engine.reopened(folder, options)
    deployment, case = _planned(made, record)
    with tempfile.TemporaryDirectory() as scratch:
        golden = Path(scratch) / "golden"
        _copy_golden(folder / "golden", golden)
        _build(made, deployment, stop)
        rows = _Rows()
        work = _accuracy(made, deployment, _part(store, made, deployment, case, record), golden)
        supervise(_job(made, deployment, work), rows, stop, lambda steps: None)
    found = _matching(rows.parts["records"], record)
    faults = rows.parts["faults"]
    spread, gap = _spread(made, deployment, case, record, faults, stop)
    return Rerun(record, found, faults, spread, gap)


def find(store: Store, wanted: RecordId) -> Row:
    """The stored record.

    Raises:
        RequestError: there is none; names those that come near.
    """
    places = store.read("records", ["cell", "pattern", "batch"]).to_pylist()
    inside = [each for each in places if each["cell"] == wanted.cell]
    if not inside:
        cells = sorted({each["cell"] for each in places})
        near = difflib.get_close_matches(wanted.cell, cells, n=3, cutoff=0.3) or cells[:3]
        hint = f"near it: {', '.join(near) or 'none, the run has no records'}."
        raise RequestError("no such cell.", where=str(wanted), hint=hint)
    batch = min(each["batch"] for each in inside) if wanted.batch is None else wanted.batch
    key = {"cell": wanted.cell, "pattern": wanted.pattern, "batch": batch}
    if key not in inside:
        hint = f"this cell has {_ranges(inside)}."
        raise RequestError("no such record.", where=str(wanted), hint=hint)
    return _matching(store.read("records").to_pylist(), key)


def _ranges(places: Sequence[Row]) -> str:
    parts = []
    for name, plural in (("pattern", "patterns"), ("batch", "batches")):
        found = {each[name] for each in places}
        parts.append(f"{plural} {min(found)} to {max(found)}")
    return " and ".join(parts)


def _matching(rows: Sequence[Row], key: Mapping[str, Any]) -> Row:
    """The row of a trial; empty where there is none."""
    place = tuple(key[name] for name in ("cell", "pattern", "batch"))
    for each in rows:
        if (each["cell"], each["pattern"], each["batch"]) == place:
            return each
    return {}


def _planned(made: Plan, record: Row) -> tuple[Deployment, Case]:
    for each in made.deployments:
        for case in made.cases:
            if cell_id(*each.key, case.id) == record["cell"]:
                return each, case
    hint = "was it made by another version of hwbench?"
    raise RequestError("is no cell of the run's spec.", where=record["cell"], hint=hint)


def _copy_golden(source: Path, target: Path) -> None:
    """Workers of a clean cell write golden: they get a copy to check theirs against."""
    try:
        shutil.copytree(source, target)
    except OSError as error:
        hint = "the record cannot be judged without the run's unperturbed outputs."
        raise RequestError(f"cannot be read ({error}).", where=str(source), hint=hint) from error


def _job(made: Plan, deployment: Deployment, work: Work) -> Job:
    model, _ = deployment.key
    return Job(model, deployment.environment, work, made.spec.deadline_s, made.code_path)


def _build(made: Plan, deployment: Deployment, stop: Stop) -> None:
    """The artifact, where the cache no longer has it."""
    if deployment.artifact.exists():
        return
    subject, rows = deployment.subject, _Rows()
    work = BuildWork(subject.source, str(deployment.artifact), str(subject.dataset))
    outcome = supervise(_job(made, deployment, work), rows, stop, lambda steps: None)
    if outcome != "ok":
        what = f"cannot be built again ({rows.parts['processes'][-1]['message'] or outcome})."
        raise RequestError(what, where="/".join(deployment.key))


def _part(store: Store, made: Plan, deployment: Deployment, case: Case, record: Row) -> Part:
    """The trial, with the fault that a campaign chose for its pattern."""
    pattern = record["pattern"]
    subject = made.shifted.get((record["model"], case.id), deployment.subject)
    trials = Trials.of([(pattern, record["batch"])], subject.n_batches)
    if case.campaign is None:
        return Part(case, trials)
    strategy = FixedSweep(made, store.folder.resolve() / "golden")
    campaigns = strategy.campaigns(state.read(store, made, strategy.sites_path))
    population, progress = campaigns[record["cell"]]
    return Part(case, trials, population.assigned(progress, [pattern]))


def _accuracy(made: Plan, deployment: Deployment, part: Part, golden: Path) -> AccuracyWork:
    (pattern, _), *_ = part.trials
    spec, subject = made.spec, deployment.subject
    model, _ = deployment.key
    paths = FixedSweep(made, golden)
    return AccuracyWork(
        str(deployment.artifact),
        str(subject.dataset),
        subject.batch,
        spec.seed,
        paths.scoring(),
        (part,),
        str(paths.golden_path(deployment.key)),
        str(paths.golden_path((model, made.baseline))),
        faults=pattern + 1,
    )


def _spread(
    made: Plan,
    deployment: Deployment,
    case: Case,
    record: Row,
    faults: Sequence[Row],
    stop: Stop,
) -> tuple[list[dict[str, Any]], str]:
    """What every activation shows, in a worker of its own, or why there is nothing to see."""
    if not case.perturbed:
        return [], "nothing is perturbed in this cell, so no error spreads"
    # Too many edits are not told as rows: the worker draws them again.
    untold = not faults and any(
        layer.scenario.target in ("weights", "activations") for layer in case.layers
    )
    work = SpreadWork(
        str(deployment.artifact),
        str(deployment.subject.dataset),
        deployment.subject.batch,
        made.spec.seed,
        case,
        record["pattern"],
        record["batch"],
        None if untold and record["n_edits"] != 0 else tuple(faults),
    )
    job, found = _job(made, deployment, work), list[dict[str, Any]]()

    def take(event: dict[str, Any]) -> None:
        if event.pop("event") == "spread":
            found.append(event)

    ended = run_worker(job, take, stop)
    verdict = classify(ended, job.deadline_s)
    if verdict.outcome == "ok":
        return found, ""
    if verdict.outcome == "unsupported":
        return [], f"the runtime does not show its inner tensors: {verdict.message}"
    return [], f"the spread could not be followed: {verdict.outcome} ({verdict.message})"
