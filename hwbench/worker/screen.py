"""One core (or GPU) computing the same again and again; what differs is told, never judged here."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwbench.backend import Array, Artifact, Backend, Feeds
from hwbench.dataset import Dataset
from hwbench.job import Job, ScreenWork
from hwbench.worker.events import Events

TELL_S = 0.5  # how often what was found is told
PAUSE_S = 0.02  # of the bursty load: long enough for clock and voltage to change


def run(job: Job, work: ScreenWork, backend: Backend, events: Events) -> None:
    """Infer for so long, data and load varied, and tell how often each output digest came."""
    events.phase("load")
    artifact = replace(Artifact.load(Path(work.artifact)), environment=job.environment)
    variants = _variants(Dataset.open(Path(work.dataset)), work)
    session = backend.open(artifact)
    events.phase("run")
    end, told, calls = time.monotonic() + work.duration_s, time.monotonic(), 0
    found: Counter[tuple[int, str]] = Counter()
    while calls < len(variants) or time.monotonic() < end:
        variant = calls % len(variants)
        outputs = session.run(variants[variant])
        if calls == work.plant:
            outputs = _flipped(outputs)
        found[variant, digest(outputs)] += 1
        calls += 1
        if time.monotonic() - told > TELL_S:
            told = _tell(events, found)
            time.sleep(PAUSE_S)
    _tell(events, found)
    session.close()


def _tell(events: Events, found: Counter[tuple[int, str]]) -> float:
    seen = [[variant, name, count] for (variant, name), count in found.items()]
    events.send("screen", found=seen)
    found.clear()
    return time.monotonic()


def digest(outputs: Mapping[str, Array]) -> str:
    """Hash over every byte of every output."""
    content = hashlib.blake2b(digest_size=16)
    for name, array in outputs.items():
        content.update(name.encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def _flipped(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs with the lowest bit of one byte flipped: what the detector is proven with."""
    name, array = next(iter(outputs.items()))
    changed = np.ascontiguousarray(array).copy()
    changed.reshape(-1).view(np.uint8)[0] ^= 1
    return {**outputs, name: changed}


def _variants(dataset: Dataset, work: ScreenWork) -> list[Feeds]:
    """Batches of the dataset, and as many with their values dealt anew: other operands."""
    count = min(work.variants, dataset.n_batches(work.batch))
    plain = [dict(dataset.batch(index, work.batch).feeds) for index in range(count)]
    rng = np.random.default_rng(work.seed)
    dealt = [
        {name: rng.permuted(array.reshape(-1)).reshape(array.shape) for name, array in each.items()}
        for each in plain
    ]
    return [*plain, *dealt]
