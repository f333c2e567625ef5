"""One attempt of a job on a board: its rows are committed while they arrive."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from hwbench.case import case_id
from hwbench.errors import RequestError
from hwbench.execute import board as remote
from hwbench.execute.desk import POLL_S, Item
from hwbench.execute.link import Link, Lost
from hwbench.execute.pool import Progress, Stop
from hwbench.execute.supervise import Sink
from hwbench.job import AccuracyWork
from hwbench.record import Row
from hwbench.worker.events import parse

GAP_S = 30.0  # how long a finished job's last rows may take
Inbox = queue.SimpleQueue[Any]


@dataclass
class Following:
    """The rows of one attempt, as they arrive."""

    link: Link
    there: Callable[[], bool]
    item: Item
    token: str
    sink: Sink
    stop: Stop
    progress: Progress
    run: str = ""
    received: int = 0
    eased: bool = False
    held: list[tuple[str, Row]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Remember what earlier attempts told."""
        self._before = frozenset(self.item.told)

    def through(self, future: Future[bytes], inbox: Inbox) -> dict[str, Any] | None:
        """Take messages until the job has ended; what it told at its end, ``None`` if stopped.

        Raises:
            Lost: the board went away, or a message did.
        """
        while True:
            message = _next(inbox)
            if message is None:
                return self._ended(future, inbox)
            if message is not _NOTHING:
                self._take(message)
            elif not self.there():
                raise Lost(bool(self.run))
            if self._stopped():
                return None

    def _stopped(self) -> bool:
        """Whether to leave at once; a first request lets the board finish its trial."""
        if self.stop.requests > 1 or (self.stop and not self.run):
            return True
        if self.stop and not self.eased:
            self.eased = True
            self.link.call(remote.ease, self.token)
        return False

    def _take(self, message: Mapping[str, Any]) -> None:
        """Commit a message's rows, or hold them until the job has ended."""
        self.run = self.run or message["run"]
        if message["run"] != self.run or message["number"] != self.received:
            raise Lost(began=True)  # dask ran it twice, or a message is missing
        self.received += 1
        for part, row in parse(message["rows"])["rows"]:
            if "job" in row:
                row["job"] = self.item.job.id  # paths differ there, and so would its hash
            self.held.append((part, row))
        if not self.item.whole:
            self.commit()

    def commit(self) -> None:
        """Hand on the rows that are held, but for those that an attempt before this one gave."""
        for part, row in self.held:
            if self._new(part, row):
                self.sink.append(part, [row])
        self.held = []

    def _new(self, part: str, row: Row) -> bool:
        if part == "records":
            case = case_id(row["scenario"], row["severity_name"], row["severity"])
            trial = (case, row["pattern"], row["batch"])
            if trial in self.item.done:
                return False
            self.item.done.add(trial)
            self.progress.advance(1)
        elif part == "faults":
            fault = (row["cell"], row["pattern"], row["layer"], row["edits_hash"])
            self.item.told.add(fault)
            return fault not in self._before
        return True

    def _ended(self, future: Future[bytes], inbox: Inbox) -> dict[str, Any] | None:
        from distributed import KilledWorker

        try:
            result: dict[str, Any] = json.loads(future.result())
        except (KilledWorker, CancelledError, TimeoutError) as error:
            raise Lost(bool(self.run)) from error
        except OSError as error:
            raise self._refused(error) from error
        while self.received < result["sent"]:
            message = _next(inbox, GAP_S)
            if message is _NOTHING or message is None:
                raise Lost(began=True)
            self._take(message)
        if not isinstance(self.item.job.work, AccuracyWork):
            self.progress.advance(1)
        return result

    def _refused(self, error: OSError) -> Exception:
        if error.errno is None:  # dask's own: the connection is gone
            return Lost(bool(self.run))
        hint = "look at it, and go on with --resume."
        what = f"cannot do its job ({error.strerror}: {error.filename})."
        return RequestError(what, where=f"board {self.link.name}", hint=hint)


_NOTHING = object()


def _next(inbox: Inbox, timeout_s: float = POLL_S) -> Any:
    try:
        return inbox.get(timeout=timeout_s)
    except queue.Empty:
        return _NOTHING
