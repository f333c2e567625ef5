"""Less memory than the machine has."""

from __future__ import annotations

import math
import os
import re
import resource
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from hwbench.backend import SUPPORTED, Capability
from hwbench.scenario import Condition, Counters, Enforced, Launch, parameter
from hwbench_scenarios import cgroup, pages, systemd

MIB = 2**20
POLL_S = 0.005
UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
FILES = ("memory.max", "memory.limit_in_bytes")
WATCHED = "RLIMIT_DATA and a watch on the resident set every 5 ms"


@dataclass(frozen=True)
class Memory(Condition):
    """A limit on the worker's memory, file pages included that it is the first to read.

    Files of the runtime, the interpreter and the model are dropped from the page cache before, so
    that they are; what another process has mapped stays, and is told (``shared_file_mib``).
    With ``search: true`` the smallest limit is found at which the model loads and runs, and the
    smallest at which p50 stays within 2x: the table ``limits``.
    """

    name: ClassVar[str] = "memory"
    severities: ClassVar[tuple[str, ...]] = ("limit", "search")
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "memory: {limit: [1GiB, 512MiB, 256MiB]}"

    limit: str | None = parameter(None, "how much it may use", "size, such as 512MiB")
    search: bool | None = parameter(
        None, "true: find the smallest limit to load, and to keep p50 within 2x: table `limits`"
    )
    by: Literal["auto", "cgroup", "systemd", "watchdog", "address-space"] = parameter(
        "auto", "what enforces it: auto is a control group, else systemd, else the watchdog"
    )

    def __post_init__(self) -> None:
        if (self.limit is None) == (not self.search):
            raise ValueError("give exactly one of limit, search")

    @property
    def severity_name(self) -> str:
        """In one unit, whatever the spec uses."""
        return "limit_mib"

    @property
    def severity(self) -> float:
        """The limit in MiB; a search starts without one."""
        return math.inf if self.limit is None else _bytes(self.limit) / MIB

    @property
    def variant(self) -> str:
        """What enforces it, where that is asked for, and whether the limit is to be found."""
        return "-".join((["search"] if self.search else []) + ([self.by] * (self.by != "auto")))

    @property
    def searched(self) -> bool:
        """See ``Condition.searched``."""
        return bool(self.search)

    def at(self, severity: float) -> Self:
        """See ``Condition.at``."""
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
        return replace(self, limit=f"{min(severity, whole):f}MiB", search=None)

    def check(self) -> Capability:
        """See ``Condition.check``."""
        if self.by == "cgroup":
            return cgroup.capability("memory", *FILES)
        if self.by == "systemd":
            return systemd.capability()
        return SUPPORTED if Path("/proc/self/statm").exists() else _NO_PROC

    def enforce(self, launch: Launch) -> AbstractContextManager[Enforced]:
        """See ``Condition.enforce``."""
        limit = int(self.severity * MIB)
        if self.by == "address-space":
            return _address_space(limit)
        grouped = cgroup.capability("memory", *FILES).status == "supported"
        if self.by == "cgroup" or (self.by == "auto" and grouped):
            return _grouped(limit, launch)
        if self.by == "systemd" or (
            self.by == "auto" and systemd.capability().status == "supported"
        ):
            return _scoped(limit, launch)
        return _watched(limit)

    @classmethod
    def abilities(cls) -> Mapping[str, Capability]:
        """See ``Condition.abilities``."""
        watch = SUPPORTED if Path("/proc/self/statm").exists() else _NO_PROC
        return {
            "cgroup": cgroup.capability("memory", *FILES),
            "systemd": systemd.capability(),
            "watchdog": watch,
        }


_NO_PROC = Capability("unsupported", "this system has no /proc to read a resident set from")


def _bytes(size: str) -> float:
    """``512MiB`` in bytes.

    Raises:
        ValueError: it is no size above zero with a unit.
    """
    found = re.fullmatch(r"([0-9.]+)\s*([kmg]i?b)", size.strip().lower())
    if not found or not found[1].replace(".", "", 1).isdigit() or not float(found[1]):
        raise ValueError(f"limit is a size with a unit, such as 512MiB, not {size!r}")
    return float(found[1]) * UNITS[found[2]]


