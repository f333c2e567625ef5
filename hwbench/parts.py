"""The Parquet parts of one kind of rows, in a folder of their own: append-only, merged in time.

A part is named by the flushes that it holds, ``00000017-00000032.parquet``. A flush is a part of
its own; when there are many small ones their rows are written again as one part. Its rename is the
commit, as for any part: from then on the parts whose flushes it holds do not count, removed or not.
So at every moment each row is there once, and its place among the rows never changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hwbench import failpoint
from hwbench.durable import replacing

FAN = 16  # parts of a size that are merged into one
MOST_BYTES = 64 << 20  # parts that would make a larger one are left alone
GROUP_ROWS = 8_192  # rows of a row group, and at a time in memory
GROUP_BYTES = 4 << 20
_NAME = re.compile(r"(\d{8,})-(\d{8,})\.parquet")


@dataclass(frozen=True, order=True)
class Part:
    """A committed file and the flushes that it holds."""

    first: int
    last: int
    path: Path

    @property
    def level(self) -> int:
        """How often its rows were merged, by its width in flushes."""
        return ((self.last - self.first + 1).bit_length() - 1) // (FAN.bit_length() - 1)


class Parts:
    """The rows in one folder. Any number of readers, in any process; one writer at a time."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self._rows: dict[Path, int] = {}

    def listed(self) -> list[Part]:
        """The parts that count, in the order of their rows.

        While another process merges, one look at the folder might miss both a new part and those
        that it replaces; two equal looks cannot.
        """
        before, now = None, self._look()
        while now != before:
            before, now = now, self._look()
        return now

    def _look(self) -> list[Part]:
        found = []
        for path in self.folder.glob("*.parquet"):
            match = _NAME.fullmatch(path.name)
            if match:
                found.append(Part(int(match[1]), int(match[2]), path))
        kept: list[Part] = []
        for each in sorted(found, key=lambda part: (part.first, -part.last)):
            if not kept or each.last > kept[-1].last:
                kept.append(each)
        return kept

    def batches(
        self, columns: Sequence[str] | None = None, start: int = 0, rows: int = GROUP_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Committed rows in the order of writing, some at a time.

        Args:
            columns: those wanted; default: all.
            start: number of rows to pass over: what was read before.
            rows: at a time; of wide columns, as many as fit the processor's cache are read fastest.
        """
        position, missed = start, True
        while missed:
            missed, passed = False, 0
            for part in self.listed():
                try:
                    count = self._count(part)
                    if passed + count > position:
                        for batch in self._read(part, columns, position - passed, rows):
                            yield batch
                            position += batch.num_rows
                except FileNotFoundError:  # merged meanwhile: the same rows are elsewhere now
                    missed = True
                    break
                passed += count

    def _count(self, part: Part) -> int:
        if part.path not in self._rows:
            self._rows[part.path] = pq.read_metadata(part.path).num_rows
        return self._rows[part.path]

    def _read(
        self, part: Part, columns: Sequence[str] | None, skip: int, rows: int = GROUP_ROWS
    ) -> Iterator[pa.RecordBatch]:
        names = self.schema.names if columns is None else list(columns)
        wanted = pa.schema([self.schema.field(name) for name in names])
        # Buffering ahead would hold whole parts, and the dataset interface takes more still.
        with pq.ParquetFile(part.path, pre_buffer=False) as file:
            known = [name for name in names if name in file.schema_arrow.names]
            for batch in file.iter_batches(rows, columns=known, use_threads=False):
                if skip < batch.num_rows:
                    yield _with_all(batch, wanted).slice(skip)
                skip = max(0, skip - batch.num_rows)

    def append(self, table: pa.Table) -> None:
        """Commit rows.

        Raises:
            RequestError: the disk does not take them.
        """
        number = max((each.last for each in self._look()), default=0) + 1
        with replacing(self._path(number, number), self.folder.name) as file:
            pq.write_table(table, file, compression="zstd", row_group_size=GROUP_ROWS)

    def merge(self) -> None:
        """Write small parts again as larger ones, as long as there are many of a size.

        Raises:
            RequestError: the disk does not take it; every row is where it was.
        """
        while due := self._due():
            self._merge(due)

    def _path(self, first: int, last: int) -> Path:
        return self.folder / f"{first:08d}-{last:08d}.parquet"

    def _due(self) -> list[Part]:
        """The last parts of a size, where there are ``FAN`` and they are small."""
        found = self._look()
        last = [*takewhile(lambda part: part.level == found[-1].level, reversed(found))][::-1]
        enough = len(last) >= FAN
        return last if enough and sum(p.path.stat().st_size for p in last) <= MOST_BYTES else []

    def _merge(self, parts: Sequence[Part]) -> None:
        path = self._path(parts[0].first, parts[-1].last)
        with (
            replacing(path, f"{self.folder.name}-merged") as file,
            pq.ParquetWriter(file, self.schema, compression="zstd") as writer,
        ):
            for group in self._groups(parts):
                writer.write_table(group)
        self.tidy()

    def _groups(self, parts: Sequence[Part]) -> Iterator[pa.Table]:
        held: list[pa.RecordBatch] = []
        for batch in (batch for part in parts for batch in self._read(part, None, 0)):
            held.append(batch)
            full = sum(each.num_rows for each in held) >= GROUP_ROWS
            if full or sum(each.nbytes for each in held) >= GROUP_BYTES:
                yield pa.Table.from_batches(held, self.schema)
                held = []
        yield pa.Table.from_batches(held, self.schema)

    def tidy(self) -> None:
        """Remove what does not count: parts that were merged, and files of a writer that died."""
        kept = {each.path for each in self.listed()}
        for path in self.folder.iterdir():
            if path not in kept and (_NAME.fullmatch(path.name) or path.name.startswith(".")):
                failpoint.hit(f"{self.folder.name}-merged:removing")
                path.unlink()
                self._rows.pop(path, None)


def _with_all(batch: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    """The columns in their order; those that there were not yet when it was written are null."""
    arrays = [
        batch.column(field.name)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in wanted
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)
