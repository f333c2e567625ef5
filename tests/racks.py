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
        told = self._told("scheduler", "Scheduler at:")
        scheme, port = told.split("://")[0], told.rsplit(":", 1)[1]
        self.address = f"{scheme}://127.0.0.1:{port}"
        return self.address

    def board(
        self, name: str, *tags: str, prefix: Sequence[str] = (), slots: int = 1, host: str = ""
    ) -> None:
        """Start a board and wait for it; ``host`` is what it calls the scheduler."""
        resources = " ".join([f"slot={slots}", *(f"{tag}=1" for tag in tags)])
        address = self.address.replace("127.0.0.1", host) if host else self.address
        arguments = [
            address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--death-timeout",
            "30",
        ]
        arguments += ["--name", name, "--resources", resources, "--local-directory"]
        self._start(name, "dask_worker", [*arguments, str(self.folder / f"{name}.dask")], prefix)
        self._told(name, "Registered to:")

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
def namespace(number: int) -> Iterator[Network]:
    """A network namespace that sees this machine over a wire; needs root and iproute2."""
    made = Network(f"hwbench-{os.getpid()}-{number}", f"hwb{number}-{os.getpid()}"[:15], number)
    try:
        made.set_up()
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", made.name], check=False, stderr=subprocess.DEVNULL)


@dataclass(frozen=True)
class Network:
    """A namespace and this end of its wire."""

    name: str
    device: str
    number: int

    @property
    def prefix(self) -> list[str]:
        """Runs a command inside."""
        return ["ip", "netns", "exec", self.name]

    @property
    def host(self) -> str:
        """This machine, as seen from inside."""
        return f"10.231.{self.number}.1"

    def set_up(self) -> None:
        """Make the namespace and its wire."""
        inside = f"p{self.device}"[:15]
        for command in (
            ["netns", "add", self.name],
            ["link", "add", self.device, "type", "veth", "peer", "name", inside],
            ["link", "set", inside, "netns", self.name],
            ["addr", "add", f"{self.host}/30", "dev", self.device],
            ["link", "set", self.device, "up"],
            ["-n", self.name, "addr", "add", f"10.231.{self.number}.2/30", "dev", inside],
            ["-n", self.name, "link", "set", inside, "up"],
            ["-n", self.name, "link", "set", "lo", "up"],
        ):
            subprocess.run(["ip", *command], check=True, capture_output=True)

    def cut(self) -> None:
        """Nothing passes any more, and neither end is told."""
        subprocess.run(["ip", "link", "set", self.device, "down"], check=True)


def certificates(folder: Path, name: str) -> Path:
    """An authority of its own, and a key with a certificate that it signed, by the openssl tool."""
    home = folder / name
    home.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", f"/CN={name}")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=rack")
    signer = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"]
    openssl("x509", "-req", "-in", "request.pem", *signer, "-days", "2", "-out", "cert.pem")
    return home


@contextmanager
def local_rack(folder: Path, **settings: object) -> Iterator[LocalRack]:
    made = LocalRack(folder, **settings)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()
