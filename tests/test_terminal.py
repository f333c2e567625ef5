"""The terminal's summary of a run with many cells, and single tables printed."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hwbench.cli import app
from hwbench.collect import collect
from hwbench.report.terminal import summary
from hwbench.spec import load_mapping
from hwbench.testing.runs import generate


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    content = {
        "models": {"large": {"builtin": "digits-cnn"}, "small": {"builtin": "digits-cnn"}},
        "data": {"builtin": "digits", "batch": 64, "limit": 128},
        "environments": [{"backend": "onnxruntime", "precision": ["fp32", "int8"]}],
        "scenarios": [
            {"noise": {"snr_db": [float(each) for each in range(25)]}, "patterns": 1},
            {"bitflip": {"rate": [2e-7 * each for each in range(1, 26)]}, "patterns": 2},
        ],
    }
    return generate(load_mapping(content), folder / "run", cache=folder / "cache")


def printed(store, width):
    made = io.StringIO()
    plan = store.read_json("plan.json")
    Console(file=made, width=width).print(summary(collect(store), {}, plan["baseline"], []))
    return made.getvalue()


def test_fifty_cells_fit_a_terminal(store):
    text = printed(store, 160)
    assert "the 7 most harmful of 50 cells: tables/drift.csv" in text
    assert max(map(len, text.splitlines())) <= 160
    assert len(text.splitlines()) < 80
    for line in text.splitlines():  # a folded number would stand below the one it belongs to
        if line.startswith("onnxruntime-cpu-fp32-t1") and "ok" not in line:
            assert line.count(".") >= 1


def test_the_most_harmful_cells_are_those_shown(store):
    drift = collect(store)["drift"].query("model == 'large' and scenario != 'clean'")
    worst = drift.sort_values("drift").iloc[0]
    text = printed(store, 200)
    assert f"{100 * worst['accuracy']:.2f} {100 * worst['drift']:+.2f}" in text


def test_models_stand_side_by_side(store):
    text = printed(store, 160)
    assert "Models: loss under each scenario against the first" in text
    assert "reference" in text


@pytest.mark.parametrize("form", ["csv", "json", "markdown"])
def test_a_table_alone_is_printed(store, form):
    before = sorted(store.folder.rglob("*"))
    arguments = ["report", str(store.folder), "--table", "cells", "--format", form]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
    elif form == "json":
        rows = json.loads(result.stdout)
    else:
        head, _, *lines = result.stdout.splitlines()
        names = [each.strip() for each in head.strip("|").split("|")]
        rows = [dict(zip(names, line.strip("|").split("|"), strict=True)) for line in lines]
    assert len(rows) == 2 * 2 * 51
    assert {row["scenario"].strip() for row in rows} == {
        "clean",
        "noise-inputs",
        "bitflip-weights",
    }
    assert sorted(store.folder.rglob("*")) == before
