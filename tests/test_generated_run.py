"""Tables of a drawn run against those that dictionaries of rows gave, before they were columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hwbench.collect import collect
from hwbench.collect.schema import TABLES
from hwbench.spec import load_mapping
from hwbench.testing.runs import generate

# Written by the last version that made a dictionary of every record, from this very run.
REFERENCE = Path(__file__).parent / "reference" / "generated_run"
SHOWN = ("cells", "drift", "interaction", "vulnerability", "latency")


def drawn(folder, cache):
    spec = load_mapping(
        {
            "name": "generated",
            "model": {"builtin": "digits-cnn"},
            "data": {"builtin": "digits", "batch": 64, "limit": 200},
            "environments": [{"backend": "onnxruntime", "precision": ["fp32", "int8"]}],
            "scenarios": [
                {"singlebit": {"count": 1}, "patterns": 60},
                {"bitflip": {"rate": 1e-6}, "patterns": 12},
                {"noise": {"snr_db": 10.0}, "patterns": 3},
            ],
        }
    )
    return generate(spec, folder, seed=1, cache=cache)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    return collect(drawn(folder / "run", folder / "cache"))


@pytest.mark.parametrize("name", SHOWN)
def test_columns_give_what_rows_gave(tables, name):
    types = {each.name: "string" for each in TABLES[name] if each.type == "string"}
    expected = pd.read_csv(REFERENCE / f"{name}.csv", dtype=types)
    made = tables[name]
    assert len(made) == len(expected) > 0
    for column in TABLES[name]:
        if column.name not in expected:
            continue  # newer than the reference
        found, wanted = made[column.name], expected[column.name]
        if column.type == "string":
            assert found.fillna("").tolist() == wanted.fillna("").tolist(), column.name
        else:
            found, wanted = (each.astype("float64").to_numpy() for each in (found, wanted))
            np.testing.assert_allclose(found, wanted, rtol=1e-12, err_msg=column.name)


def test_no_cell_is_open(tables):
    assert set(tables["cells"]["status"]) == {"ok"}
    assert tables["cells"]["trials"].sum() == 2 * 4 * (1 + 60 + 12 + 3)
