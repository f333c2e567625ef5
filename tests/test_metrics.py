"""Metrics against scikit-learn and SciPy, in one batch or many; mCE and the interaction."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as sk

from hwbench import score
from hwbench.stats import (
    ALEXNET_MEAN_ERROR,
    interaction,
    mean_corruption_error,
    relative_mean_corruption_error,
)

ORACLE = Path(__file__).parents[2] / "shared" / "oracles" / "mce_alexnet.json"
CLASSES, ROWS = 10, 240


def scored(outputs, golden=None, labels=None, *, classes=True, reference=None):
    golden = outputs if golden is None else golden
    outcome = np.zeros(len(outputs), np.uint8)
    return score.Scored(outputs, golden, reference, labels, outcome, 0.0, classes)


def value(name, *batches):
    return score.finish(sum(score.partials(each) for each in batches))[name]


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 2, (ROWS, CLASSES)).astype(np.float32)


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(CLASSES, size=ROWS)


def cut(logits, golden, labels):
    """The same rows in uneven batches."""
    edges = [(0, 7), (7, 100), (100, ROWS)]
    return [scored(logits[a:b], golden[a:b], labels[a:b]) for a, b in edges]


def test_equal_to_scikit_learn_and_scipy(logits, labels):
    golden = logits + np.random.default_rng(2).normal(0, 0.5, logits.shape).astype(np.float32)
    batches = cut(logits, golden, labels)
    p, q = (special.softmax(each.astype(np.float64), axis=1) for each in (golden, logits))
    decided = logits.argmax(1)
    wanted = {
        "top1": sk.accuracy_score(labels, decided),
        "top5": sk.top_k_accuracy_score(labels, logits, k=5, labels=range(CLASSES)),
        "macro_f1": sk.f1_score(labels, decided, average="macro"),
        "kl_golden_nats": stats.entropy(p, q, axis=1).mean(),
        "cosine_golden": np.diag(sk.pairwise.cosine_similarity(logits, golden)).mean(),
        "churn_golden": (decided != golden.argmax(1)).mean(),
        "mae_golden": np.abs(logits - golden).mean(),
    }
    for name, expected in wanted.items():
        assert value(name, *batches) == pytest.approx(expected, rel=1e-5), name


def test_regression_equals_scikit_learn():
    rng = np.random.default_rng(3)
    wanted = rng.integers(-50, 50, ROWS)
    outputs = (wanted + rng.normal(0, 9, ROWS)).astype(np.float64)[:, None]
    parts = [scored(outputs[i : i + 60], labels=wanted[i : i + 60], classes=False)
             for i in range(0, ROWS, 60)]  # fmt: skip
    assert value("mae", *parts) == pytest.approx(sk.mean_absolute_error(wanted, outputs))
    assert value("r2", *parts) == pytest.approx(sk.r2_score(wanted, outputs))
    assert np.isnan(value("top1", *parts))


def test_calibrated_toy_set_has_no_calibration_error():
    """Per confidence c of 0.6, 0.7, 0.8, 0.9: a share c of the rows is right."""
    rows, labels = [], []
    for confidence in (0.6, 0.7, 0.8, 0.9):
        rows += [[confidence, 1 - confidence]] * 100
        labels += [0] * round(100 * confidence) + [1] * round(100 * (1 - confidence))
    probabilities, labels = np.array(rows), np.array(labels)
    assert value("ece", scored(probabilities, labels=labels)) == pytest.approx(0, abs=1e-12)
    assert value("ece", scored(np.log(probabilities), labels=labels)) == pytest.approx(0, abs=1e-9)
    over = scored(np.tile([0.95, 0.05], (400, 1)), labels=labels)
    assert value("ece", over) == pytest.approx(0.2)


def test_broken_rows_are_wrong_but_do_not_spread(logits, labels):
    broken = logits.copy()
    broken[:20] = np.nan
    broken[20] = np.inf
    batch = scored(broken, logits, labels)
    assert value("top5", batch) <= value("top5", scored(logits, labels=labels))
    assert value("macro_f1", batch) < value("macro_f1", scored(logits, labels=labels))
    assert value("kl_golden_nats", batch) == pytest.approx(0, abs=1e-12)
    assert value("cosine_golden", batch) == pytest.approx(1)
    assert value("churn_golden", batch) == pytest.approx(21 / ROWS)
    assert np.isfinite(value("ece", batch))


def test_huge_outputs_stay_finite():
    huge = np.array([[3e38, -3e38, 1.0]], np.float32)
    golden = np.array([[1.0, 0.0, 0.0]], np.float32)
    found = score.finish(score.partials(scored(huge, golden, np.array([0]))))
    assert np.isfinite([found["kl_golden_nats"], found["cosine_golden"], found["ece"]]).all()


def test_what_cannot_be_told_is_nan(logits):
    found = score.finish(score.partials(scored(logits)))
    for name in ("top5", "ece", "macro_f1", "kl_baseline_nats", "churn_baseline", "mae", "r2"):
        assert np.isnan(found[name]), name
    many = np.random.default_rng(4).normal(size=(8, 40))
    assert np.isnan(value("macro_f1", scored(many, labels=np.arange(8))))


def test_alexnet_itself_has_an_mce_of_100():
    own = {kind: [error] * 5 for kind, error in ALEXNET_MEAN_ERROR.items()}
    assert mean_corruption_error(own) == pytest.approx(100)
    half = {
        kind: [0.0, error, 0.0, error, 0.5 * error] for kind, error in ALEXNET_MEAN_ERROR.items()
    }
    assert mean_corruption_error(half) == pytest.approx(50)
    assert relative_mean_corruption_error(own, 0.435, ALEXNET_MEAN_ERROR, 0.435) == pytest.approx(
        100
    )


@pytest.mark.skipif(not ORACLE.exists(), reason="shared/oracles is absent")
def test_alexnet_errors_are_the_published_ones():
    assert json.loads(ORACLE.read_text())["alexnet_mean_error"] == dict(ALEXNET_MEAN_ERROR)


def test_mce_refuses_what_is_incomplete():
    with pytest.raises(ValueError, match="severities"):
        mean_corruption_error({"fog": [0.1] * 4})
    with pytest.raises(ValueError, match="reference"):
        mean_corruption_error({"spatter": [0.1] * 5})


def environments(seed, extra, patterns, shared, samples=400):
    """Two environments under one scenario; the first is harmed more often by ``extra``."""
    rng = np.random.default_rng(seed)
    harm = rng.beta(2, 10, patterns)[:, None] if shared else np.full((patterns, 1), 0.15)
    ease = rng.beta(4, 1, samples)
    sides = []
    for more in (extra, 0.0):
        clean = (rng.random(samples) < ease).astype(np.int8)
        sides.append((clean, clean * (rng.random((patterns, samples)) >= harm + more)))
    return interaction(*sides, shared_patterns=shared, resamples=1000)


@pytest.mark.parametrize(("patterns", "shared"), [(1, False), (10, False), (10, True)])
def test_interaction_is_named_at_its_rate(patterns, shared):
    """Over 200 seeds: nulls at 5 % or less (and 3 standard errors), planted ones at 95 %."""
    null = [environments(seed, 0.0, patterns, shared) for seed in range(200)]
    planted = [environments(seed, 0.15, patterns, shared) for seed in range(200)]
    most = 200 * 0.05 + 3 * np.sqrt(200 * 0.05 * 0.95)
    assert sum(each.named for each in null) <= most
    assert sum(each.p_value <= 0.05 for each in null) <= most
    assert sum(each.named and each.difference < 0 for each in planted) >= 190
    assert np.mean([each.difference for each in planted]) == pytest.approx(-0.12, abs=0.01)


def test_rare_losses_are_resampled_alike_by_either_route(monkeypatch):
    """As a sparse matrix and as a full one, to the bit."""
    rng = np.random.default_rng(3)
    clean = (rng.random(200) < 0.9).astype(np.int8)
    faulty = [clean * (rng.random((500, 200)) >= 0.003) for _ in range(2)]
    found = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(sys.modules[interaction.__module__], "_SPARSE", share)
        sides = [(clean, each) for each in faulty]
        found.append(interaction(*sides, shared_patterns=True, resamples=300))
    assert found[0] == found[1]
    assert found[0].interval.low < found[0].interval.high


def test_a_renamed_environment_does_not_interact():
    rng = np.random.default_rng(0)
    side = (rng.integers(0, 2, 300), rng.integers(0, 2, (12, 300)))
    for shared in (True, False):
        found = interaction(side, side, shared_patterns=shared)
        assert (found.difference, found.p_value, found.named) == (0.0, 1.0, False)
        assert found.interval.low == found.interval.high == 0.0


def test_too_few_chips_have_no_interval():
    side = (np.ones(30, int), np.ones((3, 30), int))
    assert interaction(side, side, shared_patterns=True).interval is None
    with pytest.raises(ValueError, match="paired"):
        interaction(side, (np.ones(29, int), np.ones((3, 30), int)), shared_patterns=True)
