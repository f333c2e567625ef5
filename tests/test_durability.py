"""A sweep that is killed anywhere, and goes on, gives the tables of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from hwbench import engine
from hwbench.collect import collect
from hwbench.engine import Options
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.failpoint import VARIABLE
from hwbench.store import Store

from .conftest import Rig
from .test_execute import Bounded, run

REPRODUCIBLE = ("cells", "drift", "vulnerability", "campaigns", "interaction", "sensitivity", "mce")
CONTENT: dict[str, Any] = {
    "environments": [{"backend": "fake", "label": name} for name in ("a", "b")],
    "scenarios": [
        {"noise": {"snr_db": [10, 0]}, "patterns": 6},
        {"bitflip": {"rate": 0.05}, "patterns": 20},
        {"singlebit": {}, "campaign": {"margin": 0.25, "confidence": 0.9, "per_round": 40}},
    ],
}
# Small flushes, so that parts are many and are merged.
SCRIPT = """
import sys
from pathlib import Path
from hwbench import parts, spec, store, engine
from hwbench.execute import Stop
store.FLUSH_S, parts.FAN = 0.02, 4
folder = Path(sys.argv[1])
options = engine.Options(output=folder, workers=2)
if (folder / "run.json").exists():
    engine.resume(folder, options, engine.Silent(), Stop())
else:
    engine.start(spec.load(Path("spec.yaml")), options, engine.Silent(), Stop())
