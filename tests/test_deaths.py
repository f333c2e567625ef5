"""Real deaths of real workers, told apart: what killed each, in which phase, under which limit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from hwbench import engine
from hwbench.case import CLEAN, Case, Layer
from hwbench.execute import Stop
from hwbench.execute.supervise import supervise
from hwbench.job import (
    AccuracyWork,
    BuildWork,
    Job,
    LatencyWork,
    Part,
    Scoring,
    SearchWork,
    Work,
)
from hwbench.record import Row
from hwbench.scenario import Condition
from hwbench.trials import Trials
from hwbench_scenarios.cpu import Cpu
from hwbench_scenarios.memory import Memory

from .test_conditions import needs_memory, needs_quota
from .test_execute import environment, run, wait_for

DEADLINE_S = 5.0
KILL, SEGV, ABRT, ILL, TERM = (
    *(signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGTERM),
)


def group(mib: int) -> Memory:
    return Memory(f"{mib}MiB", by="cgroup")


def watchdog(mib: int) -> Memory:
    return Memory(f"{mib}MiB", by="watchdog")


@dataclass(frozen=True)
class Death:
    """What is done to a worker, and what must be said of it.

    Attributes:
        then: outcomes of the workers that go on behind it.
    """

    die: str
    at: str
    outcome: str
    phase: str
    said: str
    signal: int | None = None
    under: Condition | None = None
    then: tuple[str, ...] = ()
    kind: str = "accuracy"
    options: dict[str, Any] = field(default_factory=dict)


CRASHES = ("crash", "crash")  # a crash before the first trial is tried three times
ONCE = {"once": "marker"}

DEATHS = {
    # Out of memory, in every way that it shows.
    "oom kill, run": Death("allocate", "run", "oom", "run", "cgroup", KILL, group(128)),
    "oom kill, load": Death("allocate", "load", "oom", "load", "cgroup", KILL, group(128)),
    "oom kill, import": Death("", "", "oom", "start", "cgroup", KILL, group(4)),
    "watchdog kill": Death("share", "run", "oom", "run", "resident set", KILL, watchdog(128)),
    "RLIMIT_DATA": Death("allocate", "run", "oom", "run", "MemoryError", None, watchdog(128)),
    "RLIMIT_AS": Death(
        *("allocate", "load", "oom", "load", "MemoryError", None),
        Memory("256MiB", by="address-space"),
    ),
    "MemoryError": Death("memory", "load", "oom", "load", "no room for a tensor"),
    "std::bad_alloc, run": Death("bad_alloc", "run", "oom", "run", "std::bad_alloc", ABRT),
    "std::bad_alloc, load": Death("bad_alloc", "load", "oom", "load", "std::bad_alloc", ABRT),
    "refused by the runtime": Death("refused", "run", "oom", "run", "Failed to allocate memory"),
    # Crashes.
    "null pointer, run": Death("null", "run", "crash", "run", "SIGSEGV", SEGV),
    "null pointer, load": Death("null", "load", "crash", "load", "SIGSEGV", SEGV, then=CRASHES),
    "null pointer, build": Death("null", "build", "crash", "build", "SIGSEGV", SEGV, kind="build"),
    "null pointer, group": Death(
        *("null", "run", "crash", "run", "SIGSEGV", SEGV, group(512), CRASHES)
    ),
    "abort, run": Death("abort", "run", "crash", "run", "SIGABRT", ABRT),
    "abort, measured": Death("abort", "run", "crash", "measure", "SIGABRT", ABRT, kind="latency"),
    "abort, warm-up": Death("abort", "run", "crash", "warmup", "SIGABRT", ABRT, kind="search"),
    "illegal instruction": Death("illegal", "run", "crash", "run", "SIGILL", ILL),
    # Silence.
    "hang, run": Death("hang", "run", "timeout", "run", "no progress", KILL),
    "hang, load, in a group": Death("hang", "load", "timeout", "load", "no", KILL, group(512)),
    "reclaim stall": Death("thrash", "load", "timeout", "load", "reclaim stall", KILL, group(128)),
    # Its own end.
    "exit 1": Death("exit 1", "run", "error", "run", "exit status 1"),
    "exit 0 too early": Death("quiet", "load", "error", "load", "without a word"),
    "Python error": Death("says", "run", "error", "run", "RuntimeError: the runtime says says"),
    "Python error, what ran": Death("says", "told", "error", "run", "RuntimeError"),
    # From elsewhere: run again, at most twice.
    "kill -9": Death("killed", "run", "interrupted", "run", "outside", KILL, None, ("ok",),
                     options=ONCE),
    "kill -9 in a group": Death("killed", "run", "interrupted", "run", "outside", KILL,
                                group(512), ("ok",), options=ONCE),
    "kill -9 under a quota": Death("killed", "load", "interrupted", "load", "outside", KILL,
                                   Cpu(quota=0.9), ("ok",), options=ONCE),
    "kill -9 again and again": Death("killed", "run", "interrupted", "run", "outside", KILL,
                                     group(512), ("interrupted", "crash")),
    "kill -15": Death("terminated", "run", "interrupted", "run", "outside", TERM, None, ("ok",),
                      options=ONCE),
}  # fmt: skip


class Rows:
    """A sink in memory."""

    def __init__(self) -> None:
        self.processes: list[Row] = []

    def append(self, part: str, rows: list[Row]) -> None:
        self.processes += rows if part == "processes" else []


def job(rig, store, name: str) -> Job:
    """The job in which a death of the table happens."""
    death = DEATHS[name]
    made = engine._plan(rig.spec(scenarios=["clean"]), rig.folder, engine.Options(cache=rig.cache))
    (deployed,) = made.deployments
    options = {**death.options, "die": death.die or None, "at": death.at}
    if "once" in options:
        options["once"] = str(rig.folder / f"struck {name}")
    asked = replace(deployed.environment, options=options)
    layers = () if death.under is None else (Layer(death.under),)
    case = Case(name, layers, "limit_mib", 1.0) if layers else CLEAN
    artifact, dataset = str(deployed.artifact), str(deployed.subject.dataset)
    scoring = Scoring(None, True, 0.05)
    golden = str(store.folder / "golden" / f"{name}.npz")
    works: dict[str, Work] = {
        "build": BuildWork(deployed.subject.source, str(rig.folder / "other"), dataset),
        "accuracy": AccuracyWork(
            *(artifact, dataset, 8, 0, scoring, (Part(case, Trials.of([(0, 0)], 1)),), golden, "")
        ),
        "latency": LatencyWork(artifact, dataset, 1, case, 0.01, 1, 0.0, 0, 0),
        "search": SearchWork(artifact, dataset, 1, case, 0.01, 1, 0.0, 1),
    }
    deadline_s = DEADLINE_S if death.outcome == "timeout" else 60.0
    return Job(deployed.key[0], asked, works[death.kind], deadline_s)


@needs_memory
def test_deaths_are_told_apart(rig):
    store = run(rig, "run", scenarios=["clean"])
    (golden,) = (store.folder / "golden").glob("*.npz")
    wrong = {}
    for name, death in DEATHS.items():
        (store.folder / "golden" / f"{name}.npz").write_bytes(golden.read_bytes())
        rows = Rows()
        supervise(job(rig, store, name), rows, Stop(), lambda steps: None)
        first, *others = rows.processes
        told = (first["outcome"], first["phase"], first["signal"])
        expected = (death.outcome, death.phase, death.signal)
        right = told == expected and death.said in (first["message"] or "")
        right = right and tuple(row["outcome"] for row in others) == death.then
        right = right and bool(first["reclaim_stall"]) == (death.die == "thrash")
        right = right and bool(first["mechanism"]) == (death.under is not None)
        if not right:
            wrong[name] = (*told, first["message"], [row["outcome"] for row in others])
    assert wrong == {}
    assert len(DEATHS) >= 20


# Whatever happens to the parent, its conditions are taken back.


def parent(rig, marker: Path) -> subprocess.Popen[bytes]:
    """A sweep by the command line, whose worker hangs in a group that has two limits."""
    hang = environment(die="hang", grouped=True, once=str(marker))
    limits = [{"memory": {"limit": "512MiB", "by": "cgroup"}}, {"cpu": {"quota": 0.9}}]
    spec = rig.spec(environments=[hang], scenarios=[limits])
    content = spec.model_dump(mode="json", exclude_none=True)
    (rig.folder / "spec.yaml").write_text(yaml.safe_dump({**content, "latency": False}))
    command = [sys.executable, "-m", "hwbench", "sweep", "spec.yaml", "-o", "cut"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=rig.folder, stdout=quiet, stderr=quiet)


def groups_of(pid: int) -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").rglob(f"hwbench-{pid}-*") if path.is_dir()]


@needs_memory
@needs_quota
def test_ctrl_c_takes_conditions_back(rig):
    started = parent(rig, rig.folder / "struck")
    worker = wait_for(rig.folder / "struck")
    assert len(groups_of(started.pid)) == 2
    started.send_signal(signal.SIGINT)
    time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    assert started.wait(30) == 130
    assert groups_of(started.pid) == [] and not psutil.pid_exists(worker)


@needs_memory
@needs_quota
def test_what_a_killed_parent_left_is_removed_by_the_next_sweep(rig):
    started = parent(rig, rig.folder / "struck")
    worker = wait_for(rig.folder / "struck")
    assert len(groups_of(started.pid)) == 2
    started.kill()
    started.wait()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(worker)
    limits = [{"memory": {"limit": "512MiB", "by": "cgroup"}}, {"cpu": {"quota": 0.9}}]
    run(rig, "next", scenarios=[limits])
    assert groups_of(started.pid) == []
