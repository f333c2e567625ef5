"""A budget becomes smaller counts: never fewer cells, never in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwbench import budget
from hwbench.budget import Cost, resolve
from hwbench.errors import RequestError
from hwbench.spec.cases import expand

from .test_strategy import plan

KEYS = [("net", "a-cpu-fp32-t1"), ("net", "b-cpu-fp32-t1")]
COSTS = {key: Cost(start_s=0.5, load_s=0.1, batch_s=0.02) for key in KEYS}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), (" 1.5 m ", 90), ("0.5h", 1800)],
)
def test_times(text, expected):
    assert budget.seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "90", "s", "0s", "0.0h", "-5m", "5 days", "1e3s", "1m30s", "٣s"]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(RequestError, match=r"budget: .* is no time\. Hint: .*30m"):
        budget.seconds(text)


def patterns(spec) -> list[int]:
    return [case.patterns for case in expand(spec.scenarios) if case.layers]


def test_enough_time_changes_nothing(tmp_path: Path):
    made = plan(tmp_path)
    found = resolve(made, COSTS, 1e6, workers=1)
    assert (found.share, found.fits) == (1.0, True)
    assert found.spec == made.spec.model_copy(update={"budget": None})


def test_the_estimate_is_the_sum_of_its_parts(tmp_path: Path):
    """Two environments; 10 patterns of flips load twice each; 2 of noise; 3 batches a pattern."""
    found = resolve(plan(tmp_path, latency=False), COSTS, 1e6, workers=1)
    assert found.estimate_s == pytest.approx(2 * (0.5 + 10 * (0.2 + 0.06) + 2 * 0.06))
    halved = resolve(plan(tmp_path, latency=False), COSTS, 1e6, workers=2)
    assert halved.estimate_s == pytest.approx(found.estimate_s / 2)


@pytest.mark.parametrize("left_s", [3, 20, 60, 200, 600])
def test_counts_shrink_until_they_fit(tmp_path: Path, left_s):
    scenarios = [
        {"bitflip": {"rate": [0.1, 0.2]}, "patterns": 500},
        [{"bitflip": {"rate": 0.1}}, {"noise": {"snr_db": 3}, "patterns": 100}],
        {"noise": {"snr_db": 9}},
    ]
    made = plan(tmp_path, scenarios=scenarios, latency={"processes": 20})
    found = resolve(made, COSTS, left_s, workers=1)
    assert found.fits == (found.estimate_s <= left_s)
    counts = patterns(found.spec)
    assert len(counts) == len(patterns(made.spec)), "no cell is lost"
    assert counts == [max(1, int(n * found.share)) for n in patterns(made.spec)]
    assert found.spec.latency is not None
    assert 3 <= found.spec.latency.processes <= 20
    assert found.spec.budget is None
    if left_s >= 60:
        assert found.fits and found.estimate_s > 0.5 * left_s, "the time is used"


def test_less_time_gives_fewer_patterns(tmp_path: Path):
    made = plan(tmp_path, scenarios=[{"bitflip": {"rate": 0.1}, "patterns": 1000}], latency=False)
    counts = [patterns(resolve(made, COSTS, left, 1).spec)[0] for left in (5, 50, 500, 5000)]
    assert counts == sorted(set(counts)) and counts[-1] == 1000


def test_too_little_time_is_told(tmp_path: Path):
    for left_s in (0.1, -5):
        found = resolve(plan(tmp_path), COSTS, left_s, workers=1)
        assert not found.fits
        assert set(patterns(found.spec)) == {1}


def test_fewer_processes_than_three_are_not_raised_to_three(tmp_path: Path):
    made = plan(tmp_path, latency={"processes": 2})
    found = resolve(made, COSTS, 1, workers=1)
    assert found.spec.latency is not None and found.spec.latency.processes == 2
