"""Scopes by systemd: control groups for a user to whom none is delegated.

The user's own service manager owns groups that the user may not write directly; it makes one, with
limits, around a command that it starts (``systemd-run --user --scope``).
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hwbench.backend import SUPPORTED, Capability

PREFIX = "hwbench-"
TIMEOUT_S = 10.0

_numbers = itertools.count()


@dataclass(frozen=True)
class Scope:
    """One scope, which begins when its command does.

    Attributes:
        unit: its name, which says whose it is.
        properties: limits by systemd's own names.
    """

    unit: str
    properties: Mapping[str, object]

    @property
    def entry(self) -> list[str]:
        """A command that makes the scope, enters it and becomes what follows it."""
        limits = [f"--property={name}={value}" for name, value in self.properties.items()]
        quiet = ["systemd-run", "--user", "--scope", "--quiet"]
        return [*quiet, f"--unit={self.unit}", *limits, "--"]

    def show(self, *names: str) -> dict[str, str]:
        """Properties that systemd keeps; of a scope that failed also after its end."""
        wanted = [f"--property={name}" for name in names]
        lines = _systemctl("show", *wanted, self.unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@contextmanager
def scope(properties: Mapping[str, object]) -> Iterator[Scope]:
    """A scope of ours with limits; whatever is left of it is stopped and forgotten."""
    made = Scope(f"{PREFIX}{os.getpid()}-{next(_numbers)}.scope", properties)
    try:
        yield made
    finally:
        _systemctl("stop", made.unit)
        _systemctl("reset-failed", made.unit)


def capability() -> Capability:
    """Whether a user's service manager is there to ask; where we may make groups, we do."""
    if shutil.which("systemd-run") is None or shutil.which("systemctl") is None:
        return Capability("unsupported", "systemd-run is not installed")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime or not (Path(runtime) / "systemd/private").exists():
        hint = "Hint: log in, or loginctl enable-linger."
        return Capability("unsupported", f"needs a systemd user session. {hint}")
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return Capability("unsupported", "needs cgroup v2 alone, with its memory controller")
    return SUPPORTED


def _systemctl(*arguments: str) -> str:
    """Its output; what it cannot do (the scope is gone) is no error here."""
    done = subprocess.run(
        ["systemctl", "--user", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.stdout
