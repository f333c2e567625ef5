"""One worker process: start it, read its events, learn how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hwbench import registry
from hwbench.errors import Unsupported
from hwbench.execute import emulation
from hwbench.fingerprint import cores
from hwbench.job import BuildWork, Job, LatencyWork, SearchWork
from hwbench.scenario import Enforced, Launch
from hwbench.worker.events import parse

# Every native thread pool follows the environment's asked threads; the runtimes' own settings
# then agree with it.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STDERR_TAIL = 4000
STALL_S = 0.5  # before a silent worker is killed, it is watched for so long
GATHER_S = 0.005  # events that come close together are read at once: waking up costs most of it


class StopSignal(Protocol):
    """True once workers are to stop after the trial in hand; ``now`` is readable to kill them."""

    now: int

    def __bool__(self) -> bool:
        """Whether to stop."""


@dataclass(frozen=True)
class Stall:
    """What happened to a silent worker within ``STALL_S``.

    Attributes:
        major_faults: pages that it had to read from storage.
        limit_hits: times its group met the memory limit.
    """

    major_faults: float
    limit_hits: float

    @property
    def reclaiming(self) -> bool:
        """Whether it did nothing but have pages reclaimed at its limit and read again."""
        return self.limit_hits > 0


@dataclass
class Ended:
    """How a worker ended.

    Attributes:
        status: exit status, or ``None`` when a signal ended it.
        signal: that signal, or ``None``.
        killed: why we killed it (``deadline``, ``stop``), or empty.
        failed: the failure it told before it ended, or empty.
        phase: the last phase it announced.
        values: what it told about itself (times, actual environment).
        stderr: the end of what it wrote there.
        mechanism: what enforced each of its conditions, or empty.
        emulator: what it ran under by its environment, or empty.
        counters: what they counted, by column of ``processes``.
        stall: major faults and limit hits in the last moment of a worker that was silent too long.
    """

    status: int | None = None
    signal: int | None = None
    killed: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)
    phase: str = "start"
    values: dict[str, Any] = field(default_factory=dict)
    stderr: str = ""
    mechanism: str = ""
    emulator: str = ""
    counters: dict[str, float] = field(default_factory=dict)
    stall: Stall | None = None
    cpu_s: float | None = None
    major_faults: int | None = None
    wall_s: float = 0.0


def environment(job: Job) -> dict[str, str]:
    """Environment variables of the worker."""
    variables = dict(os.environ)
    variables.update(dict.fromkeys(THREAD_VARIABLES, str(job.environment.threads)))
    # CI is the variable by which runtimes' usage reporting knows to start no thread of its own.
    variables.update({"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", "CI": "true"})
    variables.update(job.variables)
    return variables


def run_worker(
    job: Job,
    on_event: Callable[[dict[str, Any]], None],
    stop: StopSignal,
) -> Ended:
    """Run a job in a fresh process until it ends, is silent too long, or is to stop.

    The parent sleeps in ``select`` on the worker's pipe: nothing of ours polls on a measured core.
    The job's conditions are in force from before the worker starts until it has ended.
    """
    with tempfile.TemporaryDirectory(prefix="hwbench-job-") as scratch, ExitStack() as constraints:
        path = Path(scratch) / "job.json"
        path.write_text(json.dumps(job.to_json()))
        argv = [sys.executable, "-m", "hwbench.worker", str(path)]
        variables = {**environment(job), "TMPDIR": scratch}
        launch = Launch(argv, variables, registry.backend(job.environment.backend), _reads(job))
        try:
            emulator = _emulated(job, launch, Path(scratch))
        except Unsupported as gap:
            return Ended(failed={"outcome": "unsupported", "message": gap.reason})
        except emulation.Unlike as error:
            return Ended(failed={"outcome": "invalid", "message": str(error)})
        try:
            enforced = _constrained(job, launch, constraints)
        except (Unsupported, OSError) as error:
            return Ended(failed={"outcome": "unsupported", "message": f"not enforced: {error}"})
        emulated = bool(emulator) or any(each.emulated for each in enforced)
        if emulated and isinstance(job.work, LatencyWork):
            told = "emulated: the emulator's latency says nothing about the CPU's"
            ended = Ended(failed={"outcome": "unsupported", "message": told})
        else:
            ended = _run(launch, enforced, Path(scratch), job.deadline_s, on_event, stop)
        if emulator and ended.phase == "start" and not ended.failed:
            ended.failed = emulation.failure(ended.stderr, job.environment)
        ended.emulator = emulator
        ended.mechanism = "; ".join(each.mechanism for each in enforced)
        ended.values["emulated"] = emulated
        for each in enforced:
            ended.counters.update(each.counters())
        if isinstance(job.work, SearchWork) and any(_crowded(job, each) for each in enforced):
            ended.values["latency_p50_ms"] = ended.values["latency_mean_ms"] = None
    return ended


def _emulated(job: Job, launch: Launch, scratch: Path) -> str:
    """Have the worker started on the processor that its environment asks for; gives by what.

    Artifacts are built natively: they are the same wherever they run, and quantising takes long.

    Raises:
        Unsupported: what it needs is not here.
        emulation.Unlike: the interpreter is of another architecture.
    """
    wanted = job.environment.emulation
    if wanted is None or isinstance(job.work, BuildWork):
        return ""
    launch.argv[:1] = emulation.command(wanted)
    emulation.link_packages(scratch / "code")
    launch.variables = emulation.adapted(launch.variables, scratch / "code")
    return f"{wanted.emulator} -cpu {wanted.cpu}"


def _reads(job: Job) -> tuple[Path, ...]:
    """What the worker reads beside its runtime."""
    if isinstance(job.work, BuildWork):
        return ()
    return (Path(job.work.artifact), Path(job.work.dataset))


def _constrained(job: Job, launch: Launch, constraints: ExitStack) -> list[Enforced]:
    """The job's conditions in force.

    Raises:
        Unsupported: one cannot be enforced, or timing under it would mean nothing.
    """
    # The last of a stack goes around the command first, so that the first is the outermost.
    found = [
        constraints.enter_context(condition.enforce(launch))
        for condition in reversed(job.conditions)
    ]
    for each in found:
        if _crowded(job, each) and isinstance(job.work, LatencyWork):
            raise Unsupported(f"latency under {each.mechanism} needs a core beside the worker's")
    return found[::-1]


def _crowded(job: Job, enforced: Enforced) -> bool:
    """Whether a thread of ours and the worker have to share a core."""
    return enforced.needs_core and cores() - job.environment.threads < 1


def _run(
    launch: Launch,
    enforced: list[Enforced],
    scratch: Path,
    deadline_s: float,
    on_event: Callable[[dict[str, Any]], None],
    stop: StopSignal,
) -> Ended:
    """Start what ``launch`` says, with the pipe's descriptor as last argument, until it ends."""
    ended = Ended()
    with (scratch / "stderr").open("w+b") as stderr:
        reader, writer = os.pipe()
        start = time.monotonic()
        process = subprocess.Popen(
            [*launch.argv, str(writer)],
            pass_fds=[writer],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=launch.variables,
            start_new_session=True,
        )
        os.close(writer)
        try:
            for each in enforced:
                each.started(process.pid)
            _listen(reader, deadline_s, ended, on_event, stop)
            if ended.killed == "deadline":
                ended.stall = _watched(process.pid, enforced)
            if ended.killed:
                _kill(process)
        except BaseException:
            _kill(process)
            raise
        finally:
            os.close(reader)
            _reap(process, ended)
        ended.wall_s = time.monotonic() - start
        stderr.seek(0)
        ended.stderr = stderr.read()[-STDERR_TAIL:].decode(errors="replace")
    return ended


