"""Nights: where a series changed, what is an alarm, and a folder of runs read into series."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from hwbench import canary
from hwbench.cli import app
from hwbench.errors import RequestError
from hwbench.history import history, judge
from hwbench.history.rules import ACCURACY, LATENCY
from hwbench.stats import changepoint, recent

NOISE = 0.03


def nights(seed, n=120, **steps):
    """Latencies; ``at_80=0.1`` makes all from the 80th on 10 % slower."""
    values = NOISE * np.random.default_rng(seed).normal(size=n)
    for place, size in steps.items():
        values[int(place.removeprefix("at_")) :] += np.log1p(size)
    return np.exp(values)


def energy_by_hand(values, m):
    """Equation 5 of Matteson and James, term by term."""
    x, y = values[:m], values[m:]

    def within(part):
        pairs = [abs(a - b) for i, a in enumerate(part) for b in part[:i]]
        return np.mean(pairs) if pairs else 0.0

    between = np.mean([[abs(a - b) for b in y] for a in x])
    return m * (len(values) - m) / len(values) * (2 * between - within(x) - within(y))


def test_the_energy_distance_at_every_cut():
    values = np.random.default_rng(1).normal(size=13)
    expected = [energy_by_hand(values, m) for m in range(1, 13)]
    np.testing.assert_allclose(changepoint.energy(values), expected)
    np.testing.assert_allclose(changepoint.energy(np.stack([values, values]))[1], expected)


def test_steps_are_found_where_they_are():
    found = changepoint.change_points(np.log(nights(2, at_40=0.2, at_80=-0.1)))
    assert [each.index for each in found] == pytest.approx([40, 80], abs=2)
    assert all(each.p_value <= changepoint.ALPHA for each in found)
    assert changepoint.change_points(np.ones(50)) == []
    assert changepoint.change_point([1.0, 2.0, 3.0]) is None


def test_independent_nights_change_seldom_and_like_ones_not_much_more_often():
    """A seeded handful of what benchmarks/history_rates.py counts at length."""
    draw = np.random.default_rng(3)
    flat = sum(changepoint.change_point(draw.normal(size=60)) is not None for _ in range(100))
    assert flat <= 5
    like = 0
    for _ in range(100):
        values = draw.normal(size=60)
        for night in range(1, 60):
            values[night] = 0.5 * values[night - 1] + values[night] * np.sqrt(0.75)
        like += changepoint.change_point(values) is not None
    assert like <= 15  # plain permutations: half of them


def test_a_rise_of_the_last_nights_is_as_rare_as_it_says_whatever_the_noise():
    """The null is that of ranks: skewed noise, and little of it, make no difference."""
    draw = np.random.default_rng(11)
    for noise in (draw.normal(size=(500, 60)), draw.exponential(size=(500, 60)) ** 3):
        found = np.array([recent.rise(each).p_value for each in noise])
        assert 30 <= (found <= 0.1).sum() <= 72  # 50 expected; outside: 0.2 %
    like = np.empty((300, 61))
    like[:, 0] = draw.normal(size=300)
    for night in range(1, 61):
        like[:, night] = 0.5 * like[:, night - 1] + np.sqrt(0.75) * draw.normal(size=300)
    found = np.array([recent.rise(each).p_value for each in like])
    assert (found <= 0.1).sum() <= 60  # without a memory: 110


def test_five_percent_are_found_within_five_nights_more_often_than_not():
    """A seeded handful of what benchmarks/history_rates.py counts: 73 % of 400 series."""
    found = 0
    for seed in range(25):
        values = nights(100 + seed, at_115=0.05)
        says = [judge(values[:n], LATENCY) for n in range(116, 121)]
        found += any(each.worse and abs(each.last.index - 115) <= 5 for each in says)
    assert found >= 12  # 18 expected; fewer than 12: 0.3 %


def test_a_rise_is_several_nights_and_for_the_worse():
    flat = np.log(nights(13, n=60))
    spiked, far = (recent.rise(np.append(flat, spike)) for spike in (0.3, 30.0))
    assert spiked == far and spiked.p_value > 0.005  # the largest rank, and no more
    up = recent.rise(np.append(flat, [0.1, 0.11, 0.09, 0.12]))
    assert up.p_value < 0.001 and up.length == 4
    assert recent.rise(-np.append(flat, [0.1, 0.11, 0.09, 0.12])).p_value > 0.5
    assert recent.rise(np.ones(60)) is None and recent.rise(flat[:14]) is None


def test_a_slow_week_is_an_alarm_only_once_it_has_lasted():
    values = nights(4, at_110=0.2)
    says = [judge(values[: n + 1], LATENCY).alarm for n in range(105, 120)]
    assert says[:6] == [None] * 6  # the first slow night is the 110th
    assert says[10] is not None and says[14] is not None
    last = judge(values, LATENCY)
    assert last.worse and last.confirmed and last.change == pytest.approx(0.2, abs=0.03)
    assert judge(1 / values, LATENCY).alarm is None  # faster is no alarm


def test_one_spike_is_a_suspect_and_a_large_break_an_alarm():
    values = nights(5)
    spiked, broken = np.append(values, 1.3), np.append(values, 3.0)
    found = judge(spiked, LATENCY)
    assert found.suspect and found.alarm is None
    assert judge(np.append(spiked, 1.0), LATENCY).suspect is False
    assert judge(np.append(values, [1.3, 1.3, 1.3]), LATENCY).alarm is not None
    assert judge(broken, LATENCY).alarm == "a large break tonight"


def test_accuracy_that_never_varied_alarms_at_once():
    assert judge([0.9] * 10 + [0.89], ACCURACY).alarm is not None
    assert judge([0.9] * 10 + [0.899], ACCURACY).alarm is None
    assert judge([0.9] * 10 + [0.95], ACCURACY).alarm is None


@pytest.fixture
def folder(tmp_path):
    """60 nights of two environments; the canary, and all with it, is slower on some nights."""
    draw = np.random.default_rng(6)
    for night in range(60):
        slow = 1.3 if 20 <= night < 30 else 1.0
        write_night(
            tmp_path, night, {"a": slow, "b": slow * (1.3 if night >= 50 else 1.0)}, slow, draw
        )
    return tmp_path


def write_night(folder, night, latencies, canary_ms, draw, *, accuracy=0.9, machine="m1"):
    place = folder / f"run-{night:03d}"
    (place / "tables").mkdir(parents=True)
    started = datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=night)
    run = {
        "started": started.isoformat(),
        "machine": {"fingerprint": machine},
        "inputs": {"net": {"model": "x", "data": "d"}},
        "versions": {},
    }
    (place / "run.json").write_text(json.dumps(run))
    (place / "plan.json").write_text(json.dumps({"complete": True}))
    cell = {"model": "net", "scenario": "clean", "severity_name": "", "severity": None}
    drift = [
        {
            **cell,
            "environment": name,
            "status": "ok",
            "accuracy": accuracy,
            "harmed_per_sample": None,
        }
        for name in latencies
    ]
    latency = [
        {
            **cell,
            "environment": name,
            "status": "ok",
            "batch": 1,
            "use": "singlestream",
            "latency_p50_ms": value * float(np.exp(0.01 * draw.normal())),
            "throughput_per_s": 1.0,
            "rate_per_s": None,
            "canary_ms": canary_ms,
        }
        for name, value in latencies.items()
    ]
    for name, rows in (("drift", drift), ("latency", latency)):
        frame = pd.DataFrame(rows)
        empty = [column for column in frame if frame[column].isna().all()]
        frame.astype(dict.fromkeys(empty, "float64")).to_parquet(
            place / "tables" / f"{name}.parquet"
        )


def test_a_slow_machine_is_no_slow_model(folder):
    found = history(folder)
    assert [series.key.cell for series, _ in found.alarms] == ["net/b/clean"]
    assert all(series.normalised for series, _ in found.judged if "latency" in series.key.metric)
    [(series, finding)] = found.alarms
    assert finding.change == pytest.approx(0.3, abs=0.03)
    assert series.nights[finding.last.index].folder.name == "run-050"


def test_the_command(folder, tmp_path):
    result = CliRunner().invoke(app, ["history", str(folder), "--plots", str(tmp_path / "plots")])
    assert result.exit_code == 1
    assert "REGRESSION" in result.stdout and "net/b/clean" in result.stdout
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 2  # accuracy never varied
    told = json.loads(CliRunner().invoke(app, ["history", str(folder), "--json"]).stdout)
    assert told["regressed"] and len(told["nights"]) == 60
    since = CliRunner().invoke(app, ["history", str(folder), "--since", "2026-02-20"])
    assert since.exit_code == 0  # all of these nights are slow


def test_another_machine_is_another_series(folder):
    write_night(folder, 60, {"a": 9.0}, None, np.random.default_rng(0), machine="m2")
    found = history(folder)
    assert not found.regressed
    assert {len(series.nights) for series, _ in found.judged} == {1}


def test_a_cell_that_gives_no_numbers_any_more_is_a_regression(folder):
    place = folder / "run-059" / "tables" / "latency.parquet"
    frame = pd.read_parquet(place)
    frame.loc[frame["environment"] == "a", "status"] = "crash"
    frame.to_parquet(place)
    assert history(folder).broken == {"net/a/clean batch 1 singlestream": "crash"}


def test_what_is_left_out_is_told(folder, tmp_path):
    (folder / "run-003" / "plan.json").write_text('{"complete": false}')
    (folder / "run-004" / "tables" / "drift.parquet").unlink()
    found = history(folder)
    assert len(found.nights) == 58
    assert ["run-003" in found.left[0], "run-004" in found.left[1]] == [True, True]
    with pytest.raises(RequestError, match="holds no complete run"):
        history(tmp_path / "nothing")


def test_the_canary_is_a_convolution_and_takes_time():
    padded, result, scratch = canary._arrays()
    canary.layer(padded, result, scratch)
    taps = np.arange(1, 10, dtype=np.float64).reshape(3, 3) / 9
    expected = ndimage.correlate(padded[3].astype(np.float64), taps, mode="constant")[1:-1, 1:-1]
    np.testing.assert_allclose(result[3], np.maximum(expected, 0), rtol=1e-4, atol=1e-4)
    assert canary.measure() > 0
