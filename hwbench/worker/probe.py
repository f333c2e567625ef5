"""One probe of a search: load, infer, and be timed for a moment."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwbench.backend import Artifact, Backend
from hwbench.dataset import Dataset
from hwbench.job import Job, SearchWork
from hwbench.measure import measure
from hwbench.worker.events import Events

N_INPUTS = 8


def run(job: Job, work: SearchWork, backend: Backend, events: Events) -> None:
    """Nothing is asked of the session afterwards: that may load the model again."""
    if work.import_only:
        events.peak_rss()
        return
    events.phase("load")
    artifact = replace(Artifact.load(Path(work.artifact)), environment=job.environment)
    dataset = Dataset.open(Path(work.dataset))
    count = min(N_INPUTS, dataset.n_batches(work.batch))
    inputs = [dict(dataset.batch(index, work.batch).feeds) for index in range(count)]
    start = time.perf_counter_ns()
    session = backend.open(artifact)
    events.send("process", load_ms=(time.perf_counter_ns() - start) / 1e6)
    events.phase("warmup")
    start = time.perf_counter_ns()
    session.run(inputs[0])
    events.send("process", first_inference_ms=(time.perf_counter_ns() - start) / 1e6)
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
        n_calls=len(samples_ms),
        latency_p50_ms=float(np.median(samples_ms)),
        latency_mean_ms=float(samples_ms.mean()),
    )
    events.peak_rss()
    session.close()
