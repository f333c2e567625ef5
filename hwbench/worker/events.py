"""What a worker tells its parent: JSON lines on a pipe, so that a death loses only the unsaid."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_STATUS = Path("/proc/self/status")


class Events:
    """Writes events; the parent sees end-of-file when the process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._phase = "start"

    def send(self, event: str, **values: Any) -> None:
        """One event. A vanished parent ends the worker by SIGPIPE or ``BrokenPipeError``."""
        line = json.dumps({"event": event, **values}, default=plain).encode() + b"\n"
        view = memoryview(line)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def phase(self, name: str) -> None:
        """The worker enters a phase; a death is charged to the last one announced."""
        self._phase = name
        self.send("phase", phase=name)
        if name != "done":  # each kind of work tells its own peak before it asks what ran
            self.peak_rss()

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """A short phase within the present one; what fails in it is charged to it."""
        before = self._phase
        self.send("phase", phase=name)
        yield
        self.send("phase", phase=before)

    def peak_rss(self) -> None:
        """Tell the peak resident set so far, where the system keeps one.

        The kernel's account after the end (``ru_maxrss``) cannot tell: it starts with what the
        parent held when it forked.
        """
        if _STATUS.exists():
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.send("process", peak_rss_mib=int(line.split()[1]) / 1024)


def plain(value: Any) -> Any:
    """For ``json.dumps``: bytes as base64, which ``parse`` reads back, and NumPy as Python."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def parse(line: bytes) -> dict[str, Any]:
    """An event as it was sent."""
    content: dict[str, Any] = json.loads(line, object_hook=_rich)
    return content


def _rich(content: dict[str, Any]) -> Any:
    if content.keys() == {"base64"}:
        return base64.b64decode(content["base64"])
    return content
