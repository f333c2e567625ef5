"""The naive route: a corrupted artifact in a folder, a fresh deployed session, the whole batch."""

from __future__ import annotations

import tempfile
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
