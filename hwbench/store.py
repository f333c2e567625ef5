"""The run folder: append-only Parquet parts whose rename is the commit.

Rows are buffered and written as one part by write, fsync, rename, fsync of the folder. Whatever
has no final name does not exist; there is no other truth.
"""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from hwbench import failpoint
from hwbench.durable import refused, write_durably
from hwbench.errors import RequestError
from hwbench.parts import GROUP_ROWS, Parts
from hwbench.record import PARTS, SCHEMA_VERSION, Column, Row

__all__ = ["FLUSH_ROWS", "FLUSH_S", "Store", "schema", "write_durably"]

_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "binary": pa.binary(),
    "float64[]": pa.list_(pa.float64()),
    "int64[]": pa.list_(pa.int64()),
}

FLUSH_ROWS = 20_000
FLUSH_S = 2.0
# A record says that its trial is done, a process that its work is: what they vouch for comes first.
_VOUCHING = ("records", "processes")
_ORDER = (*(part for part in PARTS if part not in _VOUCHING), *_VOUCHING)


def schema(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow schema of a part."""
    return pa.schema([(column.name, _TYPES[column.type]) for column in columns])


class Store:
    """One run's folder. Safe to use from several threads; one process writes at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pending: dict[str, list[Row]] = defaultdict(list)
        self._guard = threading.Lock()
        self._last_flush = time.monotonic()
        self._lock_file: Any = None
        self._parts = {name: Parts(folder / name, schema(PARTS[name])) for name in PARTS}

    @classmethod
    def create(cls, folder: Path) -> Store:
        """A new run in ``folder``, which must not hold one.

        Raises:
            RequestError: it cannot be made, or holds a run.
        """
        if (folder / "run.json").exists():
            hint = "give another --output, or --resume it."
            raise RequestError("holds a run already.", where=str(folder), hint=hint)
        try:
            for part in ("golden", *PARTS):
                (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(folder, error) from error
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """An existing run.

        Raises:
            RequestError: there is none.
        """
        if not (folder / "run.json").exists():
            hint = "give the folder that a sweep named at its end."
            raise RequestError("holds no run.", where=str(folder), hint=hint)
        store = cls(folder)
        if store.read_json("run.json").get("schema") != SCHEMA_VERSION:
            hint = "use the version of hwbench that made it."
            raise RequestError("was made with another schema.", where=str(folder), hint=hint)
        return store

    def lock(self) -> None:
        """Be the only writer until the process ends.

        Raises:
            RequestError: another process writes this run.
        """
        try:
            self._lock_file = (self.folder / ".lock").open("w")
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.unlock()
            hint = "wait for it, or give another --output."
            raise RequestError(
                "another sweep writes here.", where=str(self.folder), hint=hint
            ) from None
        except OSError as error:
            raise refused(self.folder, error) from error
        failpoint.hit("lock:taken")
        self._tidy()

    def _tidy(self) -> None:
        """Remove what a writer that died left unfinished."""
        try:
            for part in self._parts.values():
                part.tidy()
            for path in (*self.folder.glob(".*.json.*"), *self.folder.glob(".spec.yaml.*")):
                path.unlink()
        except OSError as error:
            raise refused(self.folder, error) from error

    def unlock(self) -> None:
        """Let others write."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only writer meanwhile.

        Raises:
            RequestError: another process writes this run.
        """
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def append(self, part: str, rows: list[Row]) -> None:
        """Add rows; they are on disk after at most ``FLUSH_S`` of further appends, or ``flush``."""
        with self._guard:
            self._pending[part].extend(rows)
            full = len(self._pending[part]) >= FLUSH_ROWS
            late = time.monotonic() - self._last_flush > FLUSH_S
            if full or late:
                self._flush()

    def flush(self) -> None:
        """Put every pending row on disk."""
        with self._guard:
            self._flush()

    def _flush(self) -> None:
        for part in _ORDER:
            rows = self._pending[part]
            if rows:
                failpoint.hit(f"{part}:flushing")
                self._parts[part].append(pa.Table.from_pylist(rows, schema(PARTS[part])))
                self._pending[part] = []
                self._parts[part].merge()
        self._last_flush = time.monotonic()

    def append_table(self, part: str, table: pa.Table) -> None:
        """Put rows on disk that are columns already, with the part's schema."""
        with self._guard:
            self._parts[part].append(table)
            self._parts[part].merge()

    def read(self, part: str, columns: list[str] | None = None) -> pa.Table:
        """All committed rows of a part, in the order they were written."""
        wanted = schema(PARTS[part])
        if columns is not None:
            wanted = pa.schema([wanted.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(part, columns), wanted)

    def batches(
        self,
        part: str,
        columns: Sequence[str] | None = None,
        start: int = 0,
        rows: int = GROUP_ROWS,
    ) -> Iterator[pa.RecordBatch]:
        """Committed rows of a part in the order they were written, some at a time.

        Args:
            part: a key of ``record.PARTS``.
            columns: those wanted; default: all.
            start: number of rows to pass over: what was read before.
            rows: at a time.
        """
        return self._parts[part].batches(columns, start, rows)

    def count(self, part: str) -> int:
        """How many rows of a part are committed."""
        return sum(len(each) for each in self.batches(part, [PARTS[part][0].name]))

    def write_json(self, name: str, content: Any) -> None:
        """A small JSON file of the run."""
        write_durably(self.folder / name, json.dumps(content, indent=2, sort_keys=True).encode())

    def has(self, name: str) -> bool:
        """Whether a file that not every run has is there."""
        return (self.folder / name).exists()

    def read_json(self, name: str) -> Any:
        """What ``write_json`` wrote.

        Raises:
            RequestError: the file is missing or damaged.
        """
        try:
            return json.loads((self.folder / name).read_text())
        except (OSError, ValueError) as error:
            hint = "is this the folder of a run that had begun?"
            raise RequestError(
                f"cannot be read ({error}).", where=str(self.folder / name), hint=hint
            ) from None
