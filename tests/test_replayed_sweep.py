"""Sweeps that replay: the records of whole runs, campaigns that stop, and deaths in company."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench import engine
from hwbench.campaign import outcome
from hwbench.collect import collect
from hwbench.engine import Options, Silent
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.spec import Spec
from hwbench.spec.cases import expand
from hwbench.store import Store
from hwbench.worker import perturb

from .conftest import SAMPLES, Rig

N_BATCHES = 3
EXHAUSTIVE = 3 * 6 * 32


def run(folder: Path, spec: Spec, workers: int = 2, stop: Stop | None = None) -> Store:
    options = Options(output=folder, workers=workers)
    return engine.start(spec, options, Silent(), Stop() if stop is None else stop)


def rows(store: Store, part: str, *without: str) -> list[dict[str, Any]]:
    """All rows of a part, in an order of their own."""
    found = store.read(part).to_pylist()
    kept = [{k: v for k, v in each.items() if k not in without} for each in found]
    return sorted(kept, key=lambda row: json.dumps(row, default=repr, sort_keys=True))


def digits(scenarios: list[Any], precision: str = "fp32", **more: Any) -> Spec:
    return Spec.model_validate(
        {
            "model": {"builtin": "digits-cnn"},
            "data": {"builtin": "digits", "limit": 100, "batch": 40},
            "environments": [{"backend": "onnxruntime", "precision": precision}],
            "scenarios": scenarios,
            "latency": False,
            **more,
        }
    )


FAULTS = [
    {"singlebit": {"balance": "bit"}, "patterns": 80, "sites": {"kinds": ["weight", "bias"]}},
    {"bitflip": {"count": 1, "adjacent": 2, "exposure": "transient"}, "patterns": 70},
    {"stuckat": {"value": 1, "count": 3}, "patterns": 70},
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_replay_tells_the_records_of_whole_runs(tmp_path, precision):
    fast = run(tmp_path / "fast", digits(FAULTS, precision))
    slow = run(tmp_path / "slow", digits(FAULTS, precision, replay=False))
    assert rows(fast, "records", "method") == rows(slow, "records", "method")
    assert rows(fast, "faults") == rows(slow, "faults")
    methods = {row["method"] for row in rows(fast, "records")}
    assert methods & {"grouped", "suffix"}
    assert {row["method"] for row in rows(slow, "records")} <= {"naive", "unedited"}
    told = [row["replay"] for row in rows(fast, "processes") if row["replay"]]
    assert sum(sum(json.loads(each)["trials"].values()) for each in told) > 0


ACTIVATIONS = [
    {"singlebit": {"target": "activations"}, "patterns": 8},
    {"bitflip": {"target": "activations", "rate": 3e-4}, "patterns": 3},
    {"bitflip": {"target": "activations", "count": 2, "exposure": "resident"}, "patterns": 5},
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_faults_in_activations_do_not_depend_on_the_batch(tmp_path, precision):
    """Each sample has faults of its own, whatever the batch that it travels in."""
    small = digits(ACTIVATIONS, precision, data={"builtin": "digits", "limit": 60, "batch": 20})
    large = digits(ACTIVATIONS, precision, data={"builtin": "digits", "limit": 60, "batch": 60})
    one, two = run(tmp_path / "small", small), run(tmp_path / "large", large, workers=1)
    assert rows(one, "faults", "edits_hash") == rows(two, "faults", "edits_hash")
    counted = [
        {key: sum(row[key] for row in rows(store, "records")) for key in ("n_masked", "n_sdc")}
        for store in (one, two)
    ]
    assert counted[0] == counted[1]
    assert counted[0]["n_sdc"] > 0


def test_a_fault_in_an_activation_is_what_the_record_says(tmp_path):
    """The faulty number, written into the graph by hand, gives the outcomes that were recorded."""
    spec = digits([{"singlebit": {"target": "activations"}, "patterns": 3}])
    store = run(tmp_path / "run", spec)
    faults = store.read("faults").to_pylist()
    assert len(faults) == 3 * 100
    assert {row["kind"] for row in faults} == {"activation"}
    for row in faults:
        assert int(row["before"], 16) ^ int(row["after"], 16) == int(row["mask"], 16)
        assert 0 <= row["row"] < 100


def test_transient_faults_in_weights_differ_from_batch_to_batch(tmp_path):
    spec = digits([{"bitflip": {"count": 1, "exposure": "transient"}, "patterns": 70}])
    hashes: dict[int, set[str]] = {}
    for row in rows(run(tmp_path / "run", spec), "records"):
        if row["scenario"] != "clean":
            hashes.setdefault(row["pattern"], set()).add(row["edits_hash"])
    assert all(len(found) == N_BATCHES for found in hashes.values())


def environment(**options: Any) -> dict[str, Any]:
    return {"backend": "fake", "options": {"replay": True, **options}, "label": "replay"}


SINGLE = {"singlebit": {}, "patterns": 80}
KNOWN = {"singlebit": {}, "campaign": {"margin": 0.2, "per_round": 40, "estimand": "any_sdc"}}


def struck_by(rig: Rig, pattern: int) -> str:
    """The weights of one pattern of single flips."""
    import onnx
    from onnx import numpy_helper

    from hwbench import edits
    from hwbench.backend import Site

    from .fakes.hwbench_fake import digest

    held = {each.name: each for each in onnx.load(str(rig.model)).graph.initializer}
    weight = np.array(numpy_helper.to_array(held["weight"]))
    case = expand([SINGLE])[-1]
    site = Site("weight", "weight", "float32", weight.shape, "Gemm", "fc")
    drawn, _ = perturb.draw(case, 0, [site], perturb.Which(0, pattern))
    return str(digest(edits.apply(weight, drawn)))


@pytest.mark.parametrize("how", ["segv", "error"])
def test_a_fault_that_kills_in_company_is_charged_alone(rig, how):
    spec = rig.spec(
        scenarios=[SINGLE],
        environments=[environment(die=how, at="load", on=struck_by(rig, 7))],
    )
    store = run(rig.folder / "run", spec)
    found = rows(store, "records")
    assert len(found) == N_BATCHES * (1 + 80)
    lost = [row for row in found if row["outcome"] != "ok"]
    assert {row["pattern"] for row in lost} == {7}
    assert {row["outcome"] for row in lost} == {"crash" if how == "segv" else "error"}


def lost(store: Store) -> set[tuple[str, str]]:
    """Outcome and scenario of what did not go well."""
    bad = [row for row in rows(store, "records") if row["outcome"] != "ok"]
    return {(row["scenario"], row["outcome"]) for row in bad}


def test_a_fault_that_does_not_land_is_an_error(rig):
    deaf = {"backend": "fake", "options": {"lands": False}}
    entry = {"bitflip": {"count": 2}, "patterns": 2}
    store = run(rig.folder / "run", rig.spec(scenarios=[entry], environments=[deaf]))
    assert lost(store) == {("bitflip-weights", "error")}
    assert any("did not land" in (row["message"] or "") for row in rows(store, "records"))


@pytest.mark.parametrize("stays", [False, True])
def test_a_live_fault_that_stays_is_an_error(rig, stays):
    place = {"backend": "fake", "options": {"stays": stays}}
    entry = {"bitflip": {"count": 4, "bits": [30]}, "patterns": 3, "residence": "live"}
    store = run(rig.folder / "run", rig.spec(scenarios=[entry], environments=[place]), workers=1)
    messages = [row["message"] or "" for row in rows(store, "processes")]
    assert any("were not taken back" in each for each in messages) is stays
    if not stays:
        assert lost(store) == set()
        assert len({row["pattern"] for row in rows(store, "faults")}) == 3


def test_a_campaign_stops_at_its_margin(rig):
    spec = rig.spec(scenarios=[KNOWN], environments=[environment()])
    store = run(rig.folder / "run", spec)
    (row,) = collect(store)["campaigns"].to_dict("records")
    assert row["status"] == "ok"
    assert row["reached"]
    assert row["rate_high"] - row["rate_low"] <= 2 * 0.2
    assert row["population"] == EXHAUSTIVE
    assert row["faults"] % 40 == 0
    truth = run(rig.folder / "all", rig.spec(scenarios=[{"singlebit": {}, "patterns": EXHAUSTIVE}]))
    by_pattern: dict[int, int] = {}
    for each in rows(truth, "records"):
        if each["scenario"] != "clean":
            by_pattern.setdefault(each["pattern"], 0)
            by_pattern[each["pattern"]] += each["n_sdc"]
    rate = np.mean([outcome("any_sdc", changed, SAMPLES) for changed in by_pattern.values()])
    assert row["rate_low"] <= rate <= row["rate_high"]


def test_a_campaign_is_the_same_however_it_is_run(rig):
    """One worker or two, straight through or stopped and resumed."""
    spec = rig.spec(scenarios=[KNOWN], environments=[environment()])
    whole = run(rig.folder / "whole", spec, workers=2)
    stop = Stop()

    class Impatient(Silent):
        def advance(self, steps: int) -> None:
            stop.request()

    options = Options(output=rig.folder / "cut", workers=1)
    engine.start(spec, options, Impatient(), stop)
    assert len(rows(Store.open(rig.folder / "cut"), "records")) < len(rows(whole, "records"))
    cut = engine.resume(rig.folder / "cut", Options(workers=1), Silent(), Stop())
    assert rows(cut, "records") == rows(whole, "records")
    assert collect(cut)["campaigns"].equals(collect(whole)["campaigns"])


def test_a_campaign_without_faults_is_unsupported(rig):
    nowhere = {**KNOWN, "sites": {"include": ["nothing"]}}
    store = run(rig.folder / "run", rig.spec(scenarios=[nowhere]))
    (row,) = collect(store)["campaigns"].to_dict("records")
    assert row["status"] == "unsupported"
    assert "finds no site" in row["note"]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"bitflip": {"rate": 1e-3}, "campaign": {}}, "no single faults"),
        ({"singlebit": {}, "campaign": {}, "patterns": 5}, "do not go together"),
        ({"singlebit": {}, "campaign": {"margin": 2}}, "half-width"),
        ({"singlebit": {}, "campaign": {"margins": 0.1}}, "unknown key"),
        ({"singlebit": {}, "campaign": 5}, "a mapping"),
        ([{"singlebit": {}, "campaign": {}}, {"noise": {"snr_db": 10}}], "not stacked"),
    ],
)
def test_campaigns_that_mean_nothing_are_refused(entry, what):
    with pytest.raises(RequestError, match=what):
        expand([entry])


def test_a_budget_does_not_cut_a_campaign(rig):
    with pytest.raises(RequestError, match="do not go together"):
        run(rig.folder / "run", rig.spec(scenarios=[KNOWN], budget="5m"))


def test_activations_need_a_runtime_that_shows_them(rig):
    entry = {"singlebit": {"target": "activations"}, "patterns": 2}
    store = run(rig.folder / "run", rig.spec(scenarios=[entry]))
    cells = collect(store)["cells"].set_index("scenario")
    assert cells["status"]["singlebit-activations"] == "unsupported"
    assert "shows nothing unless told to" in cells["note"]["singlebit-activations"]
