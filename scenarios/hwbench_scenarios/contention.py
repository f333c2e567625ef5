"""Others that want the same cores, memory or cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

import psutil

from hwbench.backend import Capability
from hwbench.errors import Unsupported
from hwbench.scenario import Condition, Counters, Enforced, Launch, parameter

# The variables by which NumPy's libraries in the load are kept to one thread each.
SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
START_S = 10.0
STRESSORS: dict[str, str] = {"cpu": "--cpu", "memory": "--stream", "cache": "--cache"}


@dataclass(frozen=True)
class Contention(Condition):
    """A load beside the worker: by stress-ng, or a small built-in one where that is missing."""

    name: ClassVar[str] = "contention"
    severities: ClassVar[tuple[str, ...]] = ("workers",)
    example: ClassVar[str] = "contention: {workers: [0, 1, 2], kind: cpu}"

    workers: int = parameter(..., "processes of the load", "processes")
    kind: Literal["cpu", "memory", "cache"] = parameter(
        "cpu", "what they contend for: cpu, memory (bandwidth) or cache"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 1024:
            raise ValueError("workers is a whole number from 0")

    @property
    def variant(self) -> str:
        """What they contend for."""
        return self.kind

    def check(self) -> Capability:
        """See ``Condition.check``."""
        return _ability()

    def enforce(self, launch: Launch) -> AbstractContextManager[Enforced]:
        """See ``Condition.enforce``."""
        return _beside(self.kind, self.workers) if self.workers else _alone()

    @classmethod
    def abilities(cls) -> Mapping[str, Capability]:
        """See ``Condition.abilities``."""
        return dict.fromkeys(STRESSORS, _ability())


def _ability() -> Capability:
    missing = "by a built-in load: stress-ng is not installed. Hint: apt install stress-ng"
    return Capability("supported", "stress-ng" if _stress_ng() else missing)


def _stress_ng() -> list[str]:
    """The command that runs stress-ng and ends it with us; empty where it cannot be had."""
    found = shutil.which("stress-ng") and shutil.which("setpriv")
    return ["setpriv", "--pdeathsig", "TERM", "stress-ng"] if found else []


@contextmanager
def _alone() -> Iterator[Enforced]:
    yield Enforced("no load")


@contextmanager
def _beside(kind: str, workers: int) -> Iterator[Enforced]:
    program = _stress_ng()
    # Each in a session of its own: Linux shares cores out between sessions first (autogroup), so
    # all in one would together get no more than the measured process alone.
    if program:
        commands, name = [[*program, STRESSORS[kind], "1"]] * workers, "stress-ng"
    else:
        commands = [[sys.executable, "-m", "hwbench_scenarios.load", kind]] * workers
        name = "built-in load"
    running: list[subprocess.Popen[bytes]] = []
    used: dict[str, float] = {}
    try:
        for command in commands:
            running.append(_start(command))
        if program:
            for each in running:
                _await_child(each.pid)
        else:
            _await(running)
        yield Enforced(f"{name}, {kind} x {workers}", lambda: _ended(running, used))
    finally:
        _ended(running, used)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **SINGLE},
        start_new_session=True,
    )


def _await(running: list[subprocess.Popen[bytes]]) -> None:
    """Until every load has begun: the worker is not to start on a quiet machine."""
    for each in running:
        assert each.stdout is not None
        if not each.stdout.readline():
            raise Unsupported("the built-in load did not start")


def _await_child(pid: int) -> None:
    """Until stress-ng has started its own."""
    end = time.monotonic() + START_S
    while not psutil.Process(pid).children():
        if time.monotonic() > end:
            raise Unsupported(f"stress-ng did not start its process in {START_S:g} s")
        time.sleep(0.01)


def _used_s(pid: int) -> float:
    """CPU time of a load with its children; killed ones would not be in the parent's account."""
    seconds = 0.0
    with suppress(psutil.NoSuchProcess):
        load = psutil.Process(pid)
        for each in (load, *load.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _ended(running: list[subprocess.Popen[bytes]], used: dict[str, float]) -> Counters:
    """Stop the load; the CPU time it had proves that it ran."""
    while running:
        each = running.pop()
        used["load_cpu_s"] = used.get("load_cpu_s", 0.0) + _used_s(each.pid)
        with suppress(ProcessLookupError):
            os.killpg(each.pid, signal.SIGKILL)
        each.wait()
        if each.stdout is not None:
            each.stdout.close()
    return used
