"""Scores: what a fault did to a sample, and sums that become metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hwbench import score
from hwbench.score import Outcome

GOLDEN = np.array([[1, 2, 3], [3, 2, 1], [0, 5, 0], [2, 2, 9]], np.float32)
LABELS = np.array([2, 0, 0, 2])
FLOATS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


def outcomes(outputs, golden=GOLDEN, *, classes=True, tolerance=0.05):
    return score.outcomes(
        {"y": outputs}, {"y": golden}, "y", classes=classes, tolerance=tolerance
    ).tolist()


def scored(outputs, reference=None, labels=LABELS, classes=True, tolerance=0.05):
    outcome = np.array(outcomes(outputs, classes=classes, tolerance=tolerance), np.uint8)
    return score.Scored(outputs, GOLDEN, reference, labels, outcome, tolerance, classes)


def values(*parts):
    return score.finish(np.sum([score.partials(part) for part in parts], axis=0))


def test_every_outcome():
    outputs = GOLDEN.copy()
    outputs[1] = [2.9, 2, 1]  # changed, decided alike
    outputs[2] = [6, 5, 0]  # decided otherwise
    outputs[3] = [2, np.inf, 9]
    expected = [Outcome.MASKED, Outcome.BENIGN, Outcome.SDC, Outcome.DUE]
    assert outcomes(outputs) == expected


def test_the_same_nan_is_masked_and_another_is_not():
    """Golden may hold NaN; what counts is whether the fault changed a byte."""
    golden = GOLDEN.copy()
    golden[0, 0] = np.nan
    assert outcomes(golden, golden)[0] == Outcome.MASKED
    other = golden.copy()
    other.view(np.uint32)[0, 0] ^= 1
    assert np.isnan(other[0, 0])
    assert outcomes(other, golden)[0] == Outcome.DUE


def test_a_negative_zero_is_a_change():
    outputs = GOLDEN.copy()
    outputs[2, 0] = -0.0
    assert outcomes(outputs)[2] == Outcome.BENIGN


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_broken_outputs_come_before_changed_decisions(broken):
    outputs = GOLDEN.copy()
    outputs[0] = [9, broken, 0]
    assert outcomes(outputs)[0] == Outcome.DUE


def test_every_output_counts_and_one_decides():
    outputs = {"y": GOLDEN.copy(), "z": GOLDEN.copy()}
    outputs["z"][0, 0] = 7
    outputs["z"][1, 0] = np.nan
    found = score.outcomes(outputs, {"y": GOLDEN, "z": GOLDEN}, "y", classes=True, tolerance=0)
    assert found.tolist() == [Outcome.BENIGN, Outcome.DUE, Outcome.MASKED, Outcome.MASKED]


def test_without_classes_the_tolerance_decides():
    """Golden spans 0 to 9: 5 % is 0.45."""
    outputs = GOLDEN.copy()
    outputs[0, 0] += 0.4
    outputs[1, 0] += 0.5
    assert outcomes(outputs, classes=False)[:2] == [Outcome.BENIGN, Outcome.SDC]


def test_any_place_of_a_sequence_can_change_the_decision():
    golden = np.zeros((2, 4, 3), np.float32)
    golden[:, :, 0] = 1
    outputs = golden.copy()
    outputs[1, 3] = [0, 1, 0]
    assert outcomes(outputs, golden) == [Outcome.MASKED, Outcome.SDC]


def test_integer_outputs():
    golden = np.array([[1], [2]])
    assert outcomes(np.array([[1], [3]]), golden, classes=False) == [Outcome.MASKED, Outcome.SDC]


def test_outputs_of_another_shape_or_type_are_no_outcome():
    with pytest.raises(ValueError, match="do not match"):
        outcomes(GOLDEN[:, :2])
    with pytest.raises(ValueError, match="do not match"):
        outcomes(GOLDEN.astype(np.float64))


def test_a_row_with_nan_is_never_right():
    outputs = GOLDEN.copy()
    outputs[0, 0] = np.nan
    found = score.correct(scored(outputs))
    assert found is not None and found.tolist() == [False, True, False, True]
    assert score.correct(scored(outputs, labels=None)) is None
    assert score.correct(scored(outputs, classes=False)) is None


def test_metrics():
    outputs = GOLDEN.copy()
    outputs[0] = [4, 2, 3]
    found = values(scored(outputs, reference=outputs))
    assert found["top1"] == 0.5
    assert found["agreement_golden"] == 0.75
    assert found["agreement_baseline"] == 1.0
    power = float((GOLDEN**2).sum())
    assert found["sqnr_golden_db"] == pytest.approx(10 * np.log10(power / 9))
    assert found["sqnr_baseline_db"] == float("inf")


def test_what_cannot_be_told_is_nan():
    found = values(scored(GOLDEN, reference=None, labels=None))
    assert np.isnan([found["top1"], found["agreement_baseline"], found["sqnr_baseline_db"]]).all()


def test_broken_rows_never_agree_and_have_no_noise_power():
    outputs = GOLDEN.copy()
    outputs[0, 2] = np.inf  # still the largest
    found = values(scored(outputs))
    assert found["agreement_golden"] == 0.75
    assert found["sqnr_golden_db"] == float("inf")


def test_partials_add_up():
    """Two batches give what one gives."""
    outputs = GOLDEN + np.random.default_rng(0).normal(size=GOLDEN.shape).astype(np.float32)
    whole = score.partials(scored(outputs, reference=GOLDEN))
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        outcome = np.zeros(len(outputs[rows]), np.uint8)
        each = score.Scored(
            outputs[rows], GOLDEN[rows], GOLDEN[rows], LABELS[rows], outcome, 0.05, True
        )
        parts.append(score.partials(each))
    np.testing.assert_allclose(np.sum(parts, axis=0), whole)


@given(FLOATS)
def test_any_output_is_scored_without_a_warning(outputs):
    golden = np.ones_like(outputs)
    for classes in (True, False):
        outcome = score.outcomes(
            {"y": outputs}, {"y": golden}, "y", classes=classes, tolerance=0.05
        )
        finite = np.isfinite(outputs).all(axis=1)
        assert ((outcome == Outcome.DUE) == ~finite).all()
        made = score.Scored(outputs, golden, golden, None, outcome, 0.05, classes)
        assert np.isfinite(score.partials(made)).all()
        assert score.finish(score.partials(made)).keys() == {m.name for m in score.METRICS}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=70))
def test_packing_is_undone_by_unpacking(given_outcomes):
    outcome = np.array(given_outcomes, np.uint8)
    packed = score.pack(outcome)
    assert len(packed) == -(-len(outcome) // 4)
    assert score.unpack(packed, len(outcome)).tolist() == given_outcomes


def test_the_first_sample_has_the_lowest_bits():
    assert score.pack(np.array([3, 0, 1, 2, 1], np.uint8)) == bytes([0b10_01_00_11, 1])


def test_tokens_count_one_by_one_and_rows_as_a_whole():
    """Labels below zero are not asked; a row is right where every token that is asked is."""
    outputs = np.eye(3)[[[0, 1, 2], [2, 2, 1], [0, 0, 0]]]
    labels = np.array([[0, 1, -100], [2, 1, 1], [-100, 0, 0]])
    outputs[2, 0, 0] = np.nan
    made = score.Scored(outputs, outputs, None, labels, np.zeros(3, np.uint8), 0.05, True)
    right = score.correct(made)
    assert right is not None and right.tolist() == [True, False, False]
    values = score.finish(score.partials(made))
    assert values["top1"] == pytest.approx(4 / 7)
    assert np.isnan(values["top5"]) and np.isnan(values["ece"])
    with pytest.raises(RuntimeError, match="samples, tokens, classes"):
        score.correct(replace(made, labels=labels[:, :2]))
