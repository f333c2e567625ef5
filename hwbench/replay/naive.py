"""The naive route: a corrupted artifact in a folder, a fresh deployed session, the whole batch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench.backend import Array, Artifact, Backend, Feeds
from hwbench.edits import Edits


def golden(backend: Backend, artifact: Artifact, feeds: Feeds) -> dict[str, Array]:
    """Outputs of the deployed session."""
    session = backend.open(artifact)
    try:
        return session.run(feeds)
    finally:
        session.close()


def stored(backend: Backend, artifact: Artifact, feeds: Feeds, edits: Edits) -> dict[str, Array]:
    """Outputs with the edits, all of stored tensors, in the artifact's file."""
    if not len(edits):
        return golden(backend, artifact, feeds)
    with tempfile.TemporaryDirectory() as scratch:
        return golden(backend, backend.corrupt(artifact, edits, Path(scratch)), feeds)


@dataclass
class Whole:
    """The naive route, for a fault at a time: see ``hwbench.replay.gate.Route``."""

    naive: Callable[[Edits], dict[str, Array]]
    clean: dict[str, Array]

    def golden(self) -> dict[str, Array]:
        """Golden itself."""
        return self.clean

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """Outputs per pattern; golden where it has no edits."""
        return [self.naive(each) if len(each) else dict(self.clean) for each in patterns]
