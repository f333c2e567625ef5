"""Run a case's patterns over the dataset and score every batch against golden."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hwbench import edits, score
from hwbench.backend import Array, Artifact, Backend, Session, Site
from hwbench.case import Case
from hwbench.dataset import Batch, Dataset
from hwbench.job import AccuracyWork, Job, Part
from hwbench.scenario import TransformPerturbation
from hwbench.worker import perturb, search
from hwbench.worker.events import Events

Outputs = Mapping[str, Array]

# A scenario that rewrites every weight would list them all; its seed and hash give them again.
_FAULT_ROWS = 10_000


@dataclass
class _Bench:
    """What all trials of a job share."""

    job: Job
    work: AccuracyWork
    backend: Backend
    events: Events
    artifact: Artifact
    dataset: Dataset
    session: Session
    golden: dict[str, Array] = field(default_factory=dict)
    first: dict[str, Array] = field(default_factory=dict)  # this process's own, unperturbed
    reference: Array | None = None
    sites: dict[str, Site] = field(default_factory=dict)
    fitted: dict[tuple[TransformPerturbation, str], TransformPerturbation] = field(
        default_factory=dict
    )
    searches: dict[str, search.Progress] = field(default_factory=dict)

    def stored(self, name: str) -> Array:
        """A site's tensor in the undamaged artifact."""
        return self.backend.stored(self.artifact, name)

    def fit(self, scenario: TransformPerturbation, name: str) -> TransformPerturbation:
        """The scenario, knowing the whole of one input."""
        key = (scenario, name)
        if key not in self.fitted:
            self.fitted[key] = scenario.fit(self.dataset.inputs[name])
        return self.fitted[key]

    @property
    def output(self) -> str:
        """Name of the scored output."""
        return self.work.scoring.output or self.session.outputs[0].name


def run(job: Job, work: AccuracyWork, backend: Backend, events: Events) -> None:
    """Open once, check that golden repeats, then trial by trial."""
    events.phase("load")
    artifact = replace(Artifact.load(Path(work.artifact)), environment=job.environment)
    dataset = Dataset.open(Path(work.dataset))
    session = _open(backend, artifact, events)
    bench = _Bench(job, work, backend, events, artifact, dataset, session)
    clean = [part for part in work.parts if not part.case.layers]
    perturbed = [part for part in work.parts if part.case.layers]
    events.phase("run")
    start = time.perf_counter_ns()
    if clean:
        _golden_run(bench, clean[0])
    if perturbed:
        _load_golden(bench)
        if not _repeats_golden(bench) and not job.conditions:
            perturbed = []  # whatever they gave would mean nothing
    for part in perturbed:
        _run_part(bench, part)
    events.send("process", run_ms=(time.perf_counter_ns() - start) / 1e6)
    events.peak_rss()  # before asking what ran, which may load the model again
    events.send("process", actual=asdict(session.actual))
    session.close()


def _open(backend: Backend, artifact: Artifact, events: Events) -> Session:
    start = time.perf_counter_ns()
    session = backend.open(artifact)
    events.send("process", load_ms=(time.perf_counter_ns() - start) / 1e6)
    return session


