"""What other systems are told about a run, read back by their own parsers where they are here."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from hwbench.cli import app
from hwbench.collect import collect
from hwbench.engine import Options, Silent, start
from hwbench.execute import Stop
from hwbench.sinks import prometheus, tracking
from hwbench.sinks.numbers import QUANTITIES

RUN = {
    "machine": {"fingerprint": "f", "cpu": 'A "B" \\ C\nD'},
    "versions": {"hwbench": "1"},
    "seed": 0,
}


def tables():
    cell = {
        "model": 'a"b\\c\nd',
        "environment": "e",
        "scenario": "noise",
        "severity_name": "snr_db",
    }
    columns = {each.column for each in QUANTITIES}
    row = {**cell, "severity": 10.0, "batch": 1, "use": "singlestream", **dict.fromkeys(columns)}
    drift = [{**row, "accuracy": 0.75}, {**row, "severity": None, "accuracy": 1.0}]
    return {
        "cells": pd.DataFrame([{**cell, "severity": 10.0, "status": "ok"}]),
        "drift": pd.DataFrame(drift),
        "latency": pd.DataFrame([{**row, "latency_p50_ms": 2.0}]),
        "limits": pd.DataFrame([row]),
    }


@pytest.fixture
def run(rig):
    options = Options(output=rig.folder / "run", cache=rig.cache)
    return start(rig.spec(), options, Silent(), Stop()).folder


def test_prometheus_text():
    text = prometheus.text(tables(), RUN, 12.0)
    assert 'hwbench_run_info{fingerprint="f",cpu="A \\"B\\" \\\\ C\\nD",version="1"} 1.0' in text
    place = 'model="a\\"b\\\\c\\nd",environment="e",scenario="noise",severity_name="snr_db"'
    assert f'hwbench_accuracy_ratio{{{place},severity="10"' in text
    assert 'use="singlestream"} 0.002' in text
    assert "hwbench_memory_minimum_bytes" not in text  # nothing was searched
    assert text.endswith("\n")


def test_prometheus_reads_it():
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(prometheus.text(tables(), RUN, 12.0)))
    by_name = {each.name: each for each in families}
    assert {each.type for each in families} == {"gauge"}
    samples = by_name["hwbench_accuracy_ratio"].samples
    assert [each.value for each in samples] == [0.75, 1.0]
    assert samples[0].labels["model"] == 'a"b\\c\nd'
    assert by_name["hwbench_run_info"].samples[0].labels["cpu"] == RUN["machine"]["cpu"]


def test_a_run_as_json_lines_and_as_a_textfile(run, tmp_path):
    before = sorted(run.rglob("*"))
    target = tmp_path / "run.jsonl"
    result = CliRunner().invoke(app, ["export", str(run), str(target), "--to", "jsonl"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    cells = [each for each in rows if each["table"] == "cells"]
    assert len(cells) == 4 and {each["run"] for each in rows} == {"run"}
    textfile = tmp_path / "hwbench.prom"
    assert (
        CliRunner().invoke(app, ["export", str(run), str(textfile), "--to", "prometheus"]).exit_code
        == 0
    )
    assert textfile.read_text().count("hwbench_cell_ok{") == 4
    assert sorted(run.rglob("*")) == before
    assert not list(tmp_path.glob(".*"))  # the rename leaves nothing behind


def test_without_mlflow_one_line_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "m.db"), "--to", "mlflow"])
    assert "pip install" in str(result.exception)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's use of SQLAlchemy
def test_mlflow_reads_it(run, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    target = tmp_path / "m.db"
    assert (
        CliRunner().invoke(app, ["export", str(run), str(target), "--to", "mlflow"]).exit_code == 0
    )
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{target}")
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    [found] = client.search_runs([experiment.experiment_id])
    expected = tracking.named(collect(_store(run)))
    assert found.data.metrics == pytest.approx(expected)
    assert found.data.params["seed"] == "0"


def _store(run):
    from hwbench.store import Store

    return Store.open(run)
