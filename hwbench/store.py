"""The run folder: append-only Parquet parts whose rename is the commit.

Rows are buffered and written as one part by write, fsync, rename, fsync of the folder. Whatever
has no final name does not exist; there is no other truth.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hwbench.errors import RequestError
from hwbench.record import PARTS, SCHEMA_VERSION, Column, Row

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


def schema(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow schema of a part."""
    return pa.schema([(column.name, _TYPES[column.type]) for column in columns])


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent, also after a crash."""
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise _refused(path, error) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refused(path: Path, error: OSError) -> RequestError:
    return RequestError(
        f"cannot be written ({error.strerror or error}).",
        where=str(path),
        hint="free space or give another --output; what was written is kept, and --resume goes on.",
    )


class Store:
    """One run's folder. Safe to use from several threads; one process writes at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pending: dict[str, list[Row]] = defaultdict(list)
        self._guard = threading.Lock()
        self._last_flush = time.monotonic()
        self._lock_file: Any = None

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
            raise _refused(folder, error) from error
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
            raise _refused(self.folder, error) from error

    def unlock(self) -> None:
        """Let others write."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

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
        for part, rows in list(self._pending.items()):
            if rows:
                self._write_part(part, rows)
                self._pending[part] = []
        self._last_flush = time.monotonic()

    def append_table(self, part: str, table: pa.Table) -> None:
        """Put rows on disk that are columns already, with the part's schema."""
        with self._guard:
            self._write_table(part, table)

    def _write_part(self, part: str, rows: list[Row]) -> None:
        self._write_table(part, pa.Table.from_pylist(rows, schema=schema(PARTS[part])))

    def _write_table(self, part: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
        write_durably(self.folder / part / name, sink.getvalue().to_pybytes())

    def read(self, part: str, columns: list[str] | None = None) -> pa.Table:
        """All committed rows of a part, in the order they were written."""
        wanted = schema(PARTS[part])
        files = sorted((self.folder / part).glob("*.parquet"))
        tables = [pq.read_table(file, columns=columns, schema=wanted) for file in files]
        if tables:
            return pa.concat_tables(tables)
        empty = wanted.empty_table()
        return empty.select(columns) if columns else empty

    def batches(self, part: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """What ``read`` gives, some rows at a time."""
        for file in sorted((self.folder / part).glob("*.parquet")):
            found = pq.read_table(file, columns=columns, schema=schema(PARTS[part]))
            yield from found.to_batches(max_chunksize=32_768)

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
