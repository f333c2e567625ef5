"""A session with a pattern's faults in its stored tensors, proven to be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hwbench import edits
from hwbench.backend import Array, Artifact, Backend, Session, Site
from hwbench.case import Case
from hwbench.errors import Unsupported
from hwbench.scenario import SearchPerturbation
from hwbench.values import decode
from hwbench.worker import perturb, proof


@dataclass(frozen=True)
class Faulty:
    """An artifact with faults.

    Attributes:
        artifact: what is loaded.
        live: edits to apply to the loaded buffers, where the case asks for that.
        odd: columns of ``processes``: denormal and non-finite numbers in the tensors that were hit.
    """

    artifact: Artifact
    live: edits.Edits | None = None
    odd: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def opened(self, backend: Backend) -> Iterator[Session]:
        """A session with the faults in it."""
        session = backend.open(self.artifact)
        try:
            if self.live is not None:
                _strike(session, self.live)
            yield session
        finally:
            session.close()


def prepare(
    backend: Backend, artifact: Artifact, case: Case, seed: int, pattern: int, scratch: Path
) -> Faulty:
    """The artifact under one pattern of a case: the faults that the accuracy run draws.

    Args:
        backend: of the artifact.
        artifact: undamaged.
        case: its layers on stored tensors are carried out; others are not looked at.
        seed: of the spec.
        pattern: number of the draw.
        scratch: where corrupted artifacts go.

    Raises:
        Unsupported: a layer hits activations, or searches.
        RuntimeError: the edits did not land.
        ValueError: a live layer among several.
    """
    if perturb.layers(case, "activations"):
        raise Unsupported("faults in activations are replayed, so their latency means nothing")
    layers = perturb.layers(case, "weights")
    if not layers:
        return Faulty(artifact)
    if any(isinstance(case.layers[i].scenario, SearchPerturbation) for i in layers):
        raise Unsupported("a search has no patterns of its own to time")
    live = perturb.live(case) is not None
    sites = {site.name: site for site in backend.sites(artifact)}
    drawn, values = _drawn(backend, artifact, case, seed, pattern, list(sites.values()))
    names = sorted({name for each in drawn for name in each.touched()})
    odd = _odd(names, values, sites)
    if live:
        return Faulty(artifact, drawn[0], odd)
    for index, each in enumerate(drawn):
        if len(each):
            folder = scratch / str(index)
            folder.mkdir()
            artifact = backend.corrupt(artifact, each, folder)
    for name in names:  # one at a time, for they may be large
        proof.landed(name, values(name), backend.stored(artifact, name))
    return Faulty(artifact, None, odd)


def _drawn(
    backend: Backend, artifact: Artifact, case: Case, seed: int, pattern: int, sites: list[Site]
) -> tuple[list[edits.Edits], perturb.Read]:
    """The edits of every layer on stored tensors, and how to read tensors as they will be."""
    done: list[edits.Edits] = []

    def stored(name: str) -> Array:
        return backend.stored(artifact, name)

    for index in perturb.layers(case, "weights"):
        read = perturb.after(stored, done)
        # Faults that pass stay for as long as it is timed: those of the first inference.
        within = () if perturb.resident(case, index) else ("inference", 0)
        which = perturb.Which(seed, pattern, within)
        hit = perturb.chosen(case, index, sites)
        done = [*done, perturb.draw(case, index, hit, which, read)[0]]
    return done, perturb.after(stored, done)


def _strike(session: Session, drawn: edits.Edits) -> None:
    """Corrupt the loaded buffers, and read them back.

    Raises:
        RuntimeError: the edits did not land.
    """
    names = drawn.touched()
    wanted = {name: edits.apply(session.loaded(name), drawn.at_site(name)) for name in names}
    session.live(drawn)
    for name, array in wanted.items():
        proof.landed(name, array, session.loaded(name))


def _odd(names: Sequence[str], values: perturb.Read, sites: Mapping[str, Site]) -> dict[str, int]:
    """Numbers that some processors compute with slowly; integers have none."""
    found = {"stored_denormal": 0, "stored_nonfinite": 0}
    for name in names:
        dtype = sites[name].dtype
        if dtype != "bfloat16" and np.dtype(dtype).kind != "f":
            continue
        with np.errstate(invalid="ignore"):
            size = np.abs(decode(values(name), sites[name]))
        # bfloat16 has float32's exponents.
        tiny = float(np.finfo("float32" if dtype == "bfloat16" else dtype).tiny)
        found["stored_denormal"] += int(((size > 0) & (size < tiny)).sum())
        found["stored_nonfinite"] += int((~np.isfinite(size)).sum())
    return found
