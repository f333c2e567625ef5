"""One fresh process of a latency measurement."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench import canary, samples, score, witness
from hwbench.backend import Array, Artifact, Backend, Session
from hwbench.case import Case
from hwbench.dataset import Batch, Dataset
from hwbench.errors import Unsupported
from hwbench.job import Job, LatencyWork
from hwbench.manner import rows_of
from hwbench.measure import Measurement, Outputs, measure, repeat
from hwbench.scenario import TransformPerturbation
from hwbench.worker import faulty, golden, perturb
from hwbench.worker.events import Events

N_INPUTS = 8  # rotated, so that no single input is measured out of the cache alone
SAME_SHARE = 0.2  # of the calls, again with one and the same input

Feeds = Mapping[str, Array]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Rotation:
    """What is run in turn: batches of the dataset, perturbed as the case asks."""

    batches: tuple[Batch, ...]
    feeds: tuple[Feeds, ...]

    @classmethod
    def of(cls, work: LatencyWork, dataset: Dataset) -> _Rotation:
        count = min(N_INPUTS, dataset.n_batches(work.batch))
        batches = tuple(dataset.batch(index, work.batch) for index in range(count))
        return cls(batches, tuple(_perturbed(work, dataset, batch) for batch in batches))

    @property
    def rows(self) -> Rows:
        """Dataset sample of every row, -1 where it is padding."""
        width = rows_of(self.feeds[0])
        samples = np.full(len(self.batches) * width, -1, np.int64)
        for index, batch in enumerate(self.batches):
            samples[index * width : index * width + len(batch.samples)] = batch.samples
        return samples

    def kept(self, outputs: Sequence[tuple[int, Outputs]]) -> list[tuple[Rows, Outputs]]:
        """Outputs by numbers of rows instead of batches."""
        width = rows_of(self.feeds[0])
        return [(np.arange(width) + index * width, each) for index, each in outputs]


def run(job: Job, work: LatencyWork, backend: Backend, events: Events) -> None:
    """Load, measure, and only then ask what really ran (that may cost another load)."""
    if not work.case.conditions:
        events.send("process", canary_ms=canary.measure())
    events.phase("load")
    artifact = replace(Artifact.load(Path(work.artifact)), environment=job.environment)
    rotation = _Rotation.of(work, Dataset.open(Path(work.dataset)))
    with tempfile.TemporaryDirectory() as scratch:
        faults = faulty.prepare(
            backend, artifact, work.case, work.seed, work.pattern, Path(scratch)
        )
        start = time.perf_counter_ns()
        with faults.opened(backend) as session:
            events.send("process", load_ms=(time.perf_counter_ns() - start) / 1e6)
            events.send("process", pattern=_drawn(work), **faults.odd)
            events.phase("measure")
            if work.use == "singlestream":
                _single_stream(job, work, session, rotation, events)
            else:
                _by_loadgen(job, work, session, rotation, events)
            events.send("process", actual=asdict(session.actual))


def _drawn(work: LatencyWork) -> int | None:
    return work.pattern if work.case.perturbed else None


def _single_stream(
    job: Job, work: LatencyWork, session: Session, rotation: _Rotation, events: Events
) -> None:
    """The next call as soon as the one before has returned."""
    before = witness.read(job.environment.device)
    result = measure(
        session,
        rotation.feeds,
        min_duration_s=work.min_duration_s,
        min_count=work.min_count,
        warmup_s=work.warmup_s,
        alive=partial(events.phase, "measure"),
    )
    after = witness.read(job.environment.device)
    events.peak_rss()
    again = repeat(session, rotation.feeds[0], max(1, int(SAME_SHARE * result.n_calls)))
    events.send(
        "process",
        first_inference_ms=result.first_ns / 1e6,
        warmup_calls=result.warmup_calls,
        n_calls=result.n_calls,
        throughput_per_s=work.batch * result.n_calls / (result.elapsed_ns / 1e9),
        same_input_speedup=_speedup(result, again, len(rotation.feeds)),
        **samples.summary(result.latencies_ns, result.folded),
        **witness.between(before, after, os.cpu_count() or 1),
        **_sampled(work, rotation, rotation.kept(result.kept), session),
    )
    folded = result.folded
    events.send(
        "latency",
        latencies_ns=result.latencies_ns,
        bucket_lows_ns=None if folded is None else folded.lows,
        bucket_counts=None if folded is None else folded.counts,
    )


def _by_loadgen(
    job: Job, work: LatencyWork, session: Session, rotation: _Rotation, events: Events
) -> None:
    """Calls arrive as MLCommons LoadGen says."""
    from hwbench import loadgen  # another runtime's worker need not have it

    first = measure(session, rotation.feeds, min_duration_s=0, min_count=1, warmup_s=work.warmup_s)
    before = witness.read(job.environment.device)
    alive = partial(events.phase, "measure")
    result = loadgen.run(session, rotation.feeds, loadgen.Wanted.of(work), alive)
    after = witness.read(job.environment.device)
    events.peak_rss()
    events.send(
        "process",
        first_inference_ms=first.first_ns / 1e6,
        warmup_calls=first.warmup_calls,
        **result.columns,
        **witness.between(before, after, os.cpu_count() or 1),
        **_sampled(work, rotation, result.kept, session),
    )
    events.send("latency", latencies_ns=result.latencies_ns)


def _speedup(result: Measurement, again: Any, n_inputs: int) -> float | None:
    """How much faster the first input is when nothing else is run: more than a tenth is a cache.

    Of a soak the raw samples do not say any more which input they were of.
    """
    rotated = result.latencies_ns[::n_inputs]
    if result.folded is not None or n_inputs < 2 or not np.median(again):
        return None
    return float(np.median(rotated) / np.median(again))


def inputs(work: LatencyWork, dataset: Dataset) -> list[Feeds]:
    """What a soak runs in turn: perturbed as the case asks, so that slow numbers are seen as slow.

    Raises:
        Unsupported: the case hits stored tensors.
    """
    if perturb.layers(work.case, "weights"):
        raise Unsupported("a soak under faults in stored tensors is not measured")
    return list(_Rotation.of(work, dataset).feeds)


def _sampled(
    work: LatencyWork,
    rotation: _Rotation,
    kept: Sequence[tuple[Rows, Outputs]],
    session: Session,
) -> dict[str, Any]:
    """Whether what was timed answers like the accuracy run: a faster wrong answer is no answer."""
    if not Path(work.golden).is_file():
        return {}
    unperturbed, scoring = golden.read(Path(work.golden)), work.scoring
    name, parts = scoring.output or session.outputs[0].name, []
    for rows, outputs in kept:
        dataset_rows = rotation.rows[rows]
        scored = dataset_rows >= 0
        wanted = {key: array[dataset_rows[scored]] for key, array in unperturbed.items()}
        found = {key: array[scored] for key, array in outputs.items()}
        parts.append(
            score.outcomes(
                found, wanted, name, classes=scoring.classes, tolerance=scoring.tolerance
            )
        )
    outcomes = np.concatenate(parts)
    return {
        "n_sampled": len(outcomes),
        "sampled_agreement": float((outcomes <= score.Outcome.BENIGN).mean()),
        "nonfinite_outputs": float((outcomes == score.Outcome.DUE).mean()),
    }


def _perturbed(work: LatencyWork, dataset: Dataset, batch: Batch) -> Feeds:
    """The batch as the case's layers on inputs make it, so that slow numbers are seen as slow."""
    case: Case = work.case
    if not perturb.layers(case, "inputs"):
        return dict(batch.feeds)

    def fit(scenario: TransformPerturbation, name: str) -> TransformPerturbation:
        return scenario.fit(dataset.inputs[name])

    return dict(perturb.perturb_inputs(case, batch, work.seed, work.pattern, fit).feeds)
