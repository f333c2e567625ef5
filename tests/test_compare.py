"""Two runs side by side: silent with itself, exact where it counts, one line where it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from hwbench import stats
from hwbench.cli import app
from hwbench.collect.cell import CellRows
from hwbench.compare import Thresholds, changes, compare
from hwbench.compare.comparison import verdict
from hwbench.engine import Options, Silent, start
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.report.compared import compared_json
from tests.conftest import write_data, write_model

CLEAN = {"perturbed": False, "unit": "sample"}
CHIPS = {"perturbed": True, "unit": "pattern"}


def cell(correct):
    correct = np.atleast_2d(np.asarray(correct, np.int8))
    return CellRows(tuple(range(len(correct))), correct, 1 - correct)


@pytest.fixture
def run(rig):
    def make(name, **changed):
        options = Options(output=rig.folder / name, cache=rig.cache)
        return start(rig.spec(**changed), options, Silent(), Stop()).folder

    return make


def test_a_run_with_itself_is_silent_and_stays_as_it_is(run):
    folder = run("a")
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    result = CliRunner().invoke(app, ["compare", str(folder), str(folder), "--strict"])
    assert result.exit_code == 0
    assert result.stdout == ""
    found = compare(folder, folder)
    assert found.silent and len(found.rows) and not found.worse
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


def test_another_model_is_compared_only_if_asked_for(run, rig):
    one = run("a")
    write_model(rig.model, seed=7)
    two = run("b")
    with pytest.raises(RequestError, match=r"another model.*--across-models"):
        compare(one, two)
    found = compare(one, two, across_models=True)
    assert "model linear" in [each.what for each in found.differences]
    clean = found.rows.query("scenario == 'clean' and metric == 'accuracy'").iloc[0]
    right = [_clean_correct(folder) for folder in (one, two)]
    assert clean["change"] == pytest.approx(right[1].mean() - right[0].mean())
    gained, lost = int((right[1] > right[0]).sum()), int((right[0] > right[1]).sum())
    assert clean["p_value"] == pytest.approx(stats.mcnemar(gained, lost))


def _clean_correct(folder):
    from hwbench.compare.side import Side

    side = Side.read(folder)
    correct = side.outcomes(next(each for each in side.cells if each[2] == "clean"))[0].correct
    assert correct is not None
    return correct[0]


def test_other_data_and_another_task_are_refused(run, rig):
    one = run("a")
    other = run("c", task={"kind": "classification", "tolerance": 0.1})
    write_data(rig.data, seed=9)
    for folder, why in ((run("b"), "data"), (other, "tolerance")):
        result = CliRunner().invoke(app, ["compare", str(one), str(folder)])
        assert isinstance(result.exception, RequestError)
        assert why in result.exception.line()


def test_cells_of_one_run_only_and_redefined_ones_are_told(run):
    one = run("a")
    two = run(
        "b",
        scenarios=[
            {"noise": {"snr_db": [10]}, "patterns": 2},
            {"bitflip": {"rate": 0.005}, "patterns": 3, "sites": {"kinds": ["bias"]}},
        ],
    )
    told = compared_json(compare(one, two))
    assert told["only_before"] == ["linear/fake-cpu-fp32-t1/noise-inputs@snr_db=0"]
    assert told["redefined"] == ["linear/fake-cpu-fp32-t1/bitflip-weights@rate=0.005"]
    json.dumps(told)


def test_another_seed_is_compared_as_other_draws(run):
    found = compare(run("a"), run("b", seed=5))
    rows = found.rows.query("metric == 'harmed_per_sample'")
    assert set(rows["pairing"]) == {"other draws"}
    assert "seed" in [each.what for each in found.differences]


def test_a_cell_that_gives_no_numbers_any_more_is_broken(run):
    one = run("a")
    two = shutil.copytree(one, one.parent / "b")
    for part in (two / "records").glob("*"):
        part.unlink()
    plan = json.loads((two / "plan.json").read_text())
    place = ["linear", "fake-cpu-fp32-t1"]
    plan["refusals"] = [[*place, case["id"], "not here"] for case in plan["cases"]]
    (two / "plan.json").write_text(json.dumps(plan))
    result = CliRunner().invoke(app, ["compare", str(one), str(two)])
    assert result.exit_code == 1
    assert "ok -> unsupported: not here" in result.stdout
    assert CliRunner().invoke(app, ["compare", str(two), str(one)]).exit_code == 0


@pytest.mark.parametrize(
    ("interval", "p_holm", "expected"),
    [
        ((-0.05, -0.01), 0.01, "worse"),
        ((0.01, 0.05), 0.01, "better"),
        ((-0.05, -0.01), 0.06, "not shown"),
        ((-0.05, 0.01), 0.01, "not shown"),
        ((-0.004, 0.004), 0.9, "same"),
    ],
)
def test_verdicts(interval, p_holm, expected):
    middle = sum(interval) / 2
    made = stats.Interval(*interval, 0.95, "any")
    change = changes.Change(0.5, 0.5 + middle or 0.6, middle, made, "any", p_holm, "9 samples")
    assert verdict(change, p_holm, 0.005) == expected


def test_a_shown_change_of_less_than_the_threshold_is_not_worse():
    made = stats.Interval(1.01, 1.03, 0.95, "any")
    change = changes.Change(1, 1.02, 1.02, made, "any", 0.001, "", True, False)
    assert verdict(change, 0.2, 0.05) == "same"
    assert verdict(change, 0.001, 0.05) == "below threshold"
    assert verdict(change, 0.001, 0.025) == "below threshold"
    assert verdict(change, 0.001, 0.015) == "worse"


def test_equal_runs_give_no_test():
    """Nothing that differs, nothing that could be rejected: no correction for it (Tarone)."""
    assert changes.of_accuracy(cell([1, 0, 1]), cell([1, 0, 1]), CLEAN).p_value is None


def test_a_loss_on_every_chip_is_seen_through_the_chips_own_differences():
    """Chips differ by far more than the loss: only pairing shows it."""
    rng = np.random.default_rng(3)
    level = rng.uniform(0.1, 0.9, size=(20, 1))
    draws = rng.uniform(size=(20, 400))
    before, after = cell(draws < level), cell(draws < level - 0.06)
    change = changes.of_accuracy(before, after, CHIPS)
    assert change.p_value < 1e-4
    assert change.interval.low < change.change < change.interval.high < 0
    assert changes.of_harm(before, after, CHIPS).change == pytest.approx(-change.change)
    unpaired = cell((draws < level - 0.06)[::-1])
    assert changes.of_accuracy(before, unpaired, CHIPS).interval.covers(0)


def test_equal_models_are_called_worse_seldom():
    """Two chips' draws of the same model: any false alarm at most as often as asked for."""
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(200):
        level = rng.beta(2, 1, size=(2, 12, 1))
        one, two = (cell(rng.uniform(size=(12, 60)) < each) for each in level)
        change = changes.of_accuracy(one, two, CHIPS)
        alarms += verdict(change, change.p_value, 0.0) in ("worse", "better")
    assert alarms <= 14  # 0.05 of 200, and what chance adds in 95 of 100 seeds


