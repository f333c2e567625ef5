"""A rack on this machine: a dask scheduler, and boards that are dask workers of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__LOG_LENGTH": "0",
}


@dataclass
class LocalRack:
    """Processes of a rack; ``extra`` are arguments of all of them (certificates)."""

    folder: Path
    extra: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    address: str = ""

    def scheduler(self, prefix: Sequence[str] = (), host: str = "127.0.0.1") -> str:
        """Start it; its address."""
        self._start("scheduler", "dask_scheduler", ["--host", host, "--port", "0"], prefix)
        self.address = self._told("scheduler", "Scheduler at:")
        return self.address

    def board(self, name: str, *tags: str, prefix: Sequence[str] = (), slots: int = 1) -> int:
        """Start a board and wait until it is registered; its process id."""
        resources = " ".join([f"slot={slots}", *(f"{tag}=1" for tag in tags)])
        arguments = [self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        arguments += ["--name", name, "--resources", resources, "--local-directory"]
        self._start(name, "dask_worker", [*arguments, str(self.folder / f"{name}.dask")], prefix)
        self._told(name, "Registered to:")
        return self.running[name].pid

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def jobs(self, name: str) -> list[Path]:
        """Folders of the jobs that a board has in hand."""
        return list((self.folder / f"{name}.cache" / "rack" / "jobs").glob("*"))

    def close(self) -> None:
        """End everything that still runs."""
        for process in reversed(list(self.running.values())):
            process.kill()
            process.wait()

    def _start(self, name: str, what: str, arguments: list[str], prefix: Sequence[str]) -> None:
        cache = {"HWBENCH_CACHE": str(self.folder / f"{name}.cache")}
        variables = {**os.environ, **SETTINGS, **self.variables, **cache}
        command = [*prefix, sys.executable, "-m", f"distributed.cli.{what}", *arguments]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [*command, *self.extra], stdout=log, stderr=log, env=variables, cwd=self.folder
            )

    def _told(self, name: str, words: str) -> str:
        """What follows ``words`` in a log."""
        for _ in range(600):
            text = (self.folder / f"{name}.log").read_text()
            found = [line for line in text.splitlines() if words in line]
            if found:
                return found[0].split(words)[1].strip()
            if self.running[name].poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"{name} did not start:\n{text}")


@contextmanager
def local_rack(folder: Path, **settings: object) -> Iterator[LocalRack]:
    made = LocalRack(folder, **settings)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()
