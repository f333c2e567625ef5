"""What runs on a board of a rack, inside its dask worker: the board's end of ``cluster``.

dask carries these functions by name, and JSON or bytes as their arguments. The job itself runs in a
fresh process below the dask worker, under the same supervision as on one machine.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwbench import __version__, fingerprint
from hwbench.execute.blobs import Blobs
from hwbench.execute.parcel import unpack
from hwbench.execute.supervise import supervise
from hwbench.plan import cache_folder
from hwbench.record import Row
from hwbench.worker.events import plain

TOPIC = "hwbench"
LOOK_S = 0.5  # between two looks at whether somebody still wants the job
ROWS, AGE_S = 64, 0.25  # of one message at most
_EXTENSION = "hwbench"  # under which a dask worker keeps the jobs in hand
_WANTED = ("executing", "long-running")  # states of a task whose result somebody waits for


def _blobs() -> Blobs:
    return Blobs(cache_folder() / "rack" / "blobs")


def describe() -> dict[str, Any]:
    """Which machine this is, and what is installed."""
    return {
        "hwbench": __version__,
        "machine": fingerprint.machine(),
        "versions": fingerprint.versions(),
    }


def lacking(digests: list[str]) -> list[str]:
    """Files that have never been here."""
    return _blobs().lacking(digests)


def receive(digest: str, sending: str, chunk: bytes, last: bool) -> None:
    """The next piece of a file."""
    _blobs().receive(digest, sending, chunk, last)


def read(digest: str, offset: int) -> bytes:
    """A piece of a file that a job made here."""
    return _blobs().read(digest, offset)


def ease(token: str, dask_worker: Any) -> None:
    """Stop a job after the trial in hand."""
    halt = dask_worker.extensions.get(_EXTENSION, {}).get(token)
    if halt is not None:
        halt.request()


class Halt:
    """The board's ``StopSignal``: eased by request, at once when nobody wants the job any more."""

    def __init__(self) -> None:
        self.eased = False
        self.now, self._at_once = os.pipe()

    def __bool__(self) -> bool:
        return self.eased

    def request(self) -> None:
        """Stop after the trial in hand."""
        self.eased = True

    def at_once(self) -> None:
        """Kill the worker."""
        self.eased = True
        os.write(self._at_once, b"!")

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self.now)
        os.close(self._at_once)


class Wire:
    """The board's ``Sink``: rows as numbered messages, so that a gap is seen at the other end."""

    def __init__(self, dask_worker: Any, token: str) -> None:
        self.run = uuid.uuid4().hex
        self.sent = 0
        self._worker, self._token = dask_worker, token
        self._rows: list[tuple[str, Row]] = []
        self._since = time.monotonic()
        self._guard = threading.Lock()

    def append(self, part: str, rows: list[Row]) -> None:
        """Take rows of a part."""
        with self._guard:
            self._rows.extend((part, each) for each in rows)
            if len(self._rows) >= ROWS or time.monotonic() - self._since > AGE_S:
                self._send()

    def flush(self) -> None:
        """Send what waits."""
        with self._guard:
            if self._rows:
                self._send()

    def begin(self) -> None:
        """Tell that the job has been started."""
        with self._guard:
            self._send()

    def _send(self) -> None:
        rows = json.dumps({"rows": self._rows}, default=plain).encode()
        message = {"token": self._token, "run": self.run, "number": self.sent, "rows": rows}
        self._worker.log_event(TOPIC, message)
        self.sent += 1
        self._rows, self._since = [], time.monotonic()


def perform(payload: bytes) -> bytes:
    """Do a job in a fresh process, with its own deadline; its outcome is a row like others.

    Args:
        payload: a parcel's content and the ``token`` of this attempt, as JSON.

    Returns:
        As JSON: ``run`` and how many messages it ``sent``, and ``made``, the trees of its outputs.
    """
    from distributed import get_worker

    worker = get_worker()
    _undo_nanny()
    asked = json.loads(payload)
    token, blobs = str(asked["token"]), _blobs()
    wire = Wire(worker, token)
    wire.begin()
    with _workplace(blobs.folder.parent) as folder, _watched(worker, token, wire) as halt:
        job, made = unpack(asked, folder, blobs)
        supervise(job, wire, halt, lambda steps: None)
        trees = {path: blobs.keep(place) for path, place in made.items() if place.exists()}
    wire.flush()
    told = {path: tree.to_json() for path, tree in trees.items()}
    return json.dumps({"run": wire.run, "sent": wire.sent, "made": told}).encode()


def _undo_nanny() -> None:
    """Take back variables that dask's nanny set: deployed processes do not have them."""
    import dask

    for name, value in dask.config.get("distributed.nanny.pre-spawn-environ", {}).items():
        if os.environ.get(name) == str(value):
            del os.environ[name]


@contextmanager
def _workplace(root: Path) -> Iterator[Path]:
    """A folder for one job, on the file system of the blobs, so that they are linked."""
    folder = root / "jobs" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _watched(dask_worker: Any, token: str, wire: Wire) -> Iterator[Halt]:
    """A stop signal that is given at once when the task is cancelled, or its client is gone."""
    halt, done = Halt(), threading.Event()
    known = dask_worker.extensions.setdefault(_EXTENSION, {})
    known[token] = halt
    key = dask_worker.get_current_task()

    def look() -> None:
        while not done.wait(LOOK_S):
            wire.flush()
            task = dask_worker.state.tasks.get(key)
            wanted = task is not None and task.state in _WANTED
            if not wanted or dask_worker.status.name in ("closing", "closed", "failed"):
                halt.at_once()
                return

    watcher = threading.Thread(target=look, name="hwbench-watch", daemon=True)
    watcher.start()
    try:
        yield halt
    finally:
        done.set()
        watcher.join()
        del known[token]
        halt.close()
