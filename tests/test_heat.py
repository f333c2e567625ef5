"""Soaks, rates by temperature and voltage, and screening."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hwbench import soak as soaking
from hwbench.backend import Site
from hwbench.cli import app
from hwbench.collect import collect
from hwbench.collect.soak import numbers
from hwbench.screen import Place, Tally, consistent, judge
from hwbench.seeds import Key
from hwbench.spec.load import parse
from hwbench.stats import drift
from hwbench_scenarios import cgroup
from hwbench_scenarios.ber import Temperature, Voltage, interpolated
from hwbench_scenarios.bitflip import BitFlip

from .test_execute import run

SITE = Site("w", "weight", "float32", (4000,))
N = 60


def series(rho: float, rng: np.random.Generator, spread: float = 0.05) -> np.ndarray:
    """A stationary AR(1) series of logarithms."""
    noise = rng.normal(size=N)
    made = np.empty(N)
    made[0] = noise[0] / math.sqrt(1 - rho**2)
    for i in range(1, N):
        made[i] = rho * made[i - 1] + noise[i]
    return spread * made


def windows(logs: np.ndarray, share: np.ndarray) -> dict[str, Any]:
    return {
        "t_s": list(np.arange(N) + 0.5),
        "n_calls": [100] * N,
        "latency_mean_ms": list(np.exp(logs)),
        "cpu_share": list(share),
        "temperature_c": [None] * N,
        "frequency_mhz": [None] * N,
    }


# Drift over time.


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_intervals_of_drift_hold_under_autocorrelation(rho, monkeypatch):
    monkeypatch.setattr(drift, "REPLICATES", 400)
    rng = np.random.default_rng(3)
    runs, slopes, ends, steps = 60, 0, 0, 0
    for _ in range(runs):
        y = series(rho, rng)
        slope, last = drift.slope(y, np.arange(N)), drift.last_against_first(y)
        found = drift.step(y)
        assert slope and last and found
        slopes += slope.interval.covers(0.0)
        ends += last.interval.covers(0.0)
        steps += found.significant
    # Below what chance gives in one of a thousand runs at a coverage of 0.93 and alarms of 2 %.
    assert slopes >= 49 and ends >= 49 and steps <= 6


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_planted_slowdown_is_found_where_it_is(rho):
    y = series(rho, np.random.default_rng(4))
    y[30:] += math.log(2)
    share = np.r_[np.full(30, 1.0), np.full(30, 0.5)]
    row = numbers(windows(y, share))
    assert row["throttled"] is True and row["throttled_at_s"] == pytest.approx(30.5, abs=1)
    assert row["throttled_ratio"] == pytest.approx(2, rel=0.15)
    assert row["last_to_first_low"] < 2 < row["last_to_first_high"]
    assert "less CPU time" in row["diagnosis"]
    hot = numbers(windows(y, np.ones(N)))
    assert "lower clock" in hot["diagnosis"]


def test_a_slope_has_its_size():
    y = 0.01 * np.arange(N) + series(0.3, np.random.default_rng(5), 0.01)
    found = drift.slope(y, np.arange(N))
    assert found and found.interval.covers(0.01) and found.interval.low > 0


def test_short_series_tell_nothing():
    assert drift.slope(np.ones(19), np.arange(19)) is None
    assert drift.step(np.ones(19)) is None


def test_sensors_that_are_not_there_are_null(monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    assert soaking.read_sensors() == soaking.Sensors(None, None)
    row = numbers(windows(np.zeros(N), np.ones(N)))
    assert row["temperature_c_max"] is None and row["frequency_mhz_max"] is None


def test_a_sweep_soaks_once(rig):
    store = run(rig, "run", scenarios=["clean"], soak={"duration_s": 0.5, "window_s": 0.01})
    (row,) = collect(store)["soak"].to_dict("records")
    (series_,) = store.read("soak").to_pylist()
    assert row["status"] == "ok" and row["windows"] == len(series_["t_s"]) >= 1
    assert row["drift_per_min_interval"] in ("hac-ar1", drift.TOO_FEW_WINDOWS)
    assert sum(series_["n_calls"]) == row["n_calls"]


@pytest.mark.slow
@pytest.mark.parametrize("halved", [True, False])
def test_a_minute_whose_quota_is_halved_is_flagged(rig, halved):
    """The group of the process is found and its quota written, as somebody else would."""
    found = cgroup.capability("cpu", "cpu.cfs_quota_us")
    if found.status != "supported":
        pytest.skip(found.reason or "needs cgroup v1")
    done = threading.Event()
    helper = threading.Thread(target=_halve, args=(done,), daemon=True)
    if halved:
        helper.start()
    try:
        # Small enough to be had on a machine that is busy with other things.
        store = run(rig, "run", scenarios=[{"cpu": {"quota": 0.06}}], soak={"duration_s": 60})
    finally:
        done.set()
    row = collect(store)["soak"].set_index("scenario").loc["cpu-quota"]
    assert bool(row["throttled"]) is halved
    if halved:
        assert row["throttled_ratio"] == pytest.approx(2, rel=0.3)
        assert row["throttled_at_s"] == pytest.approx(30, abs=8)


def _halve(done: threading.Event) -> None:
    """Halve the quota of a group of ours that has been there for 32 s: 30 s of it measured."""
    seen: dict[Path, float] = {}
    while not done.wait(0.2):
        for each in Path("/sys/fs/cgroup").glob(f"cpu*/**/hwbench-{os.getpid()}-*"):
            since = seen.setdefault(each, time.monotonic())
            if since and time.monotonic() - since > 32:
                quota = each / "cpu.cfs_quota_us"
                quota.write_text(str(int(quota.read_text()) // 2))
                seen[each] = 0.0


# Rates by temperature and voltage.


def test_the_rate_is_log_linear_between_points():
    points = ((25.0, 1e-9), (45.0, 1e-7))
    assert interpolated(points, 25) == pytest.approx(1e-9)
    assert interpolated(points, 35) == pytest.approx(1e-8)
    assert Temperature(table="example", celsius=85).rate == pytest.approx(4.096e-6)
    assert Voltage(table="example", volts=0.8).rate == pytest.approx(2.867e-7)


@pytest.mark.parametrize("celsius", [24.9, 105.1])
def test_outside_its_range_a_table_says_nothing(celsius):
    with pytest.raises(ValueError, match=r"outside the table, which goes from 25 to 105"):
        Temperature(table="example", celsius=celsius)


@pytest.mark.parametrize(
    ("text", "told"),
    [("celsius,rate\n1,2\n", "columns celsius and ber"), ("celsius,ber\n25,0\n30,1\n", "above 0")],
)
def test_a_table_that_means_nothing_is_refused(tmp_path, text, told):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        Temperature(table=str(tmp_path / "t.csv"), celsius=25)


def test_a_temperature_is_the_flips_at_its_rate(tmp_path):
    (tmp_path / "t.csv").write_text("# mine\ncelsius,ber\n25,1e-4\n85,1e-3\n")
    hot = Temperature(table=str(tmp_path / "t.csv"), celsius=85)
    flips = BitFlip(rate=1e-3)
    assert hot.identity == flips.identity
    key = Key.of_pattern(0, hot.identity, 3)
    assert hot.draw([SITE], key).digest() == flips.draw([SITE], key).digest()
    cool = Temperature(table=str(tmp_path / "t.csv"), celsius=25).draw([SITE], key)
    assert set(cool.element.tolist()) <= set(hot.draw([SITE], key).element.tolist())


def test_a_table_is_found_beside_the_spec(tmp_path, monkeypatch):
    from hwbench.spec import cases
    from hwbench.spec.cases import scenario

    def registered(name: str):
        return Temperature if name == "temperature" else scenario(name)

    monkeypatch.setattr(cases, "scenario", registered)
    (tmp_path / "t.csv").write_text("celsius,ber\n25,1e-4\n85,1e-3\n")
    text = "model: {builtin: digits-cnn}\nscenarios: [{temperature: {table: t.csv, celsius: 85}}]"
    (entry,) = parse(text, "spec", tmp_path).scenarios
    assert entry["temperature"]["table"] == str((tmp_path / "t.csv").resolve())


# Screening.


def tally(name: str, seen: dict[tuple[int, str], int]) -> Tally:
    counted = Counter({(*key, "alone"): count for key, count in seen.items()})
    return Tally(Place(name, 0, "cpu"), counted)


def test_most_inferences_are_golden():
    good = {(0, "a"): 100, (1, "b"): 100}
    found = judge([tally("core 0", good), tally("core 1", {**good, (1, "x"): 1})])
    assert [each.different for each in found] == [0, 1] and not consistent(found)
    assert found[0].upper == pytest.approx(3 / 200, rel=0.01) and found[1].upper is None


def test_where_halves_disagree_both_are_named():
    found = judge([tally("core 0", {(0, "a"): 5}), tally("core 1", {(0, "b"): 5})])
    assert [each.different for each in found] == [5, 5]


@pytest.mark.parametrize(("plant", "code"), [([], 0), (["--plant", "core {core}"], 1)])
def test_a_planted_flip_is_detected(fake_path, plant, code):
    core = max(os.sched_getaffinity(0))
    asked = ["screen", "--minutes", "0.01", "--json", *(each.format(core=core) for each in plant)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == code, done.output
    found = json.loads(done.stdout)
    assert found["consistent"] is (code == 0)
    wrong = [each["place"] for each in found["places"] if each["different"]]
    assert wrong == ([f"core {core}"] if code else [])
    assert all(each["inferences"] >= 16 for each in found["places"])


def test_examples_say_that_they_are_examples():
    folder = Path(__import__("hwbench_scenarios").__file__).parent / "tables"
    for each in folder.glob("*.csv"):
        assert each.read_text().startswith("# EXAMPLE ONLY")
        assert "Assumption" in each.read_text()