def _infer(session: Session, batch: Batch, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The scored rows of every output.

    Raises:
        RuntimeError: an output has not one row per row of the batch: an error, never a score.
    """
    rows = len(next(iter(feeds.values())))
    outputs = session.run(feeds)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows or array.size == 0:
            raise RuntimeError(
                f"output {name!r} has shape {array.shape} for a batch of {rows} rows"
            )
    return {name: array[: len(batch.samples)] for name, array in outputs.items()}


def _golden_run(bench: _Bench, part: Part) -> None:
    """The unperturbed outputs of all batches: written whole before any record is told.

    A worker behind one that was cut runs every batch again, and tells the records that are left.
    """
    batches = list(bench.dataset.batches(bench.work.batch))
    bench.events.send("trials", trials=[(part.case.id, *trial) for trial in part.trials])
    start, outputs = time.perf_counter_ns(), []
    for batch in batches:
        bench.events.phase("run")  # a sign of life: the deadline is on silence
        outputs.append(_infer(bench.session, batch, batch.feeds))
        if len(outputs) == 1:
            first_ms = (time.perf_counter_ns() - start) / 1e6
            bench.events.send("process", first_inference_ms=first_ms)
    names = outputs[0].keys()
    bench.golden = {name: np.concatenate([each[name] for each in outputs]) for name in names}
    again = _infer(bench.session, batches[0], batches[0].feeds)
    path = Path(bench.work.golden)
    same = _equal(again, outputs[0]) and (
        not path.exists() or _equal(bench.golden, read_golden(path))
    )
    bench.events.send("process", golden_reproduced=same)
    _check_classes(bench)
    _write_golden(path, bench.golden)
    bench.reference = _reference(bench)
    for pattern, index in part.trials:
        _record(bench, part.case, pattern, batches[index], outputs[index], {"method": "naive"})


def _check_classes(bench: _Bench) -> None:
    labels, scored = bench.dataset.labels, bench.golden[bench.output]
    if bench.work.scoring.classes and labels is not None and labels.max() >= scored.shape[-1]:
        raise RuntimeError(
            f"label {labels.max()} is out of range: output {bench.output!r} has"
            f" {scored.shape[-1]} classes; check data.labels and its offset"
        )


def _write_golden(path: Path, outputs: Outputs) -> None:
    scratch = path.with_name(f".{os.getpid()}.{path.name}")
    names = {f"output-{i}": array for i, array in enumerate(outputs.values())}
    with scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, names=np.array(list(outputs), dtype=np.str_), **names)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)


def read_golden(path: Path) -> dict[str, Array]:
    """Unperturbed outputs by name, one row per sample."""
    with np.load(path, allow_pickle=False) as stored:
        return {str(name): stored[f"output-{i}"] for i, name in enumerate(stored["names"])}


def _load_golden(bench: _Bench) -> None:
    bench.golden = bench.golden or read_golden(Path(bench.work.golden))
    bench.reference = _reference(bench)


def _reference(bench: _Bench) -> Array | None:
    """The baseline's golden of the scored output, where the outputs can be compared."""
    if not bench.work.reference or not Path(bench.work.reference).exists():
        return None
    stored = read_golden(Path(bench.work.reference))
    found = stored.get(bench.output, next(iter(stored.values())))
    return found if found.shape == bench.golden[bench.output].shape else None


def _equal(a: Outputs, b: Outputs) -> bool:
    return all(bool(score.same_bytes(a[name], b[name]).all()) for name in b)


def _repeats_golden(bench: _Bench) -> bool:
    """Outcomes mean something only where this process repeats golden's bytes.

    Except under a condition: what it does to the outputs is what is asked for.
    """
    batch = bench.dataset.batch(0, bench.work.batch)
    start = time.perf_counter_ns()
    outputs = _infer(bench.session, batch, batch.feeds)
    bench.events.send("process", first_inference_ms=(time.perf_counter_ns() - start) / 1e6)
    bench.first = outputs
    same = _equal(outputs, {name: rows[batch.samples] for name, rows in bench.golden.items()})
    bench.events.send("process", golden_reproduced=same)
    return same


def _run_part(bench: _Bench, part: Part) -> None:
    sites = list(bench.backend.sites(bench.artifact)) if perturb.stored_layers(part.case) else []
    bench.sites = {site.name: site for site in sites}
    for pattern, group in groupby(part.trials, key=lambda trial: trial[0]):
        indices = [index for _, index in group]
        if sites:
            _stored_pattern(bench, part.case, sites, pattern, indices)
        else:
            _batches(bench, part.case, pattern, indices, bench.session, {"method": "naive"})


def _stored_pattern(
    bench: _Bench, case: Case, sites: list[Site], pattern: int, indices: list[int]
) -> None:
    """A pattern on stored tensors: a death while its corrupted artifact loads charges them all.

    So does a scenario that cannot be drawn over these sites: other cases go on.
    """
    bench.events.send("trials", trials=[(case.id, pattern, index) for index in indices])
    drawn: list[tuple[int, edits.Edits, float]] = []
    for index in perturb.stored_layers(case):
        before = [each for _, each, _ in drawn]
        if search.searched(case, index):
            drawn.append((index, *search.edits(bench, case, index, sites, pattern, before)))
            continue
        read = perturb.after(bench.stored, before)
        drawn.append((index, *perturb.draw(case, index, sites, bench.work.seed, pattern, read)))
    values = {
        "edits_hash": "+".join(each.digest() for _, each, _ in drawn),
        "n_edits": sum(len(each) for _, each, _ in drawn),
        "achieved": drawn[-1][2] if np.isfinite(drawn[-1][2]) else None,
        "method": "naive",
    }
    if values["n_edits"] == 0:
        run = perturb.input_layers(case) or case.conditions  # a condition may change outputs
        values["method"] = "naive" if run else "unedited"
        _batches(bench, case, pattern, indices, bench.session, values)
        return
    with _corrupted(bench, case, pattern, [(i, each) for i, each, _ in drawn]) as session:
        _batches(bench, case, pattern, indices, session, values)


@contextmanager
def _corrupted(
    bench: _Bench, case: Case, pattern: int, drawn: list[tuple[int, edits.Edits]]
) -> Iterator[Session]:
    """A session with the edits in it, in the residence that the layer asks for."""
    if any(case.layers[index].residence == "live" for index, _ in drawn):
        with _live(bench, case, drawn) as session:
            yield session
        return
    with tempfile.TemporaryDirectory() as scratch:
        artifact = bench.artifact
        for index, each in drawn:
            if len(each):
                folder = Path(scratch) / str(index)
                folder.mkdir()
                before = artifact
                artifact = bench.backend.corrupt(before, each, folder)
                _prove(bench, case, pattern, index, each, before, artifact)
        session = bench.backend.open(artifact)
        try:
            yield session
        finally:
            session.close()


@contextmanager
def _live(bench: _Bench, case: Case, drawn: list[tuple[int, edits.Edits]]) -> Iterator[Session]:
    """The edits in the loaded buffers, taken back and the taking back proven."""
    if len(drawn) > 1:
        raise ValueError(f"{case.id}: only one scenario of a stack can be live")
    bench.session.live(drawn[0][1])
    yield bench.session
    bench.session.live(edits.none())
    batch = bench.dataset.batch(0, bench.work.batch)
    outputs = _infer(bench.session, batch, batch.feeds)
    if not _equal(outputs, bench.first):
        raise RuntimeError("live edits were not taken back: the outputs before are not repeated")


def _prove(
    bench: _Bench,
    case: Case,
    pattern: int,
    layer: int,
    drawn: edits.Edits,
    before: Artifact,
    after: Artifact,
) -> None:
    """Read every edited element back from what will be loaded; a fault that missed is an error.

    Raises:
        RuntimeError: an element's bits are not what the edits make of them.
    """
    rows = []
    for name in drawn.touched():
        here = drawn.at_site(name)
        old, new = (
            np.ascontiguousarray(bench.backend.stored(each, name)) for each in (before, after)
        )
        wanted = edits.apply(old, here)
        if wanted.tobytes() != new.tobytes():
            raise RuntimeError(f"edits did not land in {name!r}: its stored bits are not as asked")
        if len(drawn) <= _FAULT_ROWS:
            rows += _fault_rows(bench.sites[name], here, old, new)
    # Single faults are told of every pattern: tables by site and bit field are made of them.
    if (pattern < bench.work.faults or len(drawn) == 1) and len(drawn) <= _FAULT_ROWS:
        shared = {"pattern": pattern, "layer": layer, "edits_hash": drawn.digest()}
        bench.events.send("faults", case=case.id, rows=[{**shared, **row} for row in rows])


def _fault_rows(site: Site, here: edits.Edits, old: Array, new: Array) -> list[dict[str, Any]]:
    digits = 2 * old.dtype.itemsize
    bits = [each.reshape(-1).view(f"u{old.dtype.itemsize}") for each in (old, new)]
    return [
        {
            "site": site.name,
            "element": element,
            "mask": f"{mask:0{digits}x}",
            "op": edits.Op(op).name.lower(),
            "before": f"{int(bits[0][element]):0{digits}x}",
            "after": f"{int(bits[1][element]):0{digits}x}",
            "dtype": site.dtype,
            "kind": site.kind,
            "consumer": site.layer,
            "op_type": site.op_type,
            "order": site.order,
        }
        for element, mask, op in zip(
            here.element.tolist(), here.mask.tolist(), here.op.tolist(), strict=True
        )
    ]


def _batches(
    bench: _Bench,
    case: Case,
    pattern: int,
    indices: list[int],
    session: Session,
    values: dict[str, Any],
) -> None:
    has_inputs = bool(perturb.input_layers(case))
    for index in indices:
        batch = bench.dataset.batch(index, bench.work.batch)
        bench.events.send("trials", trials=[(case.id, pattern, index)])
        if values["method"] == "unedited":
            outputs = {name: rows[batch.samples] for name, rows in bench.golden.items()}
            _record(bench, case, pattern, batch, outputs, values)
        elif has_inputs:
            made = perturb.perturb_inputs(case, batch, bench.work.seed, pattern, bench.fit)
            done = {"edits_hash": made.digest, "n_edits": made.n_edits, "achieved": made.achieved}
            outputs = _infer(session, batch, made.feeds)
            _record(bench, case, pattern, batch, outputs, {**values, **done})
        else:
            _record(bench, case, pattern, batch, _infer(session, batch, batch.feeds), values)


def _record(
    bench: _Bench,
    case: Case,
    pattern: int,
    batch: Batch,
    outputs: Outputs,
    values: dict[str, Any],
) -> None:
    scoring, samples = bench.work.scoring, batch.samples
    golden = {name: rows[samples] for name, rows in bench.golden.items()}
    outcome = score.outcomes(
        outputs, golden, bench.output, classes=scoring.classes, tolerance=scoring.tolerance
    )
    scored = score.Scored(
        outputs[bench.output],
        golden[bench.output],
        None if bench.reference is None else bench.reference[samples],
        None if bench.dataset.labels is None else bench.dataset.labels[samples],
        outcome,
        scoring.tolerance,
        scoring.classes,
    )
    right = score.correct(scored)
    key = perturb.seed_key(case, bench.work.seed, pattern)
    bench.events.send(
        "record",
        trial=(case.id, pattern, batch.index),
        row={
            "seed_key": key,
            "n_samples": len(samples),
            "n_masked": int((outcome == score.Outcome.MASKED).sum()),
            "n_benign": int((outcome == score.Outcome.BENIGN).sum()),
            "n_sdc": int((outcome == score.Outcome.SDC).sum()),
            "n_due": int((outcome == score.Outcome.DUE).sum()),
            "outcomes": score.pack(outcome),
            "correct": None if right is None else np.packbits(right).tobytes(),
            "partials": score.partials(scored),
            **values,
        },
    )
