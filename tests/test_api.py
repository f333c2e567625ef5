"""hwbench from Python: what a notebook does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import hwbench
from hwbench.collect import TABLES
from hwbench.errors import RequestError
from tests.conftest import BATCH, Rig


def mapping(rig: Rig, **changes):
    content = {
        "name": "api",
        "model": {"onnx": rig.model},  # a pathlib path, as one has at hand
        "data": {"npz": rig.data, "labels": "y", "batch": BATCH},
        "environments": [{"backend": "fake"}],
        "scenarios": [{"noise": {"snr_db": [10, 0]}, "patterns": 2}],
        "latency": False,
        "deadline_s": 60,
    }
    return {**content, **changes}


@pytest.fixture
def run(rig: Rig) -> hwbench.Run:
    return hwbench.sweep(mapping(rig), output=rig.folder / "run", workers=1)


def test_a_mapping_is_swept_to_tables(rig, run):
    assert run.complete and run.folder == rig.folder / "run"
    drift = run.table("drift")
    assert list(drift["scenario"]) == ["clean", "noise-inputs", "noise-inputs"]
    assert (drift["status"] == "ok").all() and drift["accuracy"].notna().all()
    assert set(run.tables) == set(TABLES)
    stored = pd.read_parquet(run.folder / "tables" / "drift.parquet")
    pd.testing.assert_frame_equal(drift, stored, check_dtype=False)


def test_a_run_shows_what_made_it(rig, run):
    assert run.spec.name == "api" and run.spec.model.onnx == str(rig.model)
    assert run.provenance["seed"] == run.spec.seed
    assert run.plan["cases"][0]["id"] == "clean"
    assert repr(run) == f"Run({str(run.folder)!r})"


def test_stored_rows_are_frames(run):
    records = run.rows("records", ["cell", "pattern", "batch"])
    assert len(records) == run.table("cells")["trials"].sum()
    assert list(records) == ["cell", "pattern", "batch"]


def test_a_file_and_a_spec_give_what_the_mapping_gave(rig, run):
    reopened = hwbench.sweep(run.folder / "spec.yaml", output=rig.folder / "again", workers=1)
    pd.testing.assert_frame_equal(reopened.table("drift"), run.table("drift"))
    third = hwbench.sweep(run.spec, output=rig.folder / "third", workers=1)
    pd.testing.assert_frame_equal(third.table("drift"), run.table("drift"))


def test_names_that_do_not_exist_are_refused_with_the_nearest(run):
    with pytest.raises(RequestError, match="did you mean 'drift'"):
        run.table("drfit")
    with pytest.raises(RequestError, match="did you mean 'records'"):
        run.rows("record")


def test_a_wrong_key_of_a_mapping_is_named(rig):
    with pytest.raises(RequestError, match=r"scenarioss.*did you mean 'scenarios'"):
        hwbench.sweep(mapping(rig, scenarioss=[]))


def test_what_holds_no_run_is_refused(tmp_path):
    with pytest.raises(RequestError, match="holds no run"):
        hwbench.Run(tmp_path)


def test_an_interrupted_sweep_is_resumed(rig, run, monkeypatch):
    """Ctrl-C reaches the process that sweeps; the folder is finished by ``resume``."""
    from hwbench.execute import Stop

    shown = {"rounds": 0}
    original = Stop.__bool__

    def interrupt(self):
        shown["rounds"] += 1
        if shown["rounds"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Stop, "__bool__", interrupt)
        with pytest.raises(KeyboardInterrupt, match="resume"):
            hwbench.sweep(mapping(rig), output=rig.folder / "stopped", workers=1)
    stopped = hwbench.Run(rig.folder / "stopped")
    assert not stopped.complete
    finished = hwbench.resume(stopped, workers=1)
    assert finished.complete
    pd.testing.assert_frame_equal(finished.table("drift"), run.table("drift"))


def test_the_package_stays_lean_until_it_is_asked():
    """Every worker imports ``hwbench``; pandas and pydantic are the parent's."""
    code = (
        "import sys, hwbench; heavy = {'pandas', 'pydantic', 'pyarrow', 'rich'};"
        "assert not heavy & set(sys.modules); hwbench.Run; assert 'pydantic' in sys.modules;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(hwbench.__file__).parents[1])


def test_nothing_else_is_made_up():
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        _ = hwbench.frobnicate
