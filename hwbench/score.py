"""Outputs to outcomes and metric partials. Pure NumPy; the same for every runtime.

To add a metric, add an entry to ``METRICS``: a function giving an additive vector for one batch,
and one that turns the sum of these vectors into the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from hwbench import vectors
from hwbench.backend import Array

Vector = npt.NDArray[np.float64]


class Outcome(IntEnum):
    """What a fault did to one sample, in order of precedence: masked, due, sdc, benign."""

    MASKED = 0  # every output byte equals golden
    BENIGN = 1  # outputs differ, the decision does not
    SDC = 2  # silent data corruption: the decision differs
    DUE = 3  # detected unrecoverable error: NaN or Inf in an output


@dataclass(frozen=True)
class Scored:
    """One batch: outputs of the scored rows beside what they are compared with.

    Attributes:
        outputs: of the task's output, shape (rows, ...).
        golden: the same cell unperturbed.
        reference: the baseline environment unperturbed, or ``None``.
        labels: class indices, the targets of a regression, or ``None``.
        outcome: an ``Outcome`` per row, uint8.
        tolerance: for tasks without classes, the share of golden's range that is no change.
        classes: whether the decision is the argmax.
    """

    outputs: Array
    golden: Array
    reference: Array | None
    labels: Array | None
    outcome: npt.NDArray[np.uint8]
    tolerance: float
    classes: bool

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """Rows without NaN or Inf."""
        return _finite_rows(self.outputs)


def _rows(array: Array) -> Array:
    return array.reshape(len(array), -1)


def _finite_rows(array: Array) -> npt.NDArray[np.bool_]:
    if array.dtype.kind != "f":
        return np.ones(len(array), dtype=np.bool_)
    return np.asarray(np.isfinite(_rows(array)).all(axis=1))


def same_bytes(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Rows whose bytes are equal: NaN equals the same NaN, 0.0 differs from -0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        raise ValueError(f"outputs {a.dtype}{a.shape} and golden {b.dtype}{b.shape} do not match")
    left, right = (np.ascontiguousarray(_rows(each)).view(np.uint8) for each in (a, b))
    return np.asarray((left == right).all(axis=1))


def same_decision(a: Array, b: Array, *, classes: bool, tolerance: float) -> npt.NDArray[np.bool_]:
    """Rows on which two outputs decide alike: argmax of the last axis, or within tolerance."""
    if classes:
        left, right = (_rows(each.argmax(axis=-1)[..., None]) for each in (a, b))
        return np.asarray((left == right).all(axis=1))
    left, right = _rows(a).astype(np.float64), _rows(b).astype(np.float64)
    span = np.ptp(right[np.isfinite(right)]) if np.isfinite(right).any() else 0.0
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(left - right) <= tolerance * span).all(axis=1))


def outcomes(
    outputs: Mapping[str, Array],
    golden: Mapping[str, Array],
    output: str,
    *,
    classes: bool,
    tolerance: float,
) -> npt.NDArray[np.uint8]:
    """The outcome of every row, over all outputs; the decision is that of ``output``."""
    n_rows = len(outputs[output])
    masked = np.ones(n_rows, dtype=np.bool_)
    finite = np.ones(n_rows, dtype=np.bool_)
    for name, array in outputs.items():
        masked &= same_bytes(array, golden[name])
        finite &= _finite_rows(array)
    with np.errstate(invalid="ignore"):
        same = same_decision(outputs[output], golden[output], classes=classes, tolerance=tolerance)
    result = np.where(same, Outcome.BENIGN, Outcome.SDC).astype(np.uint8)
    result[~finite] = Outcome.DUE
    result[masked] = Outcome.MASKED
    return result


def correct(scored: Scored) -> npt.NDArray[np.bool_] | None:
    """Rows classified rightly; a row with NaN or Inf never is. ``None`` without labels.

    Of classes of tokens, rows in which every token that has a label is classified rightly.
    """
    if scored.labels is None or not scored.classes:
        return None
    if scored.labels.ndim == 2:
        right = _tokens_right(scored, scored.labels) | (scored.labels < 0)
        return np.asarray(right.all(axis=1) & scored.finite)
    decided = _rows(scored.outputs).argmax(axis=1)
    return np.asarray((decided == scored.labels) & scored.finite)


def _tokens_right(scored: Scored, labels: Array) -> npt.NDArray[np.bool_]:
    """Tokens classified rightly, shape (rows, tokens).

    Raises:
        RuntimeError: the output has not a class axis for each token that has a label.
    """
    decided = scored.outputs.argmax(axis=-1)
    if decided.shape != labels.shape:
        raise RuntimeError(
            f"labels of tokens have shape {labels.shape}, decisions {decided.shape}: the output of"
            " a token classification is (samples, tokens, classes)"
        )
    return np.asarray(decided == labels)


@dataclass(frozen=True)
class Metric:
    """An additive metric: ``partial`` per batch, summed, then ``finish``.

    Attributes:
        name: column name, with its unit.
        width: length of the partial vector.
        help: definition, for the docs.
    """

    name: str
    width: int
    partial: Callable[[Scored], Vector]
    finish: Callable[[Vector], float]
    help: str


def _share(total: Vector) -> float:
    return float(total[0] / total[1]) if total[1] else float("nan")


def _top1(scored: Scored) -> Vector:
    if scored.labels is not None and scored.labels.ndim == 2 and scored.classes:
        asked = scored.labels >= 0
        hits = _tokens_right(scored, scored.labels) & scored.finite[:, np.newaxis] & asked
        return np.array([hits.sum(), asked.sum()], dtype=np.float64)
    right = correct(scored)
    return np.zeros(2) if right is None else np.array([right.sum(), len(right)], dtype=np.float64)


def _agreement(scored: Scored, other: Array | None) -> Vector:
    if other is None:
        return np.zeros(2)
    same = same_decision(scored.outputs, other, classes=scored.classes, tolerance=scored.tolerance)
    return np.array([(same & scored.finite).sum(), len(same)], dtype=np.float64)


def _powers(scored: Scored, other: Array | None) -> Vector:
    """Power of the signal and of the difference, over rows that are finite on both sides."""
    if other is None:
        return np.zeros(2)
    kept = scored.finite & _finite_rows(other)
    signal = _rows(other)[kept].astype(np.float64)
    error = _rows(scored.outputs)[kept].astype(np.float64) - signal
    return np.array([np.square(signal).sum(), np.square(error).sum()])


def _decibel(total: Vector) -> float:
    if not total[0]:
        return float("nan")
    return float(10 * np.log10(total[0] / total[1])) if total[1] else float("inf")


def _logits(scored: Scored, rows: npt.NDArray[np.bool_]) -> vectors.Matrix | None:
    """Outputs of some rows as rows x classes; ``None`` where there is not one class axis."""
    flat = _rows(scored.outputs)
    tokens = scored.labels is not None and scored.labels.ndim == 2
    if (
        tokens
        or not scored.classes
        or flat.shape[1] < 2
        or flat.shape[1] != scored.outputs.shape[-1]
    ):
        return None
    return flat[rows].astype(np.float64)


def _top5(scored: Scored) -> Vector:
    rows = _logits(scored, np.ones(len(scored.outputs), dtype=np.bool_))
    if rows is None or scored.labels is None:
        return np.zeros(2)
    return vectors.top_k(rows, scored.labels, scored.finite, 5)


def _logs(scored: Scored, other: Array, rows: npt.NDArray[np.bool_]) -> vectors.Matrix:
    """Log probabilities of some rows of ``other``; golden tells whether they are logits."""
    probabilities = vectors.are_probabilities(_rows(scored.golden).astype(np.float64))
    values = _rows(other)[rows].astype(np.float64)
    return vectors.log_probabilities(values, probabilities=probabilities)


def _calibration(scored: Scored) -> Vector:
    finite = scored.finite
    if scored.labels is None or _logits(scored, finite) is None:
        return np.zeros(3 * vectors.BINS)
    return vectors.calibration(_logs(scored, scored.outputs, finite), scored.labels[finite])


def _confusion(scored: Scored) -> Vector:
    rows = _logits(scored, np.ones(len(scored.outputs), dtype=np.bool_))
    if rows is None or scored.labels is None:
        return np.zeros(3 * vectors.MOST_CLASSES)
    return vectors.confusion(rows.argmax(axis=1), scored.labels, scored.finite, rows.shape[1])


def _kl(scored: Scored, other: Array | None) -> Vector:
    if other is None:
        return np.zeros(2)
    both = scored.finite & _finite_rows(other)
    if _logits(scored, both) is None:
        return np.zeros(2)
    return vectors.divergence(_logs(scored, other, both), _logs(scored, scored.outputs, both))


def _pair(scored: Scored, other: Array) -> tuple[vectors.Matrix, vectors.Matrix]:
    """Rows that are finite on both sides."""
    both = scored.finite & _finite_rows(other)
    return _rows(scored.outputs)[both].astype(np.float64), _rows(other)[both].astype(np.float64)


def _cosine(scored: Scored, other: Array | None) -> Vector:
    return np.zeros(2) if other is None else vectors.cosines(*_pair(scored, other))


def _churn(scored: Scored, other: Array | None) -> Vector:
    agreed, rows = _agreement(scored, other)
    return np.array([rows - agreed, rows])


def _targets(scored: Scored) -> tuple[Vector, Vector] | None:
    """Finite values and their targets, where the task is regression with one value a row."""
    flat = _rows(scored.outputs)
    one = scored.labels is not None and scored.labels.ndim == 1 and flat.shape[1] == 1
    if scored.classes or scored.labels is None or not one:
        return None
    finite = scored.finite
    return flat[finite, 0].astype(np.float64), scored.labels[finite].astype(np.float64)


def _absolute(scored: Scored) -> Vector:
    found = _targets(scored)
    return np.zeros(2) if found is None else vectors.absolute_errors(*found)


def _squares(scored: Scored) -> Vector:
    found = _targets(scored)
    return np.zeros(4) if found is None else vectors.squares(*found)


def _lost(scored: Scored, k: int) -> Vector:
    rows = _logits(scored, np.ones(len(scored.outputs), dtype=np.bool_))
    if rows is None:
        return np.zeros(2)
    golden = _rows(scored.golden).astype(np.float64)
    return vectors.decisions_lost(rows, golden, scored.finite, k)


def _moved(scored: Scored, share: float) -> Vector:
    both = scored.finite & _finite_rows(scored.golden)
    if _logits(scored, both) is None:
        return np.zeros(2)
    now, golden = (_logs(scored, each, both) for each in (scored.outputs, scored.golden))
    return vectors.confidence_moved(now, golden, share, len(scored.outputs))


# Graded silent data corruption, after Li et al., "Understanding error propagation in deep learning
# neural network accelerators and applications", SC 2017. Ours are silent to the letter: a row with
# NaN or Inf is detected, so it counts in none of them but stays in the denominator.
SILENT = ("sdc_1", "sdc_5", "sdc_10pct", "sdc_20pct")

METRICS = (
    Metric(
        "top1",
        2,
        _top1,
        _share,
        "share of samples classified rightly, or of tokens that have labels; NaN is wrong",
    ),
    Metric(
        "agreement_golden",
        2,
        lambda s: _agreement(s, s.golden),
        _share,
        "share of decisions equal to the same environment's, unperturbed",
    ),
    Metric(
        "agreement_baseline",
        2,
        lambda s: _agreement(s, s.reference),
        _share,
        "share of decisions equal to the baseline environment's, unperturbed",
    ),
    Metric(
        "sqnr_golden_db",
        2,
        lambda s: _powers(s, s.golden),
        _decibel,
        "10 log10 of the power of golden's outputs to that of the difference; finite rows only",
    ),
    Metric(
        "sqnr_baseline_db",
        2,
        lambda s: _powers(s, s.reference),
        _decibel,
        "the same against the baseline environment's outputs, unperturbed",
    ),
    Metric("top5", 2, _top5, _share, "share of samples whose label is among the 5 largest outputs"),
    Metric(
        "ece",
        3 * vectors.BINS,
        _calibration,
        vectors.expected_calibration_error,
        "expected calibration error: confidence against accuracy in 15 bins; finite rows only",
    ),
    Metric(
        "macro_f1",
        3 * vectors.MOST_CLASSES,
        _confusion,
        vectors.macro_f1,
        "mean F1 over classes; not told beyond 32 of them",
    ),
    Metric(
        "kl_golden_nats",
        2,
        lambda s: _kl(s, s.golden),
        _share,
        "mean divergence of the softmax from golden's; finite rows only",
    ),
    Metric(
        "kl_baseline_nats",
        2,
        lambda s: _kl(s, s.reference),
        _share,
        "the same from the baseline environment's, unperturbed",
    ),
    Metric(
        "cosine_golden",
        2,
        lambda s: _cosine(s, s.golden),
        _share,
        "mean cosine similarity of outputs to golden's; finite rows only",
    ),
    Metric(
        "cosine_baseline",
        2,
        lambda s: _cosine(s, s.reference),
        _share,
        "the same to the baseline environment's, unperturbed",
    ),
    Metric(
        "churn_golden",
        2,
        lambda s: _churn(s, s.golden),
        _share,
        "share of decisions that differ from golden's: 1 - agreement",
    ),
    Metric(
        "churn_baseline",
        2,
        lambda s: _churn(s, s.reference),
        _share,
        "share of decisions that differ from the baseline environment's, unperturbed",
    ),
    Metric(
        "mae",
        2,
        _absolute,
        _share,
        "mean absolute error of a regression with one value a sample; finite rows only",
    ),
    Metric("r2", 4, _squares, vectors.determination, "coefficient of determination; as mae"),
    Metric(
        "mae_golden",
        2,
        lambda s: vectors.absolute_errors(*_pair(s, s.golden)),
        _share,
        "mean absolute difference of outputs from golden's; finite rows only",
    ),
    Metric(
        "sdc_1",
        2,
        lambda s: _lost(s, 1),
        _share,
        "SDC-1: share of samples with finite outputs whose top-1 is not golden's",
    ),
    Metric(
        "sdc_5",
        2,
        lambda s: _lost(s, 5),
        _share,
        "SDC-5: the same, golden's top-1 not among the 5 largest; not told for up to 5 classes",
    ),
    Metric(
        "sdc_10pct",
        2,
        lambda s: _moved(s, 0.1),
        _share,
        "SDC-10 %: share of samples with finite outputs in which the confidence (softmax) of"
        " golden's top-1 moved by more than 10 % of itself",
    ),
    Metric(
        "sdc_20pct", 2, lambda s: _moved(s, 0.2), _share, "SDC-20 %: the same, by more than 20 %"
    ),
)


def partials(scored: Scored) -> Vector:
    """All metrics' partial vectors of one batch, joined in the order of ``METRICS``."""
    with np.errstate(over="ignore"):  # corrupted float32 outputs may be near the largest float
        return np.concatenate([metric.partial(scored) for metric in METRICS])


def packed(vector: Vector) -> bytes:
    """A vector as records store it: little-endian float64."""
    return vector.astype("<f8").tobytes()


def finish(total: Vector) -> dict[str, float]:
    """Metric values from the sum of ``partials``."""
    values, start = {}, 0
    for metric in METRICS:
        values[metric.name] = metric.finish(total[start : start + metric.width])
        start += metric.width
    return values


def pack(outcome: npt.NDArray[np.uint8]) -> bytes:
    """Outcomes in dataset order, four to a byte, first sample in the lowest bits."""
    padded = np.zeros(-(-len(outcome) // 4) * 4, dtype=np.uint8)
    padded[: len(outcome)] = outcome
    quads = padded.reshape(-1, 4) << np.array([0, 2, 4, 6], dtype=np.uint8)
    return bytes(np.bitwise_or.reduce(quads, axis=1).astype(np.uint8).tobytes())


def unpack(packed: bytes, n: int) -> npt.NDArray[np.uint8]:
    """The inverse of ``pack``."""
    quads = np.frombuffer(packed, dtype=np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8)
    return (quads & 3).reshape(-1)[:n].astype(np.uint8)
