"""Run one trial again through a replayer that shows every tensor between operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwbench import edits, values
from hwbench.backend import Array, Artifact, Backend, Site
from hwbench.dataset import Batch, Dataset
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.job import Job, SpreadWork
from hwbench.replay.spread import reach
from hwbench.worker import perturb
from hwbench.worker.events import Events

MEMORY_MIB = 512.0  # of golden tensors that the replayer keeps


def run(job: Job, work: SpreadWork, backend: Backend, events: Events) -> None:
    """Tell an event ``spread`` for each activation.

    Raises:
        Unsupported: the runtime does not show what is between its operators.
    """
    events.phase("load")
    artifact = replace(Artifact.load(Path(work.artifact)), environment=job.environment)
    dataset = Dataset.open(Path(work.dataset))
    batch = dataset.batch(work.index, work.batch)
    stored, inputs = _stored(work, backend, artifact), _inputs(work, dataset, batch)
    hit = edits.join([*stored, *inputs, *_activations(work, batch)])
    replayer = backend.replayer(artifact, batch.feeds, MEMORY_MIB)
    events.phase("run")
    for site, golden, faulty in replayer.spread(hit):
        pair = (_scored(each, work.batch, len(batch.samples)) for each in (golden, faulty))
        events.send("spread", **asdict(reach(site, *pair)))
    replayer.close()


def _scored(tensor: Array, size: int, rows: int) -> Array:
    """Without the rows that pad the batch, where the tensor has rows."""
    return tensor[:rows] if tensor.ndim and len(tensor) == size else tensor


def _stored(work: SpreadWork, backend: Backend, artifact: Artifact) -> list[Edits]:
    """The edits of stored tensors, one list entry a layer or, of several layers, what they make."""
    layers = perturb.layers(work.case, "weights")
    if not layers:
        return []

    def read(name: str) -> Array:
        return backend.stored(artifact, name)

    found: list[Edits] = []
    for index in layers:
        if work.faults is not None:
            found.append(from_rows([row for row in work.faults if row["layer"] == index]))
        else:
            sites = perturb.chosen(work.case, index, backend.sites(artifact))
            found.append(_drawn(work, index, sites, perturb.after(read, found)))
    return found if len(layers) == 1 else _net(found, read)


def _drawn(work: SpreadWork, index: int, sites: Sequence[Site], read: perturb.Read) -> Edits:
    """What the record's worker drew for this inference."""
    stay = perturb.resident(work.case, index)
    which = perturb.Which(work.seed, work.pattern, () if stay else ("inference", work.index))
    return perturb.draw(work.case, index, sites, which, read)[0]


def _activations(work: SpreadWork, batch: Batch) -> list[Edits]:
    """Faults in tensors between operators, in rows of the batch instead of dataset samples.

    Raises:
        Unsupported: they are too many to be told.
    """
    if not perturb.layers(work.case, "activations"):
        return []
    if work.faults is None:
        raise Unsupported("the faults of this record are too many to be followed")
    row = [int(np.searchsorted(batch.samples, each["row"])) for each in work.faults]
    return [replace(from_rows(work.faults), row=np.array(row, dtype=np.int64))]


def _net(found: Sequence[Edits], read: perturb.Read) -> list[Edits]:
    """Layer after layer as one write: edits at once would not keep the order."""
    names = tuple(dict.fromkeys(name for each in found for name in each.touched()))
    after = perturb.after(read, found)
    return [
        values.rewrite(read(name), after(name), names, place) for place, name in enumerate(names)
    ]


def _inputs(work: SpreadWork, dataset: Dataset, batch: Batch) -> list[Edits]:
    """Perturbed inputs as writes into rows of the batch."""
    if not perturb.layers(work.case, "inputs"):
        return []

    fit = perturb.fitting(dataset)
    made = perturb.perturb_inputs(work.case, batch, work.seed, work.pattern, fit)
    names = tuple(batch.feeds)
    return [
        written(batch.feeds[name], made.feeds[name], names, place)
        for place, name in enumerate(names)
    ]


def written(before: Array, after: Array, names: tuple[str, ...], place: int) -> Edits:
    """Writes of what differs between two batches of tensor ``place``, each with its row."""
    found = values.rewrite(before, after, names, place)
    size = before[0].size
    return replace(found, row=found.element // size, element=found.element % size)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> Edits:
    """Edits from rows of ``faults``."""
    held = list(rows)
    names = tuple(dict.fromkeys(row["site"] for row in held))
    return edits.make(
        names,
        [names.index(row["site"]) for row in held],
        np.array([row["element"] for row in held], dtype=np.int64),
        np.array([int(row["mask"], 16) for row in held], dtype=np.uint64),
        np.array([edits.Op[row["op"].upper()] for row in held], dtype=np.uint8),
    )