"""
FEW = ("records-merged:renamed", "golden:synced")
POINTS = (
    *("folder:made", "lock:taken", "spec.yaml:written", "spec.yaml:synced", "spec.yaml:renamed"),
    *("run.json:written", "run.json:synced", "run.json:committed", "plan.json:synced"),
    *("plan.json:renamed", "plan.json:renamed#2", "machines.json:synced", "machines.json:renamed"),
    *("records:flushing", "records:written", "records:renamed", "records:committed#4"),
    *("records:synced#3", "golden:synced"),
    *("faults:flushing", "faults:synced", "faults:renamed#2", "faults:committed"),
    *("processes:flushing", "processes:synced#2", "processes:renamed", "processes:committed#3"),
    *("records-merged:written", "records-merged:synced", "records-merged:removing"),
    *("records-merged:removing#3", "faults-merged:renamed", "round:ended", "round:ended#3"),
    *("campaigns.json:synced", "campaigns.json:renamed", "golden:written", "golden:renamed"),
    *("sites:synced", "sites:renamed"),
)
IN_WORKERS = ("golden:", "sites:")
KILLS = 30


@pytest.fixture
def folder(rig: Rig) -> Path:
    content = rig.spec(**CONTENT).model_dump(mode="json", exclude_none=True)
    (rig.folder / "spec.yaml").write_text(yaml.safe_dump({**content, "latency": False}))
    return rig.folder


def begin(folder: Path, name: str, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, name]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **variables})


def finish(folder: Path, name: str) -> None:
    assert begin(folder, name).wait(300) == 0


def assert_same(folder: Path, name: str, whole: str = "whole") -> None:
    """All reproducible tables, and records, to the bit."""
    one, other = (Store.open(folder / each) for each in (name, whole))
    assert one.read_json("plan.json")["complete"] is True
    tables, expected = collect(one), collect(other)
    for table in REPRODUCIBLE:
        pd.testing.assert_frame_equal(tables[table], expected[table], check_exact=True)
    assert trials(one) == trials(other)


def trials(store: Store) -> dict[tuple[Any, ...], dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in store.read("records").to_pylist():
        found.setdefault((each["cell"], each["pattern"], each["batch"]), each)
    return found


def killed_at(folder: Path, points: tuple[str, ...]) -> None:
    finish(folder, "whole")
    for number, point in enumerate(points):
        name, marker = f"run-{number}", folder / f"killed-{number}"
        started = begin(folder, name, **{VARIABLE: f"{point}@{marker}"})
        status = started.wait(300)
        assert marker.exists(), f"nothing was killed at {point}"
        in_worker = point.startswith(IN_WORKERS)
        assert status == (0 if in_worker else -signal.SIGKILL), point
        finish(folder, name)
        assert_same(folder, name)


def test_a_sweep_killed_at_a_few_places_goes_on(folder):
    killed_at(folder, FEW)


@pytest.mark.slow
def test_a_sweep_killed_at_any_place_goes_on(folder):
    assert len(POINTS) >= 10
    killed_at(folder, POINTS)


def workers_of(parent: psutil.Process) -> list[psutil.Process]:
    try:
        return [
            child
            for child in parent.children(recursive=True)
            if "hwbench.worker" in " ".join(child.cmdline())
        ]
    except psutil.Error:
        return []


def disturbed(folder: Path, name: str, rng: random.Random, kills: int) -> int:
    """One life of a sweep: up to two of its workers are killed, then itself; gives the kills."""
    started, done = begin(folder, name), 0
    for _ in range(min(3, kills)):
        try:
            started.wait(rng.uniform(0.3, 3.0))
            break
        except subprocess.TimeoutExpired:
            workers = workers_of(psutil.Process(started.pid))
            victim = rng.choice(workers) if workers and rng.random() < 0.5 and done < 2 else None
            if victim is None:
                break
            with suppress(psutil.NoSuchProcess):  # it ended by itself
                victim.kill()
                done += 1
    if started.poll() is None and done < kills:
        started.kill()
        done += 1
    started.wait(300)
    return done


@pytest.mark.slow
def test_thirty_random_kills_change_nothing(folder):
    """Of the parent and of workers; a run that is through is followed by another one."""
    finish(folder, "whole")
    rng, kills, number = random.Random(8), 0, 0
    deadline = time.monotonic() + 1200
    while kills < KILLS:
        assert time.monotonic() < deadline
        kills += disturbed(folder, f"run-{number}", rng, KILLS - kills)
        plan = folder / f"run-{number}" / "plan.json"
        if plan.exists() and '"complete": true' in plan.read_text():
            number += 1
    assert kills == KILLS
    finish(folder, f"run-{number}")
    for each in range(number + 1):
        assert_same(folder, f"run-{each}")


def test_the_tables_do_not_depend_on_the_number_of_workers(rig):
    two = collect(run(rig, "two", **CONTENT))
    options = Options(output=rig.folder / "other", workers=1)
    other = collect(engine.start(rig.spec(**CONTENT), options, Bounded(), Stop()))
    for name in REPRODUCIBLE:
        pd.testing.assert_frame_equal(two[name], other[name], check_exact=True)


# A disk that takes no more.

FULL = """
import resource, sys
from pathlib import Path
from hwbench import engine
from hwbench.errors import RequestError
from hwbench.execute import Stop
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    engine.resume(Path(sys.argv[1]), engine.Options(workers=2), engine.Silent(), Stop())
except RequestError as error:
    sys.exit(error.line())
"""


def test_a_disk_that_takes_no_more_is_one_line_and_loses_nothing(rig):
    """Files may not grow beyond a limit: as on a full disk, a write fails half-way."""
    stop = Stop()
    stopped = run(
        rig,
        "run",
        Bounded(lambda title, n: stop.request() if title == "baseline" else None),
        stop,
        **{**CONTENT, "environments": [{"backend": "fake"}]},
    )
    before = trials(stopped)
    command = [sys.executable, "-c", FULL, str(stopped.folder), "6000"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1, told.stderr
    assert "cannot be written" in told.stderr and told.stderr.count("\n") == 1
    after = trials(Store.open(stopped.folder))
    assert before.items() <= after.items()
    resumed = engine.resume(stopped.folder, Options(), Bounded(), Stop())
    whole = run(rig, "whole", **{**CONTENT, "environments": [{"backend": "fake"}]})
    assert trials(resumed) == trials(whole)


def test_a_folder_that_another_sweep_writes_is_refused(rig):
    store = run(rig, "run", scenarios=[{"noise": {"snr_db": 0}, "patterns": 1}])
    with store.locked(), pytest.raises(RequestError, match="another sweep writes here"):
        engine.extend(store.folder, {"patterns": 2}, Options(), Bounded(), Stop())
