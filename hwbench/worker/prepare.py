"""Compute what every environment will be fed: one pattern of a prepared perturbation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from hwbench.backend import Array, Artifact, Backend, Session
from hwbench.dataset import Dataset
from hwbench.errors import Unsupported
from hwbench.job import Job, PrepareWork
from hwbench.prepared import Prepared, save
from hwbench.scenario import PreparedPerturbation, Source
from hwbench.worker import perturb
from hwbench.worker.events import Events


def run(job: Job, work: PrepareWork, backend: Backend, events: Events) -> None:
    """Perturb every input that the layer may hit, and store them."""
    events.phase("prepare")
    layer = work.case.layers[work.layer]
    scenario = layer.scenario
    assert isinstance(scenario, PreparedPerturbation)
    missing = scenario.requires()
    if missing.status == "unsupported":
        raise Unsupported(missing.reason)
    source = _source(job, work, backend, events)
    key = perturb.key_of(work.case, work.layer, work.seed, work.pattern)
    found = {}
    for tensor in work.source.inputs:
        if layer.sites.keeps_name(tensor.name) and not scenario.refuses(tensor):
            array, achieved = scenario.prepare(source, tensor.name, key.child(tensor.name))
            clean = source.inputs[tensor.name]
            found[tensor.name] = Prepared(array.astype(clean.dtype), achieved)
    save(Path(work.folder), found)
    events.peak_rss()


def _source(job: Job, work: PrepareWork, backend: Backend, events: Events) -> Source:
    dataset = Dataset.open(Path(work.dataset))
    return Source(
        work.source,
        {name: np.array(each) for name, each in dataset.inputs.items()},
        dataset.labels,
        work.output,
        work.batch,
        partial(_open, job, work, backend) if work.artifact else None,
        lambda: events.phase("prepare"),
        partial(_shared, Path(work.folder).parents[1] / "shared" / job.model),
    )


def _shared(folder: Path, name: str, compute: Callable[[], Array]) -> Array:
    """What another severity needs, too, is computed once: jobs of a round run one by one."""
    path = folder / f"{name}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        with scratch.open("wb") as file:
            np.save(file, compute(), allow_pickle=False)
        scratch.rename(path)
    found: Array = np.load(path, allow_pickle=False)
    return found


def _open(job: Job, work: PrepareWork, backend: Backend) -> Session:
    artifact = Artifact.load(Path(work.artifact))
    return backend.open(replace(artifact, environment=job.environment))
