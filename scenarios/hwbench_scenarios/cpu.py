"""Less of the CPU than the machine has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

from hwbench.backend import SUPPORTED, Capability
from hwbench.scenario import Condition, Counters, Enforced, Launch, parameter
from hwbench_scenarios import cgroup

PERIOD_US = 100_000  # the kernel's default
FILES = ("cpu.max", "cpu.cfs_quota_us")


@dataclass(frozen=True)
class Cpu(Condition):
    """A share of the CPU: time per period (quota), or cores; with another priority if asked.

    A quota shows as rare stalls: judge it by throughput and the largest latency.
    """

    name: ClassVar[str] = "cpu"
    severities: ClassVar[tuple[str, ...]] = ("quota", "cores")
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "cpu: {quota: [1.0, 0.5]}"

    quota: float | None = parameter(
        None, "CPU time per period of 100 ms, over all threads", "cores"
    )
    cores: int | None = parameter(None, "how many cores its threads may run on", "cores")
    nice: int = parameter(0, "added to the niceness; below 0 needs root")

    def __post_init__(self) -> None:
        if self.quota is not None and not 0.01 <= self.quota <= 1024:
            raise ValueError("quota is a number of cores from 0.01")
        if self.cores is not None and self.cores < 1:
            raise ValueError("cores is a whole number from 1")
        if not -20 <= self.nice <= 19:
            raise ValueError("nice is a whole number from -20 to 19")

    @property
    def variant(self) -> str:
        """What is limited, and the priority where it is not the usual one."""
        limited = "quota" if self.quota is not None else "affinity"
        return limited + (f"-nice{self.nice}" if self.nice else "")

    def check(self) -> Capability:
        """See ``Condition.check``."""
        if self.nice < 0 and os.geteuid() != 0:
            return Capability("unsupported", "nice below 0 needs root")
        if self.nice and shutil.which("nice") is None:
            return Capability("unsupported", "nice is not installed. Hint: apt install coreutils")
        if self.quota is not None:
            return cgroup.capability("cpu", *FILES)
        return _affinity(self.cores or 1)

    def enforce(self, launch: Launch) -> AbstractContextManager[Enforced]:
        """See ``Condition.enforce``."""
        if self.nice:
            launch.argv[:0] = ["nice", "-n", str(self.nice)]
        priority = f", nice {self.nice:+d}" if self.nice else ""
        if self.quota is not None:
            return _throttled(self.quota, launch, priority)
        return _pinned(self.cores or 1, launch, priority)

    @classmethod
    def abilities(cls) -> Mapping[str, Capability]:
        """See ``Condition.abilities``."""
        return {"quota": cgroup.capability("cpu", *FILES), "cores": _affinity(1)}


def _affinity(cores: int) -> Capability:
    if not hasattr(os, "sched_getaffinity"):
        return Capability("unsupported", "this system does not pin processes to cores")
    if shutil.which("taskset") is None:
        return Capability("unsupported", "taskset is not installed. Hint: apt install util-linux")
    allowed = len(os.sched_getaffinity(0))
    if cores > allowed:
        return Capability("unsupported", f"{cores} cores, but only {allowed} are there")
    return SUPPORTED


@contextmanager
def _throttled(quota: float, launch: Launch, priority: str) -> Iterator[Enforced]:
    with cgroup.group("cpu") as group:
        allowed = round(quota * PERIOD_US)
        if group.version == 2:
            group.write("cpu.max", f"{allowed} {PERIOD_US}")
        else:
            group.write("cpu.cfs_period_us", PERIOD_US)
            group.write("cpu.cfs_quota_us", allowed)
        launch.argv[:0] = group.entry
        name = "cpu.max" if group.version == 2 else "cpu.cfs_quota_us"
        yield Enforced(f"cgroup v{group.version} {name}{priority}", lambda: _counted(group))


def _counted(group: cgroup.Group) -> Counters:
    stat = group.table("cpu.stat")
    if group.version == 2:
        allowed, period = map(int, group.read("cpu.max").split())
        waited_s = stat["throttled_usec"] / 1e6
    else:
        allowed, period = (int(group.read(f"cpu.cfs_{each}_us")) for each in ("quota", "period"))
        waited_s = stat["throttled_time"] / 1e9
    return {
        "cpu_quota": allowed / period,
        "cpu_periods": stat["nr_periods"],
        "throttled_periods": stat["nr_throttled"],
        "throttled_s": waited_s,
    }


@contextmanager
def _pinned(cores: int, launch: Launch, priority: str) -> Iterator[Enforced]:
    chosen = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    launch.argv[:0] = ["taskset", "-c", chosen]
    yield Enforced(f"taskset -c {chosen}{priority}")
