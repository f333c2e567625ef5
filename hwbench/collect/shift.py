"""Other data beside the spec's: accuracy, calibration and confidence of two independent samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwbench import stats, vectors
from hwbench.collect.cell import CONFIDENCE, CellRows, interval
from hwbench.record import Row
from hwbench.seeds import Key


def outputs_of(run: Path, place: tuple[str, str], case: str | None) -> Path:
    """The file of unperturbed outputs, on the spec's data or on a case's."""
    return run / "golden" / f"{Key((*place, case) if case else place).hex()}.npz"


@dataclass(frozen=True)
class Side:
    """One set of samples; ``confidences`` are of those with finite outputs.

    ``confidences`` is ``None`` where the output has no class axis, ``correct`` without labels.
    """

    n_samples: int
    correct: npt.NDArray[np.int8] | None
    confidences: stats.Confidences | None


def side(path: Path, output: str | None, rows: CellRows) -> Side:
    """What an environment's stored outputs on one set of samples say."""
    with np.load(path, allow_pickle=False) as stored:
        names = [str(name) for name in stored["names"]]
        found = stored[f"output-{names.index(output) if output else 0}"]
    right = None if rows.correct is None else rows.correct[0]
    if found.ndim != 2 or found.shape[1] < 2:
        return Side(len(found), right, None)
    finite = np.isfinite(found).all(axis=1)
    logits = found[finite].astype(np.float64)
    probabilities = vectors.are_probabilities(logits)
    logs = vectors.log_probabilities(logits, probabilities=probabilities)
    known = None if right is None else right[finite]
    return Side(len(found), right, stats.Confidences(np.exp(logs.max(axis=1)), known))


def numbers(reference: Side, other: Side) -> Row:
    """The numbers of a row; what cannot be told says why."""
    counts = {"n_samples": other.n_samples, "n_reference": reference.n_samples}
    return counts | _accuracy(reference, other) | _confidence(reference, other)


def _accuracy(reference: Side, other: Side) -> Row:
    if reference.correct is None or other.correct is None:
        return interval("accuracy_shift", None, None, "no labels")
    hits, n = int(other.correct.sum()), other.correct.size
    known, m = int(reference.correct.sum()), reference.correct.size
    found = stats.newcombe_unpaired(hits, n, known, m, CONFIDENCE)
    return {
        "accuracy": hits / n,
        "accuracy_reference": known / m,
        **interval("accuracy_shift", hits / n - known / m, found),
    }


def _confidence(reference: Side, other: Side) -> Row:
    one, two = reference.confidences, other.confidences
    if one is None or two is None:
        why = "the output has no class axis"
        return interval("confidence_shift", None, None, why) | interval(
            "ece_shift", None, None, why
        )
    moved = stats.confidence_shift(one, two, CONFIDENCE)
    row = {
        "confidence": moved.second,
        "confidence_reference": moved.first,
        **interval("confidence_shift", moved.difference, moved.interval),
    }
    if one.correct is None or two.correct is None:
        return row | interval("ece_shift", None, None, "no labels")
    ece = stats.calibration_shift(one, two, vectors.BINS, CONFIDENCE)
    told = {"ece": ece.second, "ece_reference": ece.first}
    return row | told | interval("ece_shift", ece.difference, ece.interval)
