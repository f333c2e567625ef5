"""Metrics that a user brings: run with permission only, told per cell, refused when malformed."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench import engine
from hwbench.collect import collect
from hwbench.engine import Options, Silent
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.worker import golden

from .conftest import SAMPLES, write_data

MINE = """
import numpy as np

def margin(outputs, labels):
    best = np.sort(outputs, axis=-1)
    return best[:, -1] - best[:, -2]

def right(outputs, labels):
    return (outputs.argmax(-1) == labels).astype(float)

def one(outputs, labels):
    return 1.0
"""


def run(rig, monkeypatch, *metrics: str, allow: bool = True):
    (rig.folder / "mine.py").write_text(MINE)
    monkeypatch.chdir(rig.folder)
    options = Options(output=rig.folder / "run", workers=1, allow_code=allow)
    return engine.start(rig.spec(metrics=list(metrics)), options, Silent(), Stop())


def test_values_are_means_over_samples(rig, monkeypatch):
    store = run(rig, monkeypatch, "mine:margin", "mine:right")
    tables = collect(store)
    found = tables["metrics"].set_index(["scenario", "severity", "metric"])
    assert set(found["status"]) == {"ok"}
    clean = tables["metrics"].query("scenario == 'clean'").set_index("metric")
    assert clean["n"].tolist() == [SAMPLES, SAMPLES]
    (path,) = (store.folder / "golden").glob("*.npz")
    best = np.sort(golden.read(path)["logits"].astype(np.float64), axis=-1)
    assert clean["value"]["mine:margin"] == pytest.approx((best[:, -1] - best[:, -2]).mean())
    drift = tables["drift"].set_index("scenario")["accuracy"]
    assert clean["value"]["mine:right"] == pytest.approx(drift["clean"])


def test_other_data_are_measured_too(rig, monkeypatch):
    write_data(rig.folder / "other.npz", seed=5)
    (rig.folder / "mine.py").write_text(MINE)
    monkeypatch.chdir(rig.folder)
    scenarios = [{"dataset": {"npz": str(rig.folder / "other.npz"), "labels": "y"}}]
    spec = rig.spec(metrics=["mine:right"], scenarios=scenarios)
    options = Options(output=rig.folder / "run", workers=1, allow_code=True)
    tables = collect(engine.start(spec, options, Silent(), Stop()))
    measured = tables["drift"].set_index("scenario")["accuracy"]
    assert len(measured) == 2  # clean, and the other data
    mine = tables["metrics"].set_index("scenario")["value"]
    assert mine.to_dict() == pytest.approx(measured.to_dict())


def test_code_is_not_run_without_permission(rig, monkeypatch):
    with pytest.raises(RequestError, match="add --allow-code"):
        run(rig, monkeypatch, "mine:margin", allow=False)


@pytest.mark.parametrize(
    ("metric", "what"),
    [
        ("mine:absent", "is not to be had"),
        ("mine:one", "one number per row"),
        ("no:f", "No module"),
    ],
)
def test_what_is_no_metric_is_an_error_of_the_environment(rig, monkeypatch, metric, what):
    store = run(rig, monkeypatch, metric)
    cells = collect(store)["cells"]
    assert set(cells["status"]) == {"error"}
    assert what in cells["note"][0]
    phases = {row["phase"] for row in store.read("processes").to_pylist() if row["outcome"] != "ok"}
    assert phases == {"score"}
