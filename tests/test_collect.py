"""Numbers of a cell, against numbers counted by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hwbench import score, stats
from hwbench.collect import cell as numbers
from hwbench.collect.records import Records, by_cell
from hwbench.record import RECORDS, row
from hwbench.store import schema

N, BATCH = 5, 3
CELL = "m/e/c"
WIDTH = sum(metric.width for metric in score.METRICS)


def record(pattern, batch, outcomes, right, **changes):
    outcome = np.array(outcomes, np.uint8)
    values = {
        "cell": CELL,
        "pattern": pattern,
        "batch": batch,
        "outcome": "ok",
        "n_samples": len(outcomes),
        **{f"n_{o.name.lower()}": int((outcome == o).sum()) for o in score.Outcome},
        "outcomes": score.pack(outcome),
        "correct": None if right is None else np.packbits(right).tobytes(),
        "partials": score.packed(np.ones(WIDTH)),
    }
    return row("records", {**values, **changes})


CLEAN = [record(0, 0, [0, 0, 0], [1, 1, 0]), record(0, 1, [0, 0], [1, 1])]
FAULTY = [
    record(1, 1, [3, 1], [0, 1], n_edits=4),
    record(0, 0, [0, 1, 2], [1, 1, 0], n_edits=2),
    record(0, 1, [0, 0], [1, 1], n_edits=3),
    row("records", {"cell": CELL, "pattern": 1, "batch": 0, "outcome": "crash"}),
]


def arrange(rows, n_samples, batch, labelled):
    return numbers.arrange(Records.of(rows), n_samples, batch, labelled)


def test_records_become_matrices_in_dataset_order():
    made = arrange(FAULTY, N, BATCH, labelled=True)
    assert made.patterns == (0, 1)
    assert made.correct is not None
    assert made.correct.tolist() == [[1, 1, 0, 1, 1], [0, 0, 0, 0, 1]]
    assert made.harmed.tolist() == [[0, 0, 1, 0, 0], [1, 1, 1, 1, 0]]
    assert Records.of(FAULTY).partials.tolist() == [3.0] * WIDTH
    assert arrange(FAULTY[::-1], N, BATCH, True).harmed.tolist() == made.harmed.tolist()
    assert arrange(FAULTY, N, BATCH, labelled=False).correct is None


def test_accuracy_and_drift():
    clean, faulty = (arrange(rows, N, BATCH, True) for rows in (CLEAN, FAULTY))
    found = numbers.accuracy(clean, "pattern", clean=True)
    expected = stats.wilson(4, 5, 0.95)
    assert (found["accuracy"], found["accuracy_low"]) == (0.8, pytest.approx(expected.low))
    assert numbers.accuracy(faulty, "pattern", clean=False)["accuracy"] == 0.5
    drift = numbers.scenario_drift(faulty, clean, "pattern")
    assert drift["drift"] == pytest.approx(0.5 - 0.8)
    assert drift["drift_low"] is None and drift["drift_interval"] == stats.TOO_FEW_PATTERNS
    itself = numbers.environment_drift(clean, clean)
    assert itself["drift"] == 0 and itself["drift_low"] < 0 < itself["drift_high"]
    assert numbers.environment_drift(clean, None)["drift_interval"] == "no baseline"


def test_paired_drift_uses_the_pairs():
    """Four of five right in both: equal accuracy, but on different samples."""
    one = arrange(CLEAN, N, BATCH, True)
    other_rows = [record(0, 0, [0, 0, 0], [0, 1, 1]), record(0, 1, [0, 0], [1, 1])]
    found = numbers.environment_drift(one, arrange(other_rows, N, BATCH, True))
    expected = stats.newcombe_paired(3, 1, 1, 0, 0.95)
    assert (found["drift"], found["drift_low"]) == (0, pytest.approx(expected.low))


def test_the_two_rates_of_harm_are_not_one():
    found = numbers.harm(arrange(FAULTY, N, BATCH, True), "pattern")
    assert found["harmed_per_sample"] == 0.5
    assert found["harmed_any_pattern"] == 1.0
    assert found["harmed_any_pattern_interval"] == stats.wilson(2, 2, 0.95).method


@pytest.mark.parametrize("unit", ["pattern", "sample"])
def test_intervals_hold_their_value(unit):
    rng = np.random.default_rng(0)
    rows = [record(p, 0, [0, *rng.integers(0, 3, 30).tolist()], [1] * 31) for p in range(40)]
    found = numbers.harm(arrange(rows, 31, 31, True), unit)
    assert (
        found["harmed_per_sample_low"]
        < found["harmed_per_sample"]
        < found["harmed_per_sample_high"]
    )


def test_counts():
    found = numbers.counts(Records.of(FAULTY))
    assert (found["patterns"], found["trials"], found["trials_failed"]) == (2, 4, 1)
    assert found["failures"] == "crash: 1"
    assert [found[f"n_{name}"] for name in ("samples", "masked", "benign", "sdc", "due")] == [
        7,
        3,
        2,
        1,
        1,
    ]
    assert found["edits_mean"] == 3.0
    assert numbers.counts(Records())["edits_mean"] is None


def told_twice():
    """A worker that died told the first pattern; another one told it again, otherwise."""
    again = record(0, 0, [2, 2, 2], [0, 0, 0], n_edits=9)
    return [*FAULTY[:3], again, *FAULTY[3:]]


def test_the_first_record_of_a_trial_counts():
    made, expected = Records.of(told_twice()), Records.of(FAULTY)
    assert len(made) == len(FAULTY)
    assert made.partials.tolist() == expected.partials.tolist()
    assert (made.outcomes(N, BATCH) == expected.outcomes(N, BATCH)).all()
    assert numbers.counts(made) == numbers.counts(expected)


def test_metric_vectors_are_added_in_the_order_of_trials_whatever_the_order_they_came_in():
    """Sums of floats depend on their order; those of a run must not depend on its workers."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, WIDTH)) * 10.0 ** rng.integers(-8, 8, (60, 1))
    rows = [
        record(p, b, [0, 0], [1, 1], partials=score.packed(values[2 * p + b]))
        for p in range(30)
        for b in range(2)
    ]
    total = np.zeros(WIDTH)
    for each in values:
        total += each
    assert (values[::-1].sum(axis=0) != total).any(), "the order matters"
    for order in (range(60), range(59, -1, -1), rng.permutation(60)):
        table = pa.Table.from_pylist([rows[i] for i in order], schema=schema(RECORDS))
        found = by_cell(lambda names, held=table: held.select(names).to_batches(max_chunksize=7))
        assert found[CELL].partials.tolist() == total.tolist()


def test_cells_are_kept_apart():
    other = [{**each, "cell": "m/e/d"} for each in CLEAN]
    table = pa.Table.from_pylist([*FAULTY, *other], schema=schema(RECORDS))
    found = by_cell(lambda names: table.select(names).to_batches(max_chunksize=2))
    assert {cell: len(each) for cell, each in found.items()} == {CELL: 4, "m/e/d": 2}
    assert (found["m/e/d"].outcomes(N, BATCH) == 0).all()
    assert found["m/e/d"].partials.tolist() == [2.0] * WIDTH


def test_an_interval_over_samples_holds_the_mean_that_is_told():
    """Early and late samples may disagree so much that a betting interval lies beside the mean."""
    drawn = np.repeat([1, 0], [160, 40]).astype(np.int8)
    right = np.empty((1, 200), np.int8)
    right[0, np.random.default_rng(0).permutation(200)] = drawn  # looked at in this order
    bare = stats.betting_interval(drawn, 0.0, 1.0, 0.95)
    assert not bare.low <= drawn.mean() <= bare.high
    found, _ = numbers.mean_interval(right, "sample", 0.0, 1.0)
    assert found is not None
    assert (found.low, found.high) == (min(bare.low, 0.8), max(bare.high, 0.8))