def _listen(
    reader: int,
    deadline_s: float,
    ended: Ended,
    on_event: Callable[[dict[str, Any]], None],
    stop: StopSignal,
) -> None:
    """Hand on events until end-of-file, or until the worker is to be killed (``ended.killed``)."""
    buffer = b""
    last = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        selector.register(stop.now, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select(last + deadline_s - time.monotonic())}
            if reader not in ready:
                ended.killed = "stop" if ready else "deadline"
                return
            chunk = os.read(reader, 1 << 20)
            if not chunk:
                return
            last = time.monotonic()
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                _take(parse(line), ended, on_event)
            if stop:
                ended.killed = "stop"
                return
            time.sleep(GATHER_S)


def _watched(pid: int, enforced: list[Enforced]) -> Stall:
    """Whether a silent worker hangs or is held up: seen from what goes on, not from its past."""
    before = _moved(pid, enforced)
    time.sleep(STALL_S)
    after = _moved(pid, enforced)
    return Stall(*(now - then for now, then in zip(after, before, strict=True)))


def _moved(pid: int, enforced: list[Enforced]) -> tuple[float, float]:
    """Major faults of a process, and how often its groups met their memory limit, so far."""
    hits = sum(each.counters().get("memory_limit_hits", 0.0) for each in enforced)
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return float(fields[9]), hits
    return 0.0, hits


def _take(event: dict[str, Any], ended: Ended, on_event: Callable[[dict[str, Any]], None]) -> None:
    kind = event.pop("event")
    if kind == "phase":
        ended.phase = event["phase"]
    elif kind == "process":
        ended.values.update(event)
    elif kind == "failed":
        ended.failed = event
    else:
        on_event({"event": kind, **event})


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started; its session holds nothing else."""
    with contextlib.suppress(ProcessLookupError):  # it ended by itself in the meantime
        os.killpg(process.pid, signal.SIGKILL)


def _reap(process: subprocess.Popen[bytes], ended: Ended) -> None:
    """Wait for the end, with the kernel's own account of the process."""
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    ended.status, ended.signal = (code, None) if code >= 0 else (None, -code)
    ended.cpu_s = usage.ru_utime + usage.ru_stime
    ended.major_faults = usage.ru_majflt
