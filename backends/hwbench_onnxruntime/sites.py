"""The tensors an artifact stores, and the naive route that corrupts them in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hwbench import onnxbytes, onnxfile
from hwbench.backend import Array, Artifact, Site
from hwbench.edits import Edits


def path_of(artifact: Artifact) -> Path:
    """The artifact's ONNX file."""
    return artifact.folder / str(artifact.meta["file"])


def sites(artifact: Artifact) -> Sequence[Site]:
    """See ``Backend.sites``."""
    return onnxfile.sites(onnxbytes.skeleton(path_of(artifact)))


def stored(artifact: Artifact, name: str) -> Array:
    """See ``Backend.stored``."""
    return onnxbytes.stored(path_of(artifact), name)


def corrupt(artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
    """See ``Backend.corrupt``."""
    result = replace(artifact, folder=folder)
    onnxbytes.corrupt(path_of(artifact), path_of(result), edits)
    return result
