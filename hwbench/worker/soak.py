"""One process that measures for a long time."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from hwbench import soak
from hwbench.backend import Artifact, Backend
from hwbench.dataset import Dataset
from hwbench.job import Job, SoakWork
from hwbench.worker import latency
from hwbench.worker.events import Events


def run(job: Job, work: SoakWork, backend: Backend, events: Events) -> None:
    """Load, measure window by window, and only then ask what really ran."""
    events.phase("load")
    artifact = replace(Artifact.load(Path(work.artifact)), environment=job.environment)
    inputs = latency.inputs(work, Dataset.open(Path(work.dataset)))
    session = backend.open(artifact)
    events.phase("measure")
    windows = soak.soak(
        session,
        inputs,
        duration_s=work.min_duration_s,
        window_s=work.window_s,
        warmup_s=work.warmup_s,
        sensors=soak.read_sensors,
        alive=lambda: events.phase("measure"),
    )
    events.send("process", n_calls=sum(windows.n_calls))
    events.peak_rss()
    events.send("soak", windows=asdict(windows))
    events.send("process", actual=asdict(session.actual))
    session.close()
