"""Control groups of our own: made for one worker, removed behind it, whatever happened to us."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hwbench.backend import Capability
from hwbench.errors import Unsupported

PREFIX = "hwbench-"
REMOVAL_S = 5.0
HINT = "Hint: run as root, or in a systemd scope with Delegate=yes."

_numbers = itertools.count()


@dataclass(frozen=True)
class Group:
    """One control group, empty until a worker enters it."""

    path: Path
    version: int

    def write(self, name: str, value: object) -> None:
        """Set one of its files."""
        (self.path / name).write_text(f"{value}\n")

    def read(self, name: str) -> str:
        """One of its files."""
        return (self.path / name).read_text().strip()

    def table(self, name: str) -> dict[str, int]:
        """A file of ``key value`` lines."""
        pairs = (line.split() for line in self.read(name).splitlines())
        return {key: int(value) for key, value in pairs}

    def has(self, name: str) -> bool:
        """Whether the kernel offers a file."""
        return (self.path / name).exists()

    @property
    def entry(self) -> list[str]:
        """A command that enters the group and then becomes what follows it.

        The process is inside before the worker's first instruction, and nothing runs between
        ``fork`` and ``exec`` of a parent that has threads.
        """
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs")]


@contextmanager
def group(controller: str) -> Iterator[Group]:
    """A new group under our own, so that limits on ourselves stay in force.

    Raises:
        Unsupported: there is no such controller, or we may not make groups.
    """
    version, parent = _parent(controller, Path("/proc/self"))
    sweep(parent)
    path = parent / f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"
    try:
        path.mkdir()
    except OSError as error:
        raise Unsupported(f"no group can be made in {parent}: {error.strerror}. {HINT}") from error
    try:
        yield Group(path, version)
    finally:
        _remove(path)


@cache
def capability(controller: str, *files: str) -> Capability:
    """Whether a group with one of ``files`` can be made here: tried, and taken back."""
    try:
        with group(controller) as made:
            if any(made.has(name) for name in files):
                return Capability("supported", f"cgroup v{made.version}")
            return Capability("unsupported", f"the kernel's groups have no {' or '.join(files)}")
    except Unsupported as gap:
        return Capability("unsupported", gap.reason)


def sweep(parent: Path) -> list[Path]:
    """Remove the groups of ours in ``parent`` whose owner is gone, with whatever is left inside."""
    stale = [path for path in parent.glob(f"{PREFIX}*-*-*") if not _owned(path.name)]
    for path in stale:
        _remove(path)
    return stale


def _owned(name: str) -> bool:
    """Whether the process that made a group lives; process ids come back, start times do not."""
    owner, start, _ = name.removeprefix(PREFIX).split("-", 2)
    return not owner.isdigit() or _started(int(owner)) == start


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _remove(path: Path) -> None:
    """Kill what is inside and remove the group; the kernel needs a moment for both.

    What will not die in time is left to the next sweep, rather than ending this one.
    """
    end = time.monotonic() + REMOVAL_S
    while path.exists() and time.monotonic() < end:
        with suppress(OSError):
            for pid in (path / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        try:
            path.rmdir()
        except OSError:
            time.sleep(0.01)


def _parent(controller: str, process: Path) -> tuple[int, Path]:
    """Version of the hierarchy that carries a controller, and the group to make ours in."""
    if not (process / "cgroup").exists():
        raise Unsupported(f"this system has no control groups, so no {controller} group")
    lines = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
    memberships = {controllers: path for _, controllers, path in lines}
    for version, kind, options, root, mount in _mounts(process):
        if version == 1 and controller in options:
            named = [path for names, path in memberships.items() if controller in names.split(",")]
            if named:
                return 1, _below(mount, root, named[0])
        elif version == 2 and "" in memberships and kind == "cgroup2":
            own = _below(mount, root, memberships[""])
            for each in (own, own.parent):  # beside us where we may not have children
                if controller in _words(each / "cgroup.subtree_control"):
                    return 2, each
    raise Unsupported(f"no control group with the {controller} controller is ours. {HINT}")


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _mounts(process: Path) -> Iterator[tuple[int, str, list[str], str, Path]]:
    """Version, type, options, root and mount point of every hierarchy."""
    for line in (process / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            _, _, _, root, mount, *_ = left.split()
            yield (1 if kind == "cgroup" else 2), kind, options.split(","), root, Path(mount)


def _below(mount: Path, root: str, path: str) -> Path:
    """Where a group is seen: a container's mount shows only what lies below its root."""
    inside = path.removeprefix(root) if root != "/" else path
    return mount / inside.lstrip("/")
