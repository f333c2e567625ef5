"""Timing of a session that takes known time, and what is kept of it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hwbench import loadgen, witness
from hwbench.backend import TensorSpec
from hwbench.measure import measure, repeat


class Sleeper:
    """Takes ``pause_s``, and ``stall_s`` once, at call ``stall_at``."""

    outputs = (TensorSpec("y", (None, 1), "float32"),)

    def __init__(self, pause_s=0.0, stall_s=0.0, stall_at=-1):
        self.pause_s, self.stall_s, self.stall_at = pause_s, stall_s, stall_at
        self.seen = []

    def run(self, feeds):
        number = len(self.seen)
        self.seen.append(float(feeds["x"][0, 0]))
        time.sleep(self.stall_s if number == self.stall_at else self.pause_s)
        return {"y": feeds["x"] * 2}


def inputs(count, rows=1):
    return [{"x": np.full((rows, 1), i, np.float32)} for i in range(count)]


def test_inputs_rotate_and_every_call_is_recorded():
    session = Sleeper()
    found = measure(session, inputs(3), min_duration_s=0, min_count=7, warmup_s=0)
    assert found.n_calls == 7 and found.folded is None and (found.latencies_ns > 0).all()
    assert session.seen == [0, 0, 1, 2, 0, 1, 2, 0], "the first call is apart"
    assert found.elapsed_ns >= found.latencies_ns.sum()


def test_kept_outputs_belong_to_their_inputs_and_span_the_run():
    found = measure(Sleeper(), inputs(3), min_duration_s=0, min_count=100, warmup_s=0)
    assert 5 < len(found.kept) < 30
    assert all(outputs["y"][0, 0] == 2 * index for index, outputs in found.kept)
    assert found.kept[-1][0] == 99 % 3


def test_a_soak_becomes_a_histogram_of_all_its_calls():
    found = measure(Sleeper(), inputs(2), min_duration_s=0, min_count=25, warmup_s=0, max_calls=10)
    assert found.n_calls == 25 == len(found.folded)
    assert len(found.latencies_ns) == 5


def test_a_slow_process_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr("hwbench.measure.SIGN_S", 0.01)
    signs = []
    measure(
        Sleeper(5e-3), inputs(1), min_duration_s=0, min_count=10, warmup_s=0,
        alive=lambda: signs.append(1),
    )  # fmt: skip
    assert 2 <= len(signs) <= 9


def test_duration_and_warm_up_are_kept():
    found = measure(Sleeper(1e-3), inputs(2), min_duration_s=0.05, min_count=1, warmup_s=0.02)
    assert found.elapsed_ns >= 50_000_000 and found.warmup_calls >= 1
    assert len(repeat(Sleeper(), inputs(1)[0], 9)) == 9


def test_the_witness_sees_a_busy_machine():
    before = witness.read()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    seen = witness.between(before, witness.read(), 2)
    assert seen["others_cpu"] is None or seen["others_cpu"] >= 0
    assert set(seen) >= {"steal_share", "swapped_pages", "energy_j", "frequency_max_mhz"}


# Columns of a GPU, which has no value where there is none.
GPU = (
    "gpu_temperature_c",
    "gpu_clock_mhz",
    "gpu_power_w",
    "gpu_ecc_corrected",
    "gpu_ecc_uncorrected",
)


def reading(**changes):
    values = {
        "wall_s": 0.0, "own_s": 0.0, "switches": 0, "busy_s": 0.0, "steal_s": 0.0, "swapped": 0,
        "throttles": 0, "frequencies_mhz": (2000.0,), "energy_j": 5.0,
    }  # fmt: skip
    return witness.Reading(**{**values, **changes})


def test_counters_are_told_as_what_happened():
    after = reading(
        wall_s=2.0, own_s=1.5, switches=8, busy_s=2.5, steal_s=0.4, swapped=3,
        throttles=1, frequencies_mhz=(3000.0,), energy_j=11.0,
    )  # fmt: skip
    assert witness.between(reading(), after, 4) == {
        "others_cpu": pytest.approx(0.5),
        "steal_share": pytest.approx(0.05),
        "switches_per_s": pytest.approx(4.0),
        "swapped_pages": 3,
        "cpu_throttles": 1,
        "frequency_min_mhz": 2000.0,
        "frequency_max_mhz": 3000.0,
        "energy_j": pytest.approx(6.0),
        **dict.fromkeys(GPU),
    }
    assert witness.between(reading(), reading(wall_s=1.0, energy_j=1.0), 4)["energy_j"] is None
    unknown = witness.between(reading(busy_s=None), reading(wall_s=1.0), 4)
    assert unknown["others_cpu"] is None


# LoadGen.


@pytest.mark.parametrize("limit", [3.0, 40.0, 77.7, 99.0])
def test_the_search_finds_the_highest_rate(limit):
    tried = []

    def holds(rate):
        tried.append(rate)
        return rate <= limit

    found = loadgen.highest(holds, 100.0, 2.0)
    assert found <= limit < found + 2.0
    assert len(tried) <= 6 and max(tried) < 100.0


def test_no_rate_may_hold():
    assert loadgen.highest(lambda _: False, 100.0, 2.0) is None


def test_a_stall_is_waited_for_by_everybody_who_came_meanwhile():
    """A closed loop asks nobody meanwhile: one call of 300 does not reach its 99th percentile."""
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    pause, stall, rate = 1e-3, 0.2, 150.0
    closed = measure(
        Sleeper(pause, stall, 100), inputs(4), min_duration_s=0, min_count=300, warmup_s=0
    )
    closed_p99 = np.quantile(closed.latencies_ns, 0.99) / 1e6
    wanted = loadgen.Wanted("server", 1, 0.5, 300, p99_ms=20.0, rate=rate, seed=1)
    server = loadgen.run(Sleeper(pause, stall, 150), inputs(4), wanted)
    assert server.columns["latency_p99_ms"] > closed_p99
    assert server.columns["latency_p99_ms"] > 100
    assert server.columns["loadgen"].startswith("INVALID: latency is over the bound")
    assert len(server.latencies_ns) == server.columns["n_calls"] >= 300
    assert server.latencies_ns.max() / 1e6 >= 1e3 * stall


@pytest.mark.parametrize("use", ["loadgen-singlestream", "multistream", "offline"])
def test_loadgen_runs_what_it_names(use):
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    session = Sleeper()
    data = [{"x": np.arange(4, dtype=np.float32)[:, None] + 4 * i} for i in range(3)]
    found = loadgen.run(session, data, loadgen.Wanted(use, 4, 0.05, 20, seed=3))
    for rows, outputs in found.kept:
        assert outputs["y"][:, 0].tolist() == [2 * row for row in rows]
    assert found.columns["throughput_per_s"] > 0 and found.columns["latency_p50_ms"] > 0


def test_what_a_session_raises_is_raised_again():
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")

    class Broken(Sleeper):
        def run(self, feeds):
            if len(self.seen) > 25:
                raise RuntimeError("it broke")
            return super().run(feeds)

    with pytest.raises(RuntimeError, match="it broke"):
        loadgen.run(Broken(), inputs(2), loadgen.Wanted("loadgen-singlestream", 1, 0.05, 20))
