"""Batches to the calls that a model takes, and back to one row a sample. Lean: workers import it.

Workers speak of batches. Where a model takes them in some other way (see ``hwbench.manner``), its
session makes as many calls as a batch needs, and joins what they return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from hwbench.backend import (
    Actual,
    Array,
    Artifact,
    Backend,
    Environment,
    Feeds,
    ModelSource,
    Probe,
    Replayer,
    Session,
    Site,
)
from hwbench.dataset import Dataset
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.manner import Manner, manner
from hwbench.replay.called import CalledReplayer

STATEFUL = "a state is carried from call to call, so no call can be repeated by itself"
CONSTANT = "an input is fed the same numbers in every call, so rows cannot be run by themselves"


def calling(backend: Backend, dataset: Path) -> Backend:
    """The adapter, its sessions taking whole batches of a prepared dataset."""
    return _Calling(backend, Dataset.open(dataset))


class _Calling(Backend):
    """An adapter for workers, which neither choose nor build: what is not wrapped is handed on."""

    name: ClassVar[str] = "calling"
    accepts: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inner: Backend, dataset: Dataset) -> None:
        self._inner = inner
        self._dataset = dataset

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        return self._inner.probe()

    def build(
        self,
        model: ModelSource,
        environment: Environment,
        calibration: Feeds | None,
        folder: Path,
    ) -> Artifact:
        """See ``Backend.build``."""
        raise NotImplementedError("artifacts are built without a wrapper")

    def sites(self, artifact: Artifact) -> Sequence[Site]:
        """See ``Backend.sites``."""
        return self._inner.sites(artifact)

    def corrupt(self, artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
        """See ``Backend.corrupt``."""
        return self._inner.corrupt(artifact, edits, folder)

    def stored(self, artifact: Artifact, name: str) -> Array:
        """See ``Backend.stored``."""
        return self._inner.stored(artifact, name)

    def open(self, artifact: Artifact) -> Session:
        """See ``Backend.open``."""
        session = self._inner.open(artifact)
        how = manner(self._dataset, session.inputs)
        return session if how.plain else _CallingSession(session, how)

    def replayer(self, artifact: Artifact, feeds: Feeds, memory_mib: float) -> Replayer:
        """See ``Backend.replayer``."""
        how = manner(self._dataset, artifact.inputs)
        if how.plain:
            return self._inner.replayer(artifact, feeds, memory_mib)
        if how.state:
            raise Unsupported(STATEFUL)
        if how.constants:
            raise Unsupported(CONSTANT)
        return CalledReplayer(
            lambda call: self._inner.replayer(artifact, call, memory_mib), feeds, how
        )

    def gradients(
        self,
        artifact: Artifact,
        feeds: Feeds,
        output: str,
        targets: npt.NDArray[np.int64],
        *,
        probabilities: bool,
    ) -> dict[str, Array]:
        """See ``Backend.gradients``."""
        if not manner(self._dataset, artifact.inputs).plain:
            raise Unsupported("gradients are taken of models that take a batch in one call")
        return self._inner.gradients(artifact, feeds, output, targets, probabilities=probabilities)


class _CallingSession(Session):
    """A session that takes a batch by as many calls as it needs."""

    def __init__(self, inner: Session, how: Manner) -> None:
        self.inputs = inner.inputs
        self.outputs = inner.outputs
        self._inner = inner
        self._how = how

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See ``Session.run``; a batch is one sequence where a state is carried."""
        carried = dict(self._how.constants)
        parts: list[Mapping[str, Array]] = []
        for call in self._how.split(feeds):
            made = self._inner.run({**carried, **call})
            carried.update({name: made[output] for name, output in self._how.state.items()})
            parts.append(made)
        return self._how.joined(parts)

    @property
    def actual(self) -> Actual:
        """See ``Session.actual``."""
        return self._inner.actual

    def live(self, edits: Edits) -> None:
        """See ``Session.live``."""
        self._inner.live(edits)

    def loaded(self, name: str) -> Array:
        """See ``Session.loaded``."""
        return self._inner.loaded(name)

    def close(self) -> None:
        """See ``Session.close``."""
        self._inner.close()
