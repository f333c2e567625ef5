"""Inputs that were perturbed beforehand, on disk. Lean, because workers import it.

A case's layer carries the folder of its perturbation; in it there is one folder per pattern, with
each perturbed input whole. Every environment reads the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array
from hwbench.case import Case, Layer
from hwbench.scenario import PreparedPerturbation
from hwbench.seeds import canonical


@dataclass(frozen=True)
class Prepared:
    """One input of the whole dataset: its new values, and the severity achieved per sample."""

    array: Array
    achieved: npt.NDArray[np.float64]


def folder_of(root: Path, model: str, layer: Layer, index: int, seed: int) -> Path:
    """Where a layer's patterns lie: by all that decides what comes out, but the model's bytes."""
    made_of = {
        "model": model,
        "scenario": {"name": layer.scenario.name, **asdict(layer.scenario)},
        "sites": asdict(layer.sites),
        "layer": index,
        "seed": seed,
    }
    return root / hashlib.sha256(canonical(made_of).encode()).hexdigest()[:24]


def located(case: Case, root: Path, model: str, seed: int) -> Case:
    """The case with its prepared layers knowing their folders."""
    layers = tuple(
        replace(layer, prepared=str(folder_of(root, model, layer, index, seed)))
        if isinstance(layer.scenario, PreparedPerturbation)
        else layer
        for index, layer in enumerate(case.layers)
    )
    return replace(case, layers=layers)


def save(folder: Path, found: Mapping[str, Prepared]) -> None:
    """Write one pattern's inputs into ``folder``, which appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    for position, each in enumerate(found.values()):
        np.save(scratch / f"array-{position}.npy", each.array, allow_pickle=False)
        np.save(scratch / f"achieved-{position}.npy", each.achieved, allow_pickle=False)
    (scratch / "inputs.json").write_text(json.dumps(list(found)))
    try:
        os.rename(scratch, folder)
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        if not folder.exists():  # else another process was first
            raise


def load(folder: Path) -> dict[str, Prepared]:
    """Map what ``save`` wrote."""
    names: list[str] = json.loads((folder / "inputs.json").read_text())
    return {
        name: Prepared(
            np.load(folder / f"array-{position}.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / f"achieved-{position}.npy", allow_pickle=False),
        )
        for position, name in enumerate(names)
    }
