"""Prepared arrays on disk, and the batches that workers run. Lean, because workers import it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array


@dataclass(frozen=True)
class Batch:
    """One padded batch: ``samples`` are the dataset indices of its first, scored rows."""

    index: int
    feeds: Mapping[str, Array]
    samples: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Prepared arrays; the first dimension counts samples.

    Attributes:
        inputs: by model input name, as the model takes them.
        labels: class indices, int64, the targets of a regression, float64, or ``None``.
        calibration: like ``inputs``, or ``None``.
        digest: content hash over everything else.
        constants: inputs that are no samples, by name, as the model takes them: fed alike in every
            call; of an input with a state, what its first call gets.
        state: inputs that get an output of the call before, by the output's name.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    calibration: Mapping[str, Array] | None
    digest: str
    constants: Mapping[str, Array] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        # A model without inputs can be run once: its only sample.
        return int(next(iter(self.inputs.values())).shape[0]) if self.inputs else 1

    def n_batches(self, size: int) -> int:
        """Number of batches of ``size`` rows, the last one padded."""
        return -(-len(self) // size)

    def batch(self, index: int, size: int) -> Batch:
        """Batch ``index``; missing rows repeat the last sample and are not scored."""
        samples = np.arange(index * size, min((index + 1) * size, len(self)), dtype=np.int64)
        rows = np.minimum(np.arange(index * size, (index + 1) * size), len(self) - 1)
        feeds = {name: np.ascontiguousarray(each[rows]) for name, each in self.inputs.items()}
        return Batch(index, feeds, samples)

    def batches(self, size: int) -> Iterator[Batch]:
        """All batches in order."""
        return (self.batch(index, size) for index in range(self.n_batches(size)))

    def save(self, folder: Path) -> None:
        """Write into ``folder`` (created whole or not at all)."""
        if (folder / "dataset.json").exists():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        index: dict[str, Any] = {"digest": self.digest, "labels": self.labels is not None}
        index["state"] = dict(self.state)
        roles = {"inputs": self.inputs, "calibration": self.calibration or {}}
        for role, arrays in {**roles, "constants": self.constants}.items():
            index[role] = list(arrays)
            for position, array in enumerate(arrays.values()):
                np.save(scratch / f"{role}-{position}.npy", array, allow_pickle=False)
        if self.labels is not None:
            np.save(scratch / "labels.npy", self.labels, allow_pickle=False)
        (scratch / "dataset.json").write_text(json.dumps(index))
        try:
            os.rename(scratch, folder)
        except OSError:
            shutil.rmtree(scratch, ignore_errors=True)
            if not (folder / "dataset.json").exists():  # else another process was first
                raise

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Map what ``save`` wrote."""
        index = json.loads((folder / "dataset.json").read_text())

        def arrays(role: str) -> dict[str, Array]:
            return {
                name: np.load(folder / f"{role}-{i}.npy", mmap_mode="r", allow_pickle=False)
                for i, name in enumerate(index.get(role, []))
            }

        labels = np.load(folder / "labels.npy", allow_pickle=False) if index["labels"] else None
        calibration, constants = arrays("calibration") or None, arrays("constants")
        return cls(
            arrays("inputs"),
            labels,
            calibration,
            index["digest"],
            constants,
            index.get("state", {}),
        )
