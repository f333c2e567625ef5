"""The table of latencies from rows of processes: verdicts, what could have been found, trust."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench import noise, stats
from hwbench.collect import latency, trust
from hwbench.errors import RequestError
from hwbench.record import row

QUIET = {"others_cpu": 0.01, "steal_share": 0.0, "swapped_pages": 0, "relative_sd": 0.01}


def process(environment="a", block=0, p50=1.0, **changes):
    values = {
        "kind": "latency",
        "outcome": "ok",
        "model": "net",
        "environment": environment,
        "scenario": "clean",
        "severity_name": "",
        "batch": 1,
        "use": "singlestream",
        "block": block,
        "n_calls": 500,
        "latency_p50_ms": p50,
        **{name: p50 * (1 + tail) for name, tail in latency.TAILS.items()},
        **QUIET,
    }
    return row("processes", {**values, **changes})


def arm(environment, factor=1.0, spread=0.01, n=5, seed=0, **changes):
    draws = np.random.default_rng(seed).normal(0, spread, n)
    return [
        process(environment, block, factor * float(np.exp(each)), **changes)
        for block, each in enumerate(draws)
    ]


def plan(*environments, threshold=0.05, scenarios=("clean",)):
    return {
        "baseline": environments[0],
        "latency_threshold": threshold,
        "environments": [{"model": "net", "environment": each} for each in environments],
        "cases": [{"scenario": each, "perturbed": each != "clean"} for each in scenarios],
    }


def made(rows, *environments, noise=None, **changes):
    table = latency.table(rows, plan(*environments, **changes), noise)
    return {(each["environment"], each["scenario"], each["use"]): each for each in table}


def of(table, environment):
    return table[environment, "clean", "singlestream"]


@pytest.mark.parametrize(
    ("factor", "threshold", "verdict"),
    [
        (1.20, 0.05, "slower"),
        (0.80, 0.05, "faster"),
        (1.20, 0.30, "same"),
        (1.20, 0.20, "below threshold"),
        (1.00, 0.05, "same"),
        (1.01, 0.005, "not shown"),
    ],
)
def test_verdicts(factor, threshold, verdict):
    rows = arm("a", seed=1) + arm("b", factor, seed=2)
    found = of(made(rows, "a", "b", threshold=threshold), "b")
    assert found["verdict"] == verdict
    assert found["threshold"] == threshold


def test_the_machines_noise_floor_is_a_threshold():
    rows = arm("a", seed=1) + arm("b", 1.2, seed=2)
    found = of(made(rows, "a", "b", noise={"floor": 0.25}), "b")
    assert (found["threshold"], found["verdict"]) == (0.25, "same")


def test_silence_says_what_it_could_have_hidden():
    loud = arm("a", spread=0.3, seed=1) + arm("b", 1.3, spread=0.3, seed=2)
    found = of(made(loud, "a", "b"), "b")
    assert found["verdict"] == "not shown" and found["detectable"] > 1.5
    calm = of(made(arm("a", seed=1) + arm("b", 1.3, seed=2), "a", "b"), "b")
    assert calm["verdict"] == "slower" and calm["detectable"] < 1.1


def test_more_comparisons_can_find_less():
    names = ("a", "b", "c", "d", "e")
    rows = [each for i, name in enumerate(names) for each in arm(name, seed=i)]
    alone = of(made(arm("a", seed=0) + arm("b", seed=1), "a", "b"), "b")
    among = of(made(rows, *names), "b")
    assert among["p_value"] == alone["p_value"] and among["detectable"] > alone["detectable"]


def test_what_is_said_to_be_detectable_is_found_four_times_in_five():
    rng = np.random.default_rng(5)
    spread, n = 0.02, 6
    ratio = stats.noise_ratio(spread, n)
    draws = np.exp(rng.normal(0, spread, (4000, 2, n)))
    found = [stats.ratio_of_medians(ratio * one, two) for one, two in draws]
    shown = np.mean([each.p_value < 0.05 and each.ratio > 1 for each in found])
    assert shown == pytest.approx(0.8, abs=0.025)


def test_detectable_is_welchs_for_equal_spreads():
    values = [1.0, 1.01, 0.99, 1.02, 0.98]
    spread = float(np.std(np.log(values), ddof=1))
    assert stats.detectable_ratio(values, values) == pytest.approx(stats.noise_ratio(spread, 5))
    assert stats.detectable_ratio(values[:2], values) is None


def test_under_a_perturbation_each_environment_is_compared_with_itself():
    rows = arm("a", seed=1) + arm("b", 2.0, seed=2)
    rows += arm("b", 2.6, seed=3, scenario="flips", severity_name="rate", severity=0.1,
                stored_denormal=4, nonfinite_outputs=0.25)  # fmt: skip
    found = made(rows, "a", "b", scenarios=("clean", "flips"))["b", "flips", "singlestream"]
    assert found["slowdown"] == pytest.approx(1.3, rel=0.03)
    assert found["slowdown_verdict"] == "slower"
    assert found["ratio"] == pytest.approx(2.6, rel=0.03)
    assert found["odd_numbers"] == (
        "up to 4 denormal weights, NaN or Inf in up to 25% of the answers"
    )


def test_percentiles_are_null_below_their_count_with_the_reason():
    found = of(made(arm("a", n_calls=100), "a"), "a")
    assert found["latency_p95_ms"] == pytest.approx(1.95, rel=0.02)
    assert found["latency_p95_ms_low"] < found["latency_p95_ms"] < found["latency_p95_ms_high"]
    assert found["latency_p97_ms"] is None
    assert "p97 needs 152 a process, the least had 100" in found["latency_p97_ms_interval"]


def test_a_block_run_again_counts_once():
    rows = [*arm("a", n=3), process("a", 2, 5.0)]
    found = of(made(rows, "a"), "a")
    assert found["processes"] == 3 and found["latency_max_ms"] == 5.0


def test_uses_are_compared_among_themselves():
    rows = arm("a", seed=1) + arm("b", 1.2, seed=2)
    rows += arm("a", 3.0, seed=3, use="server", loadgen="VALID", rate_per_s=100.0)
    rows += arm("b", 3.0, seed=4, use="server", loadgen="INVALID: too short", rate_per_s=80.0)
    table = made(rows, "a", "b")
    found = table["b", "clean", "server"]
    assert found["ratio"] is None and "rate_per_s" in found["ratio_interval"]
    assert (found["loadgen"], found["rate_per_s"]) == ("5 of 5: INVALID: too short", 80.0)
    assert table["a", "clean", "server"]["loadgen"] == "VALID"


def test_failed_arms_say_why():
    rows = [*arm("a"), process("b", outcome="error", message="it broke")]
    found = of(made(rows, "a", "b"), "b")
    assert (found["status"], found["note"], found["verdict"]) == ("error", "it broke", None)


# Trust.


def reasons(rows, constrained=False, perturbed=False, queued=False):
    found = trust.findings(rows, constrained=constrained, perturbed=perturbed, queued=queued)
    assert all(each.what and each.remedy and "; " not in str(each) for each in found)
    assert trust.verdict(found) == ("unstable" if found else "trustworthy")
    return [each.what for each in found]


def test_a_quiet_machine_is_trustworthy():
    assert reasons(arm("a")) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"others_cpu": 0.5}, "busy"),
        ({"steal_share": 0.05}, "hypervisor"),
        ({"swapped_pages": 3}, "swapped"),
        ({"cpu_throttles": 1}, "heat"),
        ({"throttled_periods": 2}, "quota"),
        ({"frequency_min_mhz": 2000.0, "frequency_max_mhz": 3000.0}, "frequencies"),
        ({"relative_sd": 0.3}, "vary"),
        ({"autocorrelation": 0.97}, "drift"),
        ({"same_input_speedup": 1.2}, "repeated"),
        ({"sampled_agreement": 0.5}, "agree"),
    ],
)
def test_what_is_wrong_is_named(changes, word):
    (what,) = reasons(arm("a", **changes))
    assert word in what


def test_processes_that_differ_are_unstable_unless_faults_make_them():
    assert "differ" in reasons(arm("a", spread=0.2))[0]
    assert reasons(arm("a", spread=0.2), perturbed=True) == []


def test_too_few_processes_are_unstable():
    assert "at least 5" in reasons(arm("a", n=4))[0]


def test_what_a_condition_brings_about_is_no_reproach():
    disturbed = arm("a", spread=0.2, others_cpu=1.0, throttled_periods=9, relative_sd=0.5)
    assert reasons(disturbed, constrained=True) == []


def test_waiting_in_a_queue_is_no_drift():
    assert reasons(arm("a", autocorrelation=0.99, relative_sd=0.8), queued=True) == []


# The noise floor.


def test_the_floor_is_what_equal_environments_hide():
    rows = [each for i in range(4) for each in arm(f"same{i}", spread=0.02, n=10, seed=i)]
    found = noise.floor(rows)
    assert found["spread"] == pytest.approx(0.02, rel=0.35)
    assert found["spread"] < found["spread_high"]
    assert found["floor"] == pytest.approx(stats.noise_ratio(found["spread"], 10) - 1)
    assert found["floor_10_processes"] == found["floor"] < found["floor_5_processes"]
    assert 0 < found["largest"] < 0.05


def test_a_floor_needs_several_environments_and_processes():
    with pytest.raises(RequestError, match="too few"):
        noise.floor(arm("same0", n=10))
    with pytest.raises(RequestError, match="too few"):
        noise.floor(arm("same0", n=2) + arm("same1", n=2))


def test_the_floor_is_kept_for_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path))
    assert noise.known() is None
    noise.keep({"floor": 0.03})
    assert noise.known() == {"floor": 0.03}
    next((tmp_path / "noise").iterdir()).write_text("{")
    assert noise.known() is None
