"""One fresh process of a latency measurement."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from hwbench.backend import Array, Artifact, Backend
from hwbench.case import Case
from hwbench.dataset import Batch, Dataset
from hwbench.errors import Unsupported
from hwbench.job import Job, LatencyWork
from hwbench.measure import measure
from hwbench.scenario import TransformPerturbation
from hwbench.worker import perturb
from hwbench.worker.events import Events

N_INPUTS = 8  # rotated, so that no single input is measured out of the cache alone


def run(job: Job, work: LatencyWork, backend: Backend, events: Events) -> None:
    """Load, measure, and only then ask what really ran (that may cost another load)."""
    events.phase("load")
    artifact = replace(Artifact.load(Path(work.artifact)), environment=job.environment)
    inputs = _inputs(work, Dataset.open(Path(work.dataset)))
    start = time.perf_counter_ns()
    session = backend.open(artifact)
    events.send("process", load_ms=(time.perf_counter_ns() - start) / 1e6)
    events.phase("measure")
    result = measure(
        session,
        inputs,
        min_duration_s=work.min_duration_s,
        min_count=work.min_count,
        warmup_s=work.warmup_s,
    )
    samples_ms = result.latencies_ns / 1e6
    events.send(
        "process",
        first_inference_ms=result.first_ns / 1e6,
        n_calls=len(samples_ms),
        latency_p50_ms=float(np.median(samples_ms)),
        latency_mean_ms=float(samples_ms.mean()),
    )
    events.peak_rss()
    events.send("latency", latencies_ns=result.latencies_ns)
    events.send("process", actual=asdict(session.actual))
    session.close()


def _inputs(work: LatencyWork, dataset: Dataset) -> list[dict[str, Array]]:
    """Perturbed like the case asks (its first pattern), so that slow numbers are seen as slow."""
    count = min(N_INPUTS, dataset.n_batches(work.batch))
    batches = [dataset.batch(index, work.batch) for index in range(count)]
    return [_perturbed(work.case, dataset, batch) for batch in batches]


def _perturbed(case: Case, dataset: Dataset, batch: Batch) -> dict[str, Array]:
    if perturb.layers(case, "weights"):
        raise Unsupported("latency under faults in stored tensors is not measured yet")
    if not case.layers:
        return dict(batch.feeds)

    def fit(scenario: TransformPerturbation, name: str) -> TransformPerturbation:
        return scenario.fit(dataset.inputs[name])

    return dict(perturb.perturb_inputs(case, batch, 0, 0, fit).feeds)
