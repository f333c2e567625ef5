"""Build an artifact in a process of its own: quantising takes far more memory than running."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from hwbench import artifacts, registry
from hwbench.backend import Array, Artifact, Backend, Environment, ModelSource
from hwbench.dataset import Dataset
from hwbench.errors import RequestError, Unsupported
from hwbench.job import BuildWork, Job
from hwbench.manner import rows_of
from hwbench.worker.events import Events

NO_ROWS = "int8 needs calibration rows. Hint: add data.calibration (--calibration)"
NO_INPUTS = "nothing in the model is quantised, and without inputs it cannot be calibrated"
NO_STATES = (
    "int8 needs calibration, and that of a model with a state would need the states that its calls"
    " meet. Hint: quantise it beforehand; a quantised file is taken as it is"
)


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
        folder = scratch / "artifact"
        folder.mkdir()
        _build(backend, source, job.environment, dataset, folder).save()
        try:
            os.rename(folder, final)
        except OSError:
            if not final.exists():  # else a machine that does not share our locks was first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(
    backend: Backend, source: ModelSource, environment: Environment, dataset: Dataset, folder: Path
) -> Artifact:
    """The artifact; a model that is quantised already needs no calibration rows.

    Raises:
        Unsupported: it needs rows, and there are none.
    """
    calibration = None if dataset.state else _calibration(dataset)
    try:
        return backend.build(source, environment, calibration, folder)
    except RequestError as error:
        if calibration is not None or not environment.precision.startswith("int8"):
            raise
        why = NO_STATES if dataset.state else NO_ROWS if dataset.inputs else NO_INPUTS
        raise Unsupported(why) from error


def _calibration(dataset: Dataset) -> dict[str, Array] | None:
    """Rows by input; constants are the same in every row."""
    if dataset.calibration is None:
        return None
    rows = {name: np.array(each) for name, each in dataset.calibration.items()}
    count = rows_of(rows)
    constants = {
        name: np.broadcast_to(each, (count, *each.shape))
        for name, each in dataset.constants.items()
    }
    return {**rows, **constants}


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
        f"{backend.name} takes {take} models, and nothing here converts {have} to that."
        f" Hint: name its {take} form as a model of its own, or leave {backend.name} out"
    )
