"""A run that is extended is the run that would have been asked for at first."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from hwbench import engine, extending
from hwbench.collect import collect
from hwbench.engine import Options
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.spec import Spec

from .test_execute import Bounded, records, run

SCENARIOS = [
    "clean",
    {"noise": {"snr_db": [10, 0]}, "patterns": 2},
    {"bitflip": {"rate": 0.005}, "patterns": 3, "name": "flips"},
    {"memory": {"limit": "512MiB"}},
    [{"noise": {"snr_db": 3}}, {"bitflip": {"rate": 0.1}, "patterns": 4}],
    {"singlebit": {}, "campaign": {"margin": 0.1}},
]


def spec(**changes) -> Spec:
    return Spec.model_validate({"scenarios": SCENARIOS, "latency": {"processes": 3}, **changes})


def patterns(made: Spec) -> list[object]:
    rows = [entry if isinstance(entry, list) else [entry] for entry in made.scenarios]
    return [
        next((e["patterns"] for e in row if isinstance(e, dict) and "patterns" in e), None)
        for row in rows
    ]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"patterns": 9}, [None, 9, 9, None, 9, None]),
        ({"patterns": 3}, [None, 3, 3, None, 4, None]),
        ({"noise.patterns": 5}, [None, 5, 3, None, 4, None]),
        ({"noise-inputs.patterns": 5}, [None, 5, 3, None, 4, None]),
        ({"flips.patterns": 5, "patterns": 4}, [None, 4, 5, None, 4, None]),
        ({"memory.patterns": 2}, [None, 2, 3, 2, 4, None]),
    ],
)
def test_counts_grow_where_they_are_meant(counts, expected):
    assert patterns(extending.extended(spec(), counts)) == expected
    again = extending.extended(extending.extended(spec(), counts), counts)
    assert again == extending.extended(spec(), counts), "totals: twice is once"


def test_latency_has_processes():
    made = extending.extended(spec(), {"latency.processes": 7})
    assert made.latency is not None and made.latency.processes == 7


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"typo.patterns": 5}, "no scenario is 'typo'"),
        ({"singlebit.patterns": 5}, "no scenario is 'singlebit'"),
        ({"processes": 5}, "is no count"),
    ],
)
def test_what_means_nothing_is_refused(counts, told):
    with pytest.raises(RequestError, match=told):
        extending.extended(spec(), counts)
    with pytest.raises(RequestError, match="measures no latency"):
        extending.extended(spec(latency=False), {"latency.processes": 5})


@pytest.mark.parametrize("text", ["patterns", "patterns=", "patterns=-1", "patterns=0", "=5"])
def test_a_count_is_a_number(text):
    with pytest.raises(RequestError, match="is no count"):
        extending.parse([text])
    assert extending.parse(["patterns=5", "a.patterns=6"]) == {"patterns": 5, "a.patterns": 6}


def test_counts_are_no_part_of_what_must_match():
    larger = extending.extended(spec(), {"patterns": 50, "latency.processes": 9})
    assert extending.digest(larger) == extending.digest(spec())
    changed = spec(scenarios=["clean", {"noise": {"snr_db": [10, 1]}}, *SCENARIOS[2:]])
    before, after = extending.uncounted(spec()), extending.uncounted(changed)
    assert extending.digest(changed) != extending.digest(spec())
    assert extending.difference(before, after) == "scenarios[1].noise.snr_db[1]"
    assert extending.difference(before, extending.uncounted(spec(seed=4))) == "seed"


def test_an_extended_run_is_the_larger_run(rig):
    """Noise and faults to the bit, a latency block more."""
    latency = {"processes": 1, "min_duration_s": 0.01, "min_count": 3, "warmup_s": 0}
    small = run(rig, "small", latency=latency)
    counts = {"noise.patterns": 4, "patterns": 3, "latency.processes": 2}
    extended = engine.extend(small.folder, counts, Options(workers=1), Bounded(), Stop())
    scenarios = [
        {"noise": {"snr_db": [10, 0]}, "patterns": 4},
        {"bitflip": {"rate": 0.005}, "patterns": 3},
    ]
    whole = run(rig, "whole", scenarios=scenarios, latency={**latency, "processes": 2})
    assert records(extended) == records(whole)
    one, other = collect(extended), collect(whole)
    for name in ("cells", "vulnerability", "interaction"):
        pd.testing.assert_frame_equal(one[name], other[name], check_exact=True)
    assert one["latency"]["processes"].tolist() == [2]
    (told,) = extended.read_json("run.json")["extensions"]
    assert told["counts"] == counts
    assert yaml.safe_load((extended.folder / "spec.yaml").read_text())["latency"]["processes"] == 2
    with pytest.raises(RequestError, match="the run has more already: patterns"):
        engine.extend(small.folder, {"patterns": 1}, Options(), Bounded(), Stop())


def test_an_extension_that_was_noted_is_done_by_resuming(rig):
    """Killed right behind the note: from then on the run is the larger one."""
    from hwbench import runfile

    store = run(rig, "run", scenarios=[{"noise": {"snr_db": 0}, "patterns": 2}])
    runfile.note_extension(store, {"patterns": 5})
    resumed = engine.resume(store.folder, Options(), Bounded(), Stop())
    cells = collect(resumed)["cells"].set_index("scenario")
    assert cells["patterns"]["noise-inputs"] == 5


def test_a_changed_spec_is_refused_by_name_and_counts_may_differ(rig):
    store = run(rig, "run")
    fewer = rig.spec(scenarios=[{"noise": {"snr_db": [10, 0]}}, {"bitflip": {"rate": 0.005}}])
    engine.resume(store.folder, Options(), Bounded(), Stop(), fewer)
    changed = rig.spec(deadline_s=61)
    with pytest.raises(RequestError, match="the spec has changed since this run began: deadline_s"):
        engine.resume(store.folder, Options(), Bounded(), Stop(), changed)


def test_a_run_is_not_finished_by_another_table_of_rates(rig, tmp_path):
    table = tmp_path / "rates.csv"
    table.write_text("celsius,ber\n25,1e-4\n85,1e-3\n")
    scenarios = [{"temperature": {"table": str(table), "celsius": [25]}, "patterns": 2}]
    store = run(rig, "run", scenarios=scenarios)
    engine.resume(store.folder, Options(), Bounded(), Stop())
    table.write_text("celsius,ber\n25,1e-3\n85,1e-2\n")
    with pytest.raises(RequestError, match=r"rates\.csv has changed since this run began"):
        engine.resume(store.folder, Options(), Bounded(), Stop())