def test_limits_of_two_searches_overlap_or_not():
    one = {"load_min_mib": 100.0, "tolerance_mib": 4.0}
    near, far = ({"load_min_mib": each, "tolerance_mib": 4.0} for each in (102.0, 112.0))
    assert verdict(changes.of_brackets(one, near), 1.0, 0.05) == "not shown"
    change = changes.of_brackets(one, far)
    assert verdict(change, change.p_value, 0.05) == "worse"


def test_rates_of_campaigns_add_their_intervals_by_squares():
    found = changes.of_rates((0.10, 0.08, 0.13), (0.20, 0.17, 0.24), 0.95)
    assert found.interval.low == pytest.approx(0.10 - np.hypot(0.03, 0.03))
    assert found.interval.high == pytest.approx(0.10 + np.hypot(0.04, 0.02))
    assert 0 < found.p_value < 0.05


def test_the_default_threshold_of_latency_is_the_specs(run):
    folder = run("a")
    assert Thresholds().percent is None
    found = compare(folder, folder, Thresholds(points=2.0))
    assert set(found.rows["threshold"]) == {0.02}


def test_a_machine_that_is_slower_tonight_is_no_slower_model():
    rng = np.random.default_rng(8)

    def arm(factor):
        return [
            {"latency_p50_ms": factor * each, "canary_ms": factor * other}
            for each, other in np.exp(rng.normal(0, 0.01, size=(5, 2)))
        ]

    one, two = arm(1.0), arm(1.3)
    by_canary, note = changes.timed(one, two, "latency_p50_ms", same_machine=True)
    plain, _ = changes.timed(one, two, "latency_p50_ms", same_machine=False)
    assert note == "by the canary"
    assert by_canary.change == pytest.approx(1.0, abs=0.03)
    assert plain.change == pytest.approx(1.3, abs=0.03)
    assert by_canary.after == plain.after
