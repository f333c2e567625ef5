"""Other data, factors ranked, and mean corruption errors: numbers that are known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwbench import engine, stats
from hwbench.builtin import DIGITS_DATA
from hwbench.collect import collect, mce, sensitivity
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.spec import Spec
from hwbench.spec.cases import expand
from hwbench.spec.load import parse
from hwbench.stats import Confidences, calibration_shift, confidence_shift, newcombe_unpaired

ORACLE = Path(__file__).parents[2] / "shared" / "oracles" / "mce_alexnet.json"


def test_newcombe_gives_the_published_intervals():
    """Newcombe 1998, Table II, method 10: 56/70 - 48/80, 9/10 - 3/10 and 10/10 - 0/10."""
    for counts, low, high in (
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ):
        found = newcombe_unpaired(*counts)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def drawn(rng, n, low, slip=0.0):
    """Confidences whose decisions are right as often as they say, but for ``slip``."""
    confidence = rng.uniform(low, 1.0, n)
    return Confidences(confidence, (rng.random(n) < confidence - slip).astype(np.int8))


def test_confidence_interval_covers_the_true_shift():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        one, two = drawn(rng, 150, 0.6), drawn(rng, 120, 0.4)
        hits += confidence_shift(one, two).interval.covers(0.7 - 0.8)
    assert 181 <= hits <= 199  # 95 %, four standard errors either way


def test_calibration_shift_is_seen_and_its_absence_is_not():
    rng, named, missed = np.random.default_rng(1), 0, 0
    for _ in range(60):
        base = drawn(rng, 600, 0.5)
        named += not calibration_shift(base, drawn(rng, 600, 0.5), 15).interval.covers(0.0)
        slipped = drawn(rng, 600, 0.5, slip=0.15)
        missed += calibration_shift(base, slipped, 15).interval.covers(0.0)
    assert named <= 9  # 5 %, and three standard errors
    assert missed == 0


def test_calibration_of_sets_without_labels_is_refused():
    known = Confidences(np.full(3, 0.5), np.ones(3, np.int8))
    with pytest.raises(ValueError, match="right"):
        calibration_shift(known, Confidences(np.full(3, 0.5), None), 15)


@pytest.mark.skipif(not ORACLE.exists(), reason="shared/oracles is absent")
def test_alexnets_own_errors_give_100_percent_through_the_table():
    published = json.loads(ORACLE.read_text())["alexnet_mean_error"]
    found = mce.Errors(clean=0.43)
    for kind, error in published.items():
        found.levels[kind] = {level: error + (level - 3) / 50 for level in range(1, 6)}
    (row,) = mce.table({("m", "e"): found}, {("m", "e"): 1000}, "e")
    assert row["mce_alexnet_percent"] == pytest.approx(100)
    assert row["mce_baseline_percent"] == pytest.approx(100)
    assert row["of_15"] is None
    (small,) = mce.table({("m", "e"): found}, {("m", "e"): 10}, "e")
    assert small["mce_alexnet_percent"] is None


def test_mce_takes_whole_kinds_alone():
    found = mce.Errors()
    right = 0.25
    found.take({"id": "clean"}, right)
    for level in range(1, 6):
        found.take({"id": "a", "kinds": [["corruption", "fog"]], "severity": level}, right)
        found.take({"id": "b", "kinds": [["corruption", "snow"], ["noise", ""]]}, right)
    found.take({"id": "c", "kinds": [["corruption", "snow"]], "severity": 1}, right)
    assert found.whole == {"fog": [0.75] * 5}
    (row,) = mce.table({("m", "e"): found}, {}, "other")
    assert (row["kinds"], row["mean_error"], row["clean_error"]) == (1, 0.75, 0.75)
    assert "mce_baseline_percent" not in row


def level(scenario, severity, drift, high, **changed):
    names = {"model": "m", "environment": "e", "scenario": scenario, "severity_name": "s"}
    numbers = {"drift": drift, "drift_low": drift - 0.1, "drift_high": high, "drift_interval": "x"}
    plain = {"severity": severity, "status": "ok", "kind": "scenario"}
    return {**names, **plain, **numbers, **changed}


def test_factors_are_ranked_by_what_they_cost():
    drift = [
        level("noise", 40.0, -0.01, 0.02),
        level("noise", 20.0, -0.20, -0.15),
        level("noise", 0.0, -0.30, -0.25),
        level("flips", 1e-6, -0.05, -0.01),
        level("flips", 1e-5, -0.40, -0.30),
        level("stack", 1.0, -0.90, -0.80),
        level("broken", 1.0, -0.95, -0.9, status="error"),
    ]
    cases = [
        {"scenario": "noise", "stack": 1, "milder": "higher"},
        {"scenario": "flips", "stack": 1, "milder": "lower"},
        {"scenario": "stack", "stack": 2, "milder": "lower"},
        {"scenario": "broken", "stack": 1, "milder": "lower"},
    ]
    first, second = sensitivity.table(drift, cases)
    assert (first["scenario"], first["rank"], first["first_harm"]) == ("flips", 1, 1e-6)
    assert (second["mildest"], second["harshest"], second["first_harm"]) == (40.0, 0.0, 20.0)
    assert second["drift_mean"] == pytest.approx(-0.17)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A sweep over the digits, the same digits again, and dim ones, fewer."""
    folder = tmp_path_factory.mktemp("shift")
    archive = np.load(DIGITS_DATA)
    x, y = archive["x_test"], archive["y_test"]
    np.savez(folder / "again.npz", x_test=x, y_test=y)
    np.savez(folder / "dim.npz", x_test=x[:301] // 3, y_test=y[:301])
    np.savez(folder / "bare.npz", x_test=x[:20], y_test=y[:20])
    text = """
        model: {builtin: digits-cnn}
        environments: [{backend: onnxruntime, precision: [fp32, int8]}]
        scenarios: [{dataset: [again.npz, dim.npz]}, {dataset: {npz: bare.npz, limit: 7}},
                    {noise: {snr_db: 10}}]
        latency: false
    """
    options = engine.Options(output=folder / "run", workers=1, cache=folder / "cache")
    return engine.start(parse(text, "test", folder), options, engine.Silent(), Stop())


def test_other_data_are_compared_without_pairing(run):
    table = collect(run)["shift"].set_index(["environment", "scenario"])
    assert (table["status"] == "ok").all() and len(table) == 6
    again, dim = (table.loc["onnxruntime-cpu-fp32-t1", f"dataset-{n}"] for n in ("again", "dim"))
    for name in ("accuracy", "ece", "confidence"):
        assert again[f"{name}_shift"] == 0
        assert again[f"{name}_shift_low"] < 0 < again[f"{name}_shift_high"]
    assert (dim["n_samples"], dim["n_reference"]) == (301, 597)
    assert dim["accuracy_shift_high"] < 0 and dim["confidence_shift_high"] < 0


def test_other_data_have_a_row_of_drift_and_none_of_interaction(run):
    tables = collect(run)
    drift = tables["drift"].set_index(["environment", "scenario"])
    row = drift.loc["onnxruntime-cpu-int8-t1", "dataset-dim"]
    assert (row["kind"], row["drift_interval"]) == ("shift", "newcombe-unpaired")
    shift = tables["shift"].set_index(["environment", "scenario"])
    same = shift.loc["onnxruntime-cpu-int8-t1", "dataset-dim"]
    assert row["ece"] == pytest.approx(same["ece"])
    assert row["drift"] == pytest.approx(same["accuracy_shift"])
    assert not tables["interaction"]["scenario"].str.startswith("dataset").any()
    ranked = tables["sensitivity"]
    assert set(ranked["scenario"]) == {
        "dataset-again", "dataset-dim", "dataset-bare", "noise-inputs"
    }  # fmt: skip
    cells = tables["cells"].set_index(["environment", "scenario"])
    assert cells.loc["onnxruntime-cpu-int8-t1", "dataset-bare"]["n_samples"] == 7


def test_other_data_are_kept_with_the_run(run):
    inputs = run.read_json("run.json")["inputs"]["digits-cnn"]["data"]
    assert inputs.count("+") == 3
    again = engine.resume(run.folder, engine.Options(workers=1), engine.Silent(), Stop())
    assert again.read("records").num_rows == run.read("records").num_rows


def test_wrong_other_data_are_one_line(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 1, 8, 8)))
    spec = Spec.model_validate(
        {
            "model": {"builtin": "digits-cnn"},
            "environments": [{"backend": "onnxruntime"}],
            "scenarios": [{"dataset": str(tmp_path / "d.npz")}],
        }
    )
    with pytest.raises(RequestError, match=r"d\.npz.*x_test") as error:
        engine.start(spec, engine.Options(output=tmp_path / "run"), engine.Silent(), Stop())
    assert "\n" not in error.value.line()


def test_data_cannot_be_stacked():
    with pytest.raises(RequestError, match="stacked"):
        expand([[{"dataset": "a.npz"}, {"noise": {"snr_db": 3}}]])


@pytest.mark.skipif(not ORACLE.exists(), reason="shared/oracles is absent")
def test_reference_numbers_are_the_published_ones():
    published = json.loads(ORACLE.read_text())["alexnet_mean_error"]
    assert dict(stats.ALEXNET_MEAN_ERROR) == published
