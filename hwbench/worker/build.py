"""Build an artifact in a process of its own: quantising takes far more memory than running."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from hwbench import artifacts, registry
from hwbench.backend import Backend, ModelSource
from hwbench.dataset import Dataset
from hwbench.errors import Unsupported
from hwbench.job import BuildWork, Job
from hwbench.worker.events import Events


def run(job: Job, work: BuildWork, backend: Backend, events: Events) -> None:
    """Make the artifact under a temporary name, then give it its final one."""
    events.phase("build")
    environment = job.environment
    capability = backend.probe().precisions.get(environment.precision)
    if capability is None:
        known = ", ".join(backend.probe().precisions)
        raise Unsupported(
            f"{backend.name} has no precision {environment.precision!r} (has {known})"
        )
    if capability.status == "unsupported":
        raise Unsupported(capability.reason)
    dataset = Dataset.open(Path(work.dataset))
    if environment.precision.startswith("int8") and dataset.calibration is None:
        raise Unsupported("int8 needs calibration rows. Hint: add data.calibration (--calibration)")
    final = Path(work.artifact)
    if final.exists():  # its name is the hash of all that it is made of
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    # A second process that wants the same waits, with signs of life, and finds it made.
    with artifacts.building(final, lambda: events.phase("build")):
        if not final.exists():
            _make(job, work, backend, dataset, final)
    events.peak_rss()


def _make(job: Job, work: BuildWork, backend: Backend, dataset: Dataset, final: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=final.parent, prefix=".build-"))
    try:
        source = _accepted(work.source, backend, scratch)
        calibration = dataset.calibration and {
            name: np.array(rows) for name, rows in dataset.calibration.items()
        }
        folder = scratch / "artifact"
        folder.mkdir()
        backend.build(source, job.environment, calibration, folder).save()
        try:
            os.rename(folder, final)
        except OSError:
            if not final.exists():  # else a machine that does not share our locks was first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _accepted(source: ModelSource, backend: Backend, scratch: Path) -> ModelSource:
    """The model in a format the backend takes, converted by another backend if need be."""
    if set(source.formats) & set(backend.accepts):
        return source
    for name in registry.names(registry.BACKENDS):
        other = registry.backend(name)
        for have, want in other.converts:
            if (
                have in source.formats
                and want in backend.accepts
                and not registry.missing_modules(other)
            ):
                folder = scratch / "converted"
                folder.mkdir()
                return other.convert(source, want, folder)
    have, take = "/".join(source.formats), "/".join(backend.accepts)
    raise Unsupported(
        f"{backend.name} takes {take} models, and nothing here converts {have} to that"
    )
