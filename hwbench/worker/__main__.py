"""``python -m hwbench.worker JOB.json DESCRIPTOR``: do one job."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import platform
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from hwbench import cpuid, registry
from hwbench.artifacts import Hold
from hwbench.backend import Backend, Environment
from hwbench.calls import calling
from hwbench.errors import RequestError, Unsupported
from hwbench.job import (
    AccuracyWork,
    BuildWork,
    Job,
    PrepareWork,
    ScreenWork,
    SearchWork,
    SoakWork,
    SpreadWork,
    job_from,
)
from hwbench.worker import accuracy, build, latency, prepare, probe, screen, soak, spread
from hwbench.worker.events import Events

PR_SET_PDEATHSIG = 1

# How runtimes and the system say that an allocation was refused.
OUT_OF_MEMORY = (
    "bad_alloc",
    "failed to allocate memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "out of memory",  # torch on CUDA
    "smaller than requested bytes",  # ONNX Runtime's arena at its limit
)


def main() -> int:
    """Do the job; failures are told before the process ends."""
    faulthandler.enable()
    _die_with_parent()
    events = Events(int(sys.argv[2]))
    job = job_from(json.loads(Path(sys.argv[1]).read_text()))
    sys.path[:0] = list(job.code_path)
    try:
        with _held(job):
            _work(job, events)
    except Unsupported as gap:
        events.send("failed", outcome="unsupported", message=gap.reason)
    except MemoryError as error:
        return _told(events, "oom", f"MemoryError: {error}")
    except RequestError as error:
        return _told(events, "error", error.line())
    except Exception as error:  # whatever a runtime raises is this job's outcome, told in full
        traceback.print_exc()
        return _told(events, "error", f"{type(error).__name__}: {error}")
    return 0


def _told(events: Events, outcome: str, message: str) -> int:
    text = " ".join(message.split())
    if any(words in text.lower() for words in OUT_OF_MEMORY):
        outcome = "oom"
    events.send("failed", outcome=outcome, message=text[:2000])
    events.peak_rss()
    return 1


def _held(job: Job) -> Hold:
    """What the job uses of the cache stays there while this process lives."""
    names = (getattr(job.work, key, "") for key in ("artifact", "dataset"))
    return Hold(Path(name) for name in names if name)


def _work(job: Job, events: Events) -> None:
    if isinstance(job.work, ScreenWork) and job.work.core is not None:
        os.sched_setaffinity(0, {job.work.core})  # before any thread is made
    events.send("process", architecture=platform.machine())
    if differs := _elsewhere(job):
        events.send("failed", outcome="invalid", message=differs)
        return
    adapter = _import(job.environment, events)
    if isinstance(job.work, BuildWork):
        build.run(job, job.work, adapter, events)
        events.phase("done")
        return
    adapter = calling(adapter, Path(job.work.dataset))
    if isinstance(job.work, PrepareWork):
        prepare.run(job, job.work, adapter, events)
    elif isinstance(job.work, AccuracyWork):
        accuracy.run(job, job.work, adapter, events)
    elif isinstance(job.work, SpreadWork):
        spread.run(job, job.work, adapter, events)
    elif isinstance(job.work, ScreenWork):
        screen.run(job, job.work, adapter, events)
    elif isinstance(job.work, SoakWork):
        soak.run(job, job.work, adapter, events)
    elif isinstance(job.work, SearchWork):
        probe.run(job, job.work, adapter, events)
    else:
        latency.run(job, job.work, adapter, events)
    events.phase("done")


def _elsewhere(job: Job) -> str:
    """How the processor differs from the one that was asked for; empty where it does not."""
    wanted, found = job.environment.emulation, platform.machine()
    if wanted is None or isinstance(job.work, BuildWork) or found == wanted.arch:
        return ""
    return f"asked for {wanted.arch}, and the interpreter runs on {found}"


def _import(environment: Environment, events: Events) -> Backend:
    """The adapter and its runtime, with the time that took."""
    events.phase("import")
    cpu = cpuid.read()
    if cpu:
        events.send("process", cpu_name=cpu.name, cpu_isa=" ".join(cpu.flags))
    start = time.perf_counter_ns()
    adapter = registry.backend(environment.backend)
    missing = registry.missing_modules(adapter)
    if missing:
        hint, where = registry.install_hint(adapter), ""
        if environment.emulation:
            where = f" in {environment.emulation.root}"
            hint = f"install its {environment.emulation.arch} wheel there (docs/boards.md)"
        raise Unsupported(f"{', '.join(missing)} is not installed{where}. Hint: {hint}")
    import_module(adapter.requires[0])
    events.send("process", import_ms=(time.perf_counter_ns() - start) / 1e6)
    return adapter


def _die_with_parent() -> None:
    """No worker outlives the sweep, even one killed without a chance to clean up (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
