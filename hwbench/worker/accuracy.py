"""Run a case's patterns over the dataset and score every batch against golden."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hwbench import edits, sitelist
from hwbench.backend import Artifact, Backend, Session
from hwbench.case import Case
from hwbench.dataset import Dataset
from hwbench.edits import Edits
from hwbench.job import AccuracyWork, Job, Part
from hwbench.worker import between, golden, perturb, proof, replayed, search
from hwbench.worker.bench import FAULT_ROWS, Bench, equal, fault_rows, infer
from hwbench.worker.events import Events
from hwbench.worker.replayed import Queued, Replays


def run(job: Job, work: AccuracyWork, backend: Backend, events: Events) -> None:
    """Open once, check that golden repeats, then trial by trial."""
    events.phase("load")
    artifact = replace(Artifact.load(Path(work.artifact)), environment=job.environment)
    dataset = Dataset.open(Path(work.dataset))
    session = _open(backend, artifact, events)
    bench = Bench(job, work, backend, events, artifact, dataset, session)
    clean = [part for part in work.parts if not part.case.layers]
    perturbed = [part for part in work.parts if part.case.layers]
    events.phase("run")
    start = time.perf_counter_ns()
    if clean:
        golden.make(bench, clean[0])
    if work.sites:
        sitelist.write(Path(work.sites), [*bench.sites, *between.activations(bench)])
    if perturbed:
        golden.load(bench)
        if not golden.repeats(bench) and not job.conditions:
            perturbed = []  # whatever they gave would mean nothing
    _perturbed(bench, perturbed)
    events.send("process", run_ms=(time.perf_counter_ns() - start) / 1e6)
    events.peak_rss()  # before asking what ran, which may load the model again
    events.send("process", actual=asdict(bench.session.actual))
    bench.session.close()


def _open(backend: Backend, artifact: Artifact, events: Events) -> Session:
    start = time.perf_counter_ns()
    session = backend.open(artifact)
    events.send("process", load_ms=(time.perf_counter_ns() - start) / 1e6)
    return session


def _perturbed(bench: Bench, parts: Sequence[Part]) -> None:
    replays = Replays(bench)
    for part in parts:
        if perturb.layers(part.case, "activations"):
            between.run(bench, replays, part)
        elif perturb.layers(part.case, "weights"):
            _stored_part(bench, replays, part)
        else:
            for pattern, group in groupby(part.trials, key=lambda trial: trial[0]):
                indices = [index for _, index in group]
                _batches(bench, part.case, pattern, indices, bench.session, {"method": "naive"})
    if replays.told:
        bench.events.send("process", replay=json.dumps(replays.told))


@dataclass(frozen=True)
class _Drawn:
    """The edits of a pattern, layer by layer, and for which batches they are.

    Attributes:
        edits: with the number of their layer.
        achieved: severity of the last layer.
    """

    pattern: int
    indices: tuple[int, ...]
    edits: tuple[tuple[int, Edits], ...]
    achieved: float

    @property
    def values(self) -> dict[str, Any]:
        """The columns of a record that tell of edits."""
        return {
            "edits_hash": "+".join(each.digest() for _, each in self.edits),
            "n_edits": sum(len(each) for _, each in self.edits),
            "achieved": self.achieved if np.isfinite(self.achieved) else None,
            "method": "naive",
        }


def _stored_part(bench: Bench, replays: Replays, part: Part) -> None:
    """Faults in stored tensors: single sites are replayed where that pays, others run whole."""
    queue: list[Queued] = []
    fast, alone = replays.suit(part), part.alone
    for pattern, group in groupby(part.trials, key=lambda trial: trial[0]):
        for drawn in _draws(bench, part, pattern, [index for _, index in group]):
            (layer, only), *others = drawn.edits
            free = not alone & {(pattern, index) for index in drawn.indices}
            alike = fast and free and not others and len(only.touched()) == 1
            if alike and replays.pays(only.touched()[0]):
                queue.append(Queued(pattern, drawn.indices, layer, only, drawn.values))
            else:
                _naive(bench, part.case, drawn)
    replayed.run_stored(bench, replays, part.case, queue)


def _draws(bench: Bench, part: Part, pattern: int, indices: list[int]) -> Iterator[_Drawn]:
    """One draw for all batches of a pattern, or one for each where a layer's faults pass.

    A death while the corrupted artifact loads charges them all. So does a scenario that cannot be
    drawn over these sites: other cases go on.
    """
    case, targets = part.case, perturb.layers(part.case, "weights")
    stay = all(perturb.resident(case, index) for index in targets)
    for some in [indices] if stay else [[index] for index in indices]:
        bench.events.send("trials", trials=[(case.id, pattern, index) for index in some])
        within = () if stay else ("inference", some[0])
        done: list[tuple[int, Edits]] = []
        for layer in targets:
            before, sites = [each for _, each in done], bench.sites_of(case, layer)
            if search.searched(case, layer):
                drawn, achieved = search.edits(bench, case, layer, sites, pattern, before)
                done.append((layer, drawn))
                continue
            read = perturb.after(bench.stored, before)
            once = perturb.resident(case, layer)
            which = perturb.Which(
                bench.work.seed, pattern, () if once else within, part.assigned.get(pattern)
            )
            drawn, achieved = perturb.draw(case, layer, sites, which, read)
            done.append((layer, drawn))
        yield _Drawn(pattern, tuple(some), tuple(done), achieved)


def _naive(bench: Bench, case: Case, drawn: _Drawn) -> None:
    """The corrupted artifact in a fresh session, batch by batch."""
    values, indices = drawn.values, list(drawn.indices)
    bench.events.send("trials", trials=[(case.id, drawn.pattern, index) for index in indices])
    if values["n_edits"] == 0:
        run = perturb.layers(case, "inputs") or case.conditions  # a condition may change outputs
        values["method"] = "naive" if run else "unedited"
        _batches(bench, case, drawn.pattern, indices, bench.session, values)
        return
    with _corrupted(bench, case, drawn) as session:
        _batches(bench, case, drawn.pattern, indices, session, values)


@contextmanager
def _corrupted(bench: Bench, case: Case, drawn: _Drawn) -> Iterator[Session]:
    """A session with the edits in it, in the residence that the layer asks for."""
    if perturb.live(case) is not None:
        with _live(bench, case, drawn) as session:
            yield session
        return
    with tempfile.TemporaryDirectory() as scratch:
        artifact = bench.artifact
        for index, each in drawn.edits:
            if len(each):
                folder = Path(scratch) / str(index)
                folder.mkdir()
                before = artifact
                artifact = bench.backend.corrupt(before, each, folder)
                old = partial(bench.backend.stored, before)
                rows = _proof(bench, each, old, partial(bench.backend.stored, artifact))
                bench.tell_faults(case, drawn.pattern, index, each, rows)
        bench.set_aside()
        session = bench.backend.open(artifact)
        try:
            yield session
        finally:
            session.close()


@contextmanager
def _live(bench: Bench, case: Case, drawn: _Drawn) -> Iterator[Session]:
    """The edits in the loaded buffers, taken back and the taking back proven."""
    ((layer, only),) = drawn.edits
    names = only.touched()
    before = {name: bench.session.loaded(name) for name in names}
    bench.session.live(only)
    rows = _proof(bench, only, before.__getitem__, bench.session.loaded)
    bench.tell_faults(case, drawn.pattern, layer, only, rows)
    yield bench.session
    bench.session.live(edits.none())
    batch = bench.batch(0)
    if not equal(infer(bench.session, batch, batch.feeds), bench.first):
        raise RuntimeError("live edits were not taken back: the outputs before are not repeated")


def _proof(
    bench: Bench, drawn: Edits, before: perturb.Read, after: perturb.Read
) -> list[dict[str, Any]]:
    """What each edit did, by the bits read back; a fault that missed is an error.

    Args:
        bench: of the job.
        drawn: edits of stored tensors.
        before: reads a tensor that they touch, by site: one at a time, for they may be large.
        after: the same, from what is loaded (or lies loaded).

    Raises:
        RuntimeError: an element's bits are not what the edits make of them.
    """
    sites, rows = {site.name: site for site in bench.sites}, list[dict[str, Any]]()
    for name in drawn.touched():
        here = drawn.at_site(name)
        old, new = (np.ascontiguousarray(read(name)) for read in (before, after))
        proof.landed(name, edits.apply(old, here), new)
        if len(drawn) <= FAULT_ROWS:
            chosen = [each.reshape(-1)[here.element] for each in (old, new)]
            rows += fault_rows(sites[name], here, *chosen)
    return rows


def _batches(
    bench: Bench,
    case: Case,
    pattern: int,
    indices: list[int],
    session: Session,
    values: Mapping[str, Any],
) -> None:
    has_inputs = bool(perturb.layers(case, "inputs"))
    for index in indices:
        batch = bench.batch(index)
        bench.events.send("trials", trials=[(case.id, pattern, index)])
        if values["method"] == "unedited":
            bench.record(case, pattern, batch, bench.golden_of(batch), values)
        elif has_inputs:
            made = perturb.perturb_inputs(case, batch, bench.work.seed, pattern, bench.fit)
            done = {"edits_hash": made.digest, "n_edits": made.n_edits, "achieved": made.achieved}
            outputs = infer(session, batch, made.feeds)
            bench.record(case, pattern, batch, outputs, {**values, **done})
        else:
            bench.record(case, pattern, batch, infer(session, batch, batch.feeds), values)
