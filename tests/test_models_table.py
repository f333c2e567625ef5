"""Models side by side: differences against the first one, on the same samples."""

from __future__ import annotations

import pytest

from hwbench.collect import collect
from hwbench.spec import load_mapping
from hwbench.testing.runs import generate


def drawn(folder, **changes):
    content = {
        "models": {"large": {"builtin": "digits-cnn"}, "small": {"builtin": "digits-cnn"}},
        "data": {"builtin": "digits", "batch": 64, "limit": 200},
        "environments": [{"backend": "onnxruntime", "precision": ["fp32", "int8"]}],
        "scenarios": [
            {"bitflip": {"rate": 1e-6}, "patterns": 12},
            {"noise": {"snr_db": [10.0, 0.0]}, "patterns": 2},
            {"stuckat": {"rate": 1e-6}, "patterns": 3},
        ],
    }
    return generate(load_mapping({**content, **changes}), folder / "run", cache=folder / "cache")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return collect(drawn(tmp_path_factory.mktemp("models")))


def test_models_stand_below_one_another(tables):
    found = tables["models"]
    assert found["model"].tolist() == ["large", "small"] * (len(found) // 2)
    assert found["environment"].is_monotonic_increasing
    assert set(found["reference"]) == {"large"}
    first = found[found["model"] == "large"]
    assert set(first["accuracy_difference_interval"]) == {"the first model"}
    assert first["accuracy_difference"].isna().all()


def test_differences_are_those_of_the_table_of_drift(tables):
    drift = {
        (row["model"], row["environment"], row["scenario"], str(row["severity"])): row
        for row in tables["drift"].to_dict("records")
    }
    compared = 0
    for row in tables["models"].query("model == 'small'").to_dict("records"):
        key = (row["environment"], row["scenario"], str(row["severity"]))
        one, two = drift["small", *key], drift["large", *key]
        expected = one["accuracy"] - two["accuracy"]
        assert row["accuracy_difference"] == pytest.approx(expected, abs=1e-12)
        if row["scenario"] != "clean":
            expected = one["drift"] - two["drift"]
            assert row["drift_difference"] == pytest.approx(expected, abs=1e-12)
            compared += 1
    assert compared == 2 * 4


def test_intervals_hold_their_value_where_there_are_enough_patterns(tables):
    found = tables["models"].query("model == 'small'")
    for name in ("accuracy_difference", "drift_difference"):
        known = found[found[f"{name}_low"].notna()]
        assert len(known) >= 6
        assert (known[f"{name}_low"] <= known[name]).all()
        assert (known[name] <= known[f"{name}_high"]).all()
    few = found[found["scenario"].str.contains("stuckat")]
    assert set(few["drift_difference_interval"]) == {"too few patterns"}
    assert few["holds"].isna().all()


def test_the_cost_stands_beside(tables):
    clean = tables["latency"].set_index(["model", "environment"])["latency_p50_ms"]
    for row in tables["models"].to_dict("records"):
        assert row["latency_p50_ms"] == clean[row["model"], row["environment"]]
        assert row["run_peak_rss_mib"] == 100.0


def test_a_model_that_loses_more_is_named(tmp_path):
    """One whose every right answer is lost under noise, on the same samples."""
    store = drawn(tmp_path, scenarios=[{"noise": {"snr_db": 10.0}, "patterns": 2}], latency=False)
    folder = store.folder / "records"
    table = store.read("records")
    for file in folder.glob("*.parquet"):
        file.unlink()
    hit = [
        bytes(len(correct)) if cell.startswith("small/") and "noise" in cell else correct
        for cell, correct in zip(
            table["cell"].to_pylist(), table["correct"].to_pylist(), strict=True
        )
    ]
    index = table.schema.get_field_index("correct")
    store.append_table("records", table.set_column(index, table.schema.field("correct"), [hit]))
    found = collect(store)["models"].query("model == 'small' and scenario != 'clean'")
    assert set(found["holds"]) == {"worse"}
    assert (found["drift_difference"] < -0.5).all()
    assert (found["only_here"] > 10 * found["only_reference"]).all()


def test_one_model_is_beside_none(tmp_path):
    one = drawn(tmp_path, models={"only": {"builtin": "digits-cnn"}}, latency=False)
    assert collect(one)["models"].empty
