"""What metrics add up, over plain arrays: each function gives one batch's additive vector.

Rows that hold NaN or Inf give no probability and no distance: they are left out of calibration,
divergence and cosine, and count as wrong in what counts decisions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]

BINS = 15  # of calibration: Guo et al., "On calibration of modern neural networks", ICML 2017
MOST_CLASSES = 32  # that macro-F1 counts: the vector is stored with every record
_TINY = 1e-300  # a probability of 0 has no logarithm


def are_probabilities(rows: Matrix) -> bool:
    """Whether a classifier's output already went through a softmax."""
    if not rows.size or not np.isfinite(rows).all():
        return False
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1.0, atol=1e-3))


def log_probabilities(rows: Matrix, *, probabilities: bool) -> Matrix:
    """Logarithms of class probabilities: of the softmax of logits, or of what they are already."""
    if probabilities:
        # A fault behind the softmax leaves numbers that are none: what is negative counts as 0.
        shares = np.maximum(rows, 0.0) / np.maximum(rows.max(axis=1, keepdims=True), _TINY)
        total = np.maximum(shares.sum(axis=1, keepdims=True), _TINY)
        return np.asarray(np.log(np.maximum(shares / total, _TINY)))
    shifted = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def top_k(rows: Matrix, labels: Labels, finite: Mask, k: int) -> Vector:
    """Rows whose label is among the ``k`` largest outputs, and rows; zeros for ``k`` classes."""
    if rows.shape[1] <= k:
        return np.zeros(2)
    best = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    hit = (best == labels[:, None]).any(axis=1) & finite
    return np.array([hit.sum(), len(rows)], dtype=np.float64)


def decisions_lost(rows: Matrix, golden: Matrix, finite: Mask, k: int) -> Vector:
    """Finite rows without golden's decision among the ``k`` largest outputs, and all rows.

    Zeros for up to ``k`` classes, where nothing can be lost.
    """
    kept, total = top_k(rows, golden.argmax(axis=1).astype(np.int64), finite, k)
    return np.array([finite.sum() - kept, total]) if total else np.zeros(2)


def confidence_moved(logs: Matrix, golden: Matrix, share: float, rows: int) -> Vector:
    """Rows in which the probability of golden's decision moved by more than ``share`` of itself.

    Args:
        logs: log probabilities of the finite rows.
        golden: golden's log probabilities of the same rows.
        share: relative change that still counts as none.
        rows: number of all rows, finite or not.
    """
    decided = golden.argmax(axis=1)[:, None]
    now, before = (np.take_along_axis(each, decided, axis=1)[:, 0] for each in (logs, golden))
    return np.array([(np.abs(np.expm1(now - before)) > share).sum(), rows], dtype=np.float64)


def calibration(logs: Matrix, labels: Labels) -> Vector:
    """Per bin of confidence: rows, summed confidence, rows classified rightly; 3 x BINS."""
    confidence = np.exp(logs.max(axis=1))
    right = (logs.argmax(axis=1) == labels).astype(np.float64)
    # Bins are open below and closed above, (0, 1/15], ... as published.
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    sums = [np.bincount(place, each, BINS) for each in (np.ones_like(right), confidence, right)]
    return np.concatenate(sums)


def expected_calibration_error(total: Vector) -> float:
    """ECE: the mean over rows of how far their bin's accuracy is from its confidence."""
    rows, confidence, right = total.reshape(3, BINS)
    if not rows.sum():
        return float("nan")
    return float(np.abs(right - confidence).sum() / rows.sum())


def confusion(decided: Labels, labels: Labels, finite: Mask, classes: int) -> Vector:
    """Per class: rows rightly so, rows decided so, rows labelled so; zeros beyond MOST_CLASSES."""
    if classes > MOST_CLASSES:
        return np.zeros(3 * MOST_CLASSES)
    right = labels[(decided == labels) & finite]
    parts = [np.bincount(each, minlength=MOST_CLASSES) for each in (right, decided[finite], labels)]
    return np.concatenate(parts).astype(np.float64)


def macro_f1(total: Vector) -> float:
    """The mean F1 over classes that were labelled or decided at all."""
    right, decided, labelled = total.reshape(3, MOST_CLASSES)
    seen = decided + labelled
    if not seen.sum():
        return float("nan")
    return float(np.mean(2 * right[seen > 0] / seen[seen > 0]))


def divergence(reference: Matrix, logs: Matrix) -> Vector:
    """Summed Kullback-Leibler divergence of ``logs`` from ``reference`` (both logarithms), rows."""
    each = (np.exp(reference) * (reference - logs)).sum(axis=1)
    return np.array([np.maximum(each, 0.0).sum(), len(each)])


def cosines(rows: Matrix, reference: Matrix) -> Vector:
    """Summed cosine similarity, and rows with a direction on both sides."""
    # Scaled by the largest element first: squares of near-largest floats would overflow.
    sides = [each / np.maximum(np.abs(each).max(axis=1, keepdims=True), _TINY)
             for each in (rows, reference)]  # fmt: skip
    norms = np.sqrt(np.square(sides[0]).sum(axis=1) * np.square(sides[1]).sum(axis=1))
    kept = norms > 0
    dots = (sides[0] * sides[1]).sum(axis=1)[kept] / norms[kept]
    return np.array([dots.sum(), kept.sum()])


def absolute_errors(rows: Matrix, wanted: Matrix) -> Vector:
    """Summed absolute error, and elements."""
    return np.array([np.abs(rows - wanted).sum(), float(rows.size)])


def squares(values: Vector, wanted: Vector) -> Vector:
    """What R2 needs: elements, summed targets, their squares, squared errors."""
    error = np.square(values - wanted).sum()
    return np.array([values.size, wanted.sum(), np.square(wanted).sum(), error], dtype=np.float64)


def determination(total: Vector) -> float:
    """R2: 1 - squared errors / squared deviations of the targets from their mean."""
    n, summed, squared, error = total
    spread = squared - summed**2 / n if n else 0.0
    return float(1 - error / spread) if spread > 0 else float("nan")
