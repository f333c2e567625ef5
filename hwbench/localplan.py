"""How many workers this machine carries side by side: by its cores, and by the memory that is free.

What a worker needs is the peak of those that ran; before there is one, a guess from its artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from hwbench import fingerprint
from hwbench.plan import Deployment, Plan
from hwbench.state import State

SHARE = 0.8  # of the free memory that workers may take
START_MIB = 350.0  # an interpreter with a runtime in it
COPIES = 4.0  # of an artifact: as read, as prepared for kernels, corrupted, and what is computed
_MIB = 2.0**20
_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Local:
    """Workers at a time, and why.

    Attributes:
        workers: how many accuracy jobs run at a time.
        by_cores: how many the cores would carry.
        worker_mib: what the largest worker takes.
        free_mib: memory that was free.
    """

    workers: int
    by_cores: int
    worker_mib: float
    free_mib: float

    @property
    def note(self) -> str:
        """Why there are fewer workers than cores would carry; empty if there are not."""
        if self.workers == self.by_cores:
            return ""
        return (
            f"{self.workers} of {self.by_cores} workers:"
            f" one takes {self.worker_mib:.0f} MiB, {self.free_mib:.0f} MiB are free"
        )


def planned(made: Plan, state: State, free_mib: float, cores: int | None = None) -> Local:
    """Workers at a time: as many as fit with the asked threads, and into the free memory.

    Args:
        made: the plan.
        state: with the peaks of processes that ran.
        free_mib: memory that is free before the first of them starts.
        cores: of this machine; default: those this process may use.
    """
    threads = max(each.environment.threads for each in made.deployments)
    by_cores = max(1, (cores or fingerprint.cores()) // threads)
    largest = max(_needs(each, state) for each in made.deployments)
    fitting = max(1, int(SHARE * free_mib / largest))
    return Local(min(by_cores, fitting), by_cores, largest, free_mib)


def _needs(deployment: Deployment, state: State) -> float:
    measured = state.peaks.get(deployment.key)
    return measured if measured else START_MIB + COPIES * _size_mib(deployment.artifact)


def _size_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / _MIB


def free_mib() -> float:
    """Memory that is free: of the machine, or of the control group this process is in."""
    free = psutil.virtual_memory().available / _MIB
    most, now = _group_mib("memory.max"), _group_mib("memory.current")
    return free if most is None or now is None else min(free, max(0.0, most - now))


def _group_mib(name: str) -> float | None:
    """A number of this process's group (cgroup v2); ``None`` where there is none."""
    try:
        path = Path("/proc/self/cgroup").read_text().partition("0::/")[2].splitlines()[0]
        text = (_GROUP / path / name).read_text().strip()
    except (OSError, IndexError):
        return None
    return None if text == "max" else int(text) / _MIB
