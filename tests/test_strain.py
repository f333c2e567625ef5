"""What conditions cost: throughput and p99 against the same environment without them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from hwbench import stats
from hwbench.collect import strain
from hwbench.collect.latency import SINGLE
from hwbench.collect.schema import LATENCY_TABLE
from hwbench.record import Row

Calls = npt.NDArray[np.float64]

N_CALLS = 1000


def arm(scenario: str, environment: str = "e") -> Row:
    clean = scenario == "clean"
    severity = (None if clean else 1.0, "" if clean else "workers")
    keys = ("m", environment, scenario, severity[1], severity[0], 2)
    return {**dict(zip(strain.KEY, keys, strict=True)), "use": SINGLE}


def measured(scenario: str, calls_ns: list[Calls]) -> tuple[list[Row], list[Row]]:
    """Rows of ``processes`` and of ``latency``."""
    processes, samples = [], []
    for block, calls in enumerate(calls_ns):
        row = {**arm(scenario), "block": block}
        mean = float(calls.mean() / 1e6)
        processes.append({**row, "kind": "latency", "outcome": "ok", "latency_mean_ms": mean})
        samples.append({**row, "latencies_ns": calls.tolist()})
    return processes, samples


def table(clean: list[Calls], under: list[Calls], **changes: object) -> tuple[Row, Row]:
    rows = [{**arm(name), "status": "ok"} for name in ("clean", "load")]
    one, two = measured("clean", clean), measured("load", under)
    two[0][-1].update(changes)
    strain.add(rows, one[0] + two[0], one[1] + two[1])
    return rows[0], rows[1]


def calls(rng: np.random.Generator, stalls: float) -> Calls:
    """A millisecond a call, and in 2 % of them a stall."""
    found = np.full(N_CALLS, 1e6) * rng.normal(1, 0.01, N_CALLS)
    found[:20] *= stalls * rng.lognormal(0, 0.1)
    return found


def test_a_tail_is_told_with_its_interval():
    rng = np.random.default_rng(1)
    clean, under = ([calls(rng, stalls) for _ in range(6)] for stalls in (2.0, 6.0))
    itself, loaded = table(clean, under)
    assert loaded["latency_p99_ratio"] == pytest.approx(3, rel=0.2)
    assert 1 < loaded["latency_p99_ratio_low"] < 3 < loaded["latency_p99_ratio_high"] < 4
    # The same from the percentiles themselves, and the throughput from the sums.
    tails = [[np.quantile(each, 0.99) for each in group] for group in (under, clean)]
    exact = stats.ratio_of_medians(*tails)
    assert exact is not None and loaded["latency_p99_ratio"] == pytest.approx(exact.ratio)
    slower = np.mean([np.log(each.sum()) for each in clean]) - np.mean(
        [np.log(each.sum()) for each in under]
    )
    assert loaded["throughput_ratio"] == pytest.approx(np.exp(slower))
    assert itself["throughput_per_s"] == pytest.approx(2e3 / 1.02, rel=0.05)
    assert itself["latency_p99_ratio_interval"] == "itself"
    assert set(loaded) <= {column.name for column in LATENCY_TABLE}


def test_few_calls_or_processes_give_no_interval():
    rng = np.random.default_rng(2)
    clean = [calls(rng, 2.0) for _ in range(3)]
    _, few = table(clean, [each[:50] for each in clean])
    assert few["latency_p99_ratio"] is None
    assert few["latency_p99_ratio_interval"] == strain.TOO_FEW_CALLS
    assert few["throughput_ratio_low"] < few["throughput_ratio"]
    _, one = table(clean[:1], clean[:1])
    assert one["throughput_ratio"] == 1.0 and one["throughput_ratio_low"] is None


def test_processes_that_failed_are_left_out():
    rng = np.random.default_rng(3)
    clean = [calls(rng, 2.0) for _ in range(4)]
    _, row = table(clean, [*clean[:3], 100 * clean[3]], outcome="timeout")
    assert row["latency_p99_ratio"] == pytest.approx(1, abs=0.2)
    assert row["throughput_ratio"] == pytest.approx(1, abs=0.01)
