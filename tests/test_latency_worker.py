"""Latency end to end with a backend that computes in NumPy."""

from __future__ import annotations

import pytest

from hwbench import engine, noise
from hwbench.collect import collect
from hwbench.execute import Stop
from hwbench.samples import PERCENTILES

QUICK = {"processes": 2, "min_duration_s": 0.01, "min_count": 20, "warmup_s": 0}


def run(rig, **changes):
    options = engine.Options(output=rig.folder / "run", workers=1, cache=rig.cache)
    store = engine.start(rig.spec(**changes), options, engine.Silent(), Stop())
    measured = [each for each in store.read("processes").to_pylist() if each["kind"] == "latency"]
    return store, measured


@pytest.fixture(scope="module")
def denormal():
    """Clears the exponent of every weight: what is left is denormal, or zero."""
    bits = list(range(23, 31))
    return {"stuckat": {"rate": 1.0, "value": 0, "bits": bits}, "latency": True, "patterns": 1}


def test_latency_under_stored_faults_is_that_of_the_faulty_artifact(rig, denormal):
    flips = {"bitflip": {"rate": 0.2}, "name": "flips", "latency": True, "patterns": 2}
    store, measured = run(rig, scenarios=["clean", denormal, flips], latency=QUICK)
    assert {each["outcome"] for each in measured} == {"ok"}
    named = {name: [e for e in measured if e["scenario"] == name] for name in ("clean", "flips")}
    assert {each["pattern"] for each in named["clean"]} == {None}
    assert {each["pattern"] for each in named["flips"]} == {0, 1}, "each process has its own chip"
    assert all(each["sampled_agreement"] == 1.0 for each in named["clean"])
    stuck = [each for each in measured if each["scenario"] not in named]
    assert all(each["stored_denormal"] > 10 for each in stuck)
    table = collect(store)["latency"].set_index("scenario")
    assert "denormal weights" in table.loc[stuck[0]["scenario"], "odd_numbers"]
    assert table.loc["flips", "slowdown"] > 0


def test_faults_that_pass_with_an_inference_are_not_timed(rig):
    flip = {"bitflip": {"rate": 0.1, "target": "activations"}, "name": "passing", "latency": True}
    _, measured = run(rig, scenarios=["clean", flip], latency=QUICK)
    passing = [each for each in measured if each["scenario"] == "passing"]
    assert {each["outcome"] for each in passing} == {"unsupported"}
    assert "replayed" in passing[0]["message"]


def test_what_is_told_of_a_process(rig):
    store, measured = run(rig, scenarios=["clean"], latency={**QUICK, "batch": [1, 4]})
    for each in measured:
        values = [each[name] for name in PERCENTILES]
        assert values == sorted(values) and values[0] > 0
        assert each["n_sampled"] > 0 and each["throughput_per_s"] > 0
        assert (each["use"], each["loadgen"]) == ("singlestream", None)
        assert each["same_input_speedup"] > 0
    table = collect(store)["latency"]
    assert table["trust"].tolist() == ["unstable"] * 2
    assert table["trust_reasons"].str.contains("2 of at least 5 processes").all()
    assert (table["time_to_first_ms"] > table["load_ms"]).all()
    refused = table["latency_p999_ms_interval"].str.contains("p99.9 needs 4603 a process")
    assert table["latency_p999_ms"].isna().all() and refused.all()


def test_a_percentile_that_is_asked_for_is_given_its_calls(rig):
    store, measured = run(rig, scenarios=["clean"], latency={**QUICK, "percentile": "p97"})
    assert all(each["n_calls"] >= 152 for each in measured)
    assert collect(store)["latency"]["latency_p97_ms"].notna().all()


def test_answers_that_are_not_the_models_are_seen(rig):
    """A session whose answers depend on the number of calls: fast, and of another function."""
    flaky = {"backend": "fake", "options": {"flaky": "call"}}
    task = {"kind": "other", "tolerance": 1e-4}
    _, measured = run(rig, environments=[flaky], scenarios=["clean"], task=task, latency=QUICK)
    assert all(each["sampled_agreement"] < 0.99 for each in measured if each["outcome"] == "ok")


def test_uses_need_loadgen_or_say_so(rig):
    from hwbench.loadgen import MODULE

    latency = {**QUICK, "processes": 1, "use": ["singlestream", "offline"]}
    store, measured = run(rig, scenarios=["clean"], latency=latency)
    (offline,) = [each for each in measured if each["use"] == "offline"]
    try:
        __import__(MODULE)
    except ModuleNotFoundError:
        assert offline["outcome"] == "unsupported" and "hwbench[loadgen]" in offline["message"]
    else:
        assert (offline["outcome"], offline["loadgen"]) == ("ok", "VALID")
    assert len(collect(store)["latency"]) == 2


def test_a_server_needs_a_bound(rig):
    with pytest.raises(ValueError, match="needs a bound"):
        rig.spec(latency={"use": "server"})
    assert rig.spec(latency={"use": "server", "server": {"p99_ms": 5}}).latency.use == ["server"]


def test_runs_know_the_noise_floor(rig):
    noise.keep({"floor": 0.5})
    store, _ = run(rig, scenarios=["clean"], latency=QUICK)
    assert collect(store)["latency"]["threshold"].tolist() == [0.5]