@contextmanager
def _grouped(limit: int, launch: Launch) -> Iterator[Enforced]:
    stayed = _drop_files(launch)
    with cgroup.group("memory") as group:
        if group.version == 2:
            name = "memory.max"
            _write_where_there_is(group, "memory.swap.max", 0)
        else:
            name = "memory.limit_in_bytes"
            _write_where_there_is(group, "memory.swappiness", 0)
        group.write(name, limit)
        launch.argv[:0] = group.entry
        mechanism = f"cgroup v{group.version} {name}, file pages read anew"
        yield Enforced(mechanism, lambda: {**_counted(group, name), **stayed})


@contextmanager
def _scoped(limit: int, launch: Launch) -> Iterator[Enforced]:
    stayed = _drop_files(launch)
    with systemd.scope({"MemoryMax": limit, "MemorySwapMax": 0}) as made:
        launch.argv[:0] = made.entry
        mechanism = "systemd scope, MemoryMax, file pages read anew"
        fixed = {"memory_limit_mib": limit / MIB, **stayed}
        yield Enforced(mechanism, lambda: {**fixed, **_of_scope(made)})


def _of_scope(scope: systemd.Scope) -> Counters:
    """What systemd kept of a scope that has ended."""
    told = scope.show("Result", "MemoryPeak")
    found: dict[str, float] = {"oom_kills": int(told.get("Result") == "oom-kill")}
    if told.get("MemoryPeak", "").isdigit():  # older ones do not keep it
        found["group_peak_mib"] = int(told["MemoryPeak"]) / MIB
    return found


def _drop_files(launch: Launch) -> Counters:
    """What the worker will read is dropped from the page cache, so that its group is charged."""
    stayed = pages.drop(pages.worker_files(launch.backend))
    ours = pages.drop(pages.below(launch.reads), written=True)
    return {} if stayed is None or ours is None else {"shared_file_mib": stayed + ours}


def _write_where_there_is(group: cgroup.Group, name: str, value: int) -> None:
    if group.has(name):  # a kernel may be without swap
        group.write(name, value)


def _counted(group: cgroup.Group, limit: str) -> Counters:
    if group.version == 2:
        events, peak = group.table("memory.events"), "memory.peak"
        kills, hits = events.get("oom_kill", 0), events.get("max", 0)
    else:
        kills = group.table("memory.oom_control").get("oom_kill", 0)
        hits, peak = int(group.read("memory.failcnt")), "memory.max_usage_in_bytes"
    found: dict[str, float] = {
        "memory_limit_mib": int(group.read(limit)) / MIB,
        "oom_kills": kills,
        "memory_limit_hits": hits,
    }
    if group.has("memory.pressure"):
        found["memory_stall_s"] = _stalled_s(group.read("memory.pressure"))
    if group.has(peak):
        found["group_peak_mib"] = int(group.read(peak)) / MIB
    return found


def _stalled_s(pressure: str) -> float:
    """Total of ``full avg10=0.00 avg60=0.00 avg300=0.00 total=1234`` (microseconds)."""
    line = next((each for each in pressure.splitlines() if each.startswith("full")), "total=0")
    return int(line.rpartition("total=")[2]) / 1e6


@contextmanager
def _address_space(limit: int) -> Iterator[Enforced]:
    def started(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))

    counters = {"memory_limit_mib": limit / MIB}
    yield Enforced("RLIMIT_AS (address space, not RAM)", lambda: counters, started)


@contextmanager
def _watched(limit: int) -> Iterator[Enforced]:
    watchdog = _Watchdog(limit)

    def started(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))
        watchdog.start(pid)

    try:
        yield Enforced(WATCHED, watchdog.counters, started, needs_core=True)
    finally:
        watchdog.stop()


class _Watchdog:
    """Kills a process whose resident set grows beyond a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kills = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def counters(self) -> Counters:
        """What it did."""
        return {"memory_limit_mib": self._limit / MIB, "oom_kills": self._kills}

    def start(self, pid: int) -> None:
        """Watch from now on."""
        handle = os.pidfd_open(pid)  # names this process even if the number is used again
        self._thread = threading.Thread(target=self._watch, args=(pid, handle), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, pid: int, handle: int) -> None:
        try:
            while not self._over.wait(POLL_S):
                if _resident(pid) > self._limit:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    self._kills += 1
                    return
        except (FileNotFoundError, ProcessLookupError):
            return  # it ended
        finally:
            os.close(handle)


def _resident(pid: int) -> int:
    """Bytes of a process in RAM; 0 for one that has ended and is not waited for yet."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
