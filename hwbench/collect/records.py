"""The records of a run by cell, as columns: a million trials are not a million dictionaries.

Records arrive in the order in which workers told them, some twice. Here they stand in the order of
patterns and batches, the first one committed of each, and metric vectors are added up in that
order: whatever the number of workers, tables are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hwbench import score
from hwbench.parts import GROUP_ROWS
from hwbench.record import RECORDS, Row
from hwbench.store import Store, schema

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.uint8]  # (patterns, samples)
Asked = Callable[[], Collection[str]]
Batches = Callable[[list[str]], Iterable[pa.RecordBatch]]

COUNTS = ("n_samples", "n_masked", "n_benign", "n_sdc", "n_due")
_LIGHT = [
    *("cell", "pattern", "batch", *COUNTS, "n_edits", "achieved"),
    *("outcomes", "correct", "custom", "outcome", "message"),
]
_LIGHT_SCHEMA = pa.schema(
    [
        pa.field("cell", pa.dictionary(pa.int32(), pa.string())),
        *(pa.field(name, pa.int32()) for name in ("pattern", "batch", *COUNTS)),
        *(schema(RECORDS).field(name) for name in _LIGHT[3 + len(COUNTS) :]),
    ]
)
_VECTORS = ["partials"]
_VECTOR_ROWS = 2048  # of them at a time: 3 MiB, which stay in the cache until they are added
_WIDTH = sum(metric.width for metric in score.METRICS)


def _slots() -> list[int]:
    """Places of ``score.SILENT`` in the metric vector."""
    found: list[int] = []
    start = 0
    for metric in score.METRICS:
        if metric.name in score.SILENT:
            found += range(start, start + metric.width)
        start += metric.width
    return found


SILENT_SLOTS = _slots()


_NO_ROWS = schema(RECORDS).empty_table()
# The four outcomes that a byte holds, the first in its lowest bits.
_QUADS = np.arange(256, dtype=np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3


@dataclass(frozen=True)
class Records:
    """The records of one cell, at most one per pattern and batch, ascending.

    Attributes:
        rows: columns of the part without metric vectors, one row a record.
        sums: of the metric vectors of all cells, which are still being added up.
        cell: number of the cell in them.
    """

    rows: pa.Table = field(default_factory=lambda: _NO_ROWS)
    sums: _Sums | None = None
    cell: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Records:
        """Records of one cell given as rows, in any order."""
        table = pa.Table.from_pylist(list(rows), schema=schema(RECORDS))
        cells = {each["cell"] for each in rows}
        found = by_cell(lambda names: table.select(names).to_batches(), lambda: cells)
        assert len(found) <= 1, "the rows are of several cells"
        return next(iter(found.values()), cls())

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def partials(self) -> Floats:
        """Metric vectors summed over the records that gave outputs, shape (width,)."""
        return np.zeros(_WIDTH) if self.sums is None else self.sums.total_of(self.cell)

    @property
    def silent(self) -> Floats:
        """The vectors' ``SILENT_SLOTS`` of each such record, where they were asked for."""
        if self.sums is None:
            return np.zeros((0, len(SILENT_SLOTS)))
        return self.sums.silent_of(self.cell)

    @cached_property
    def pattern(self) -> Integers:
        """Pattern of each record."""
        return self.integers("pattern")

    @cached_property
    def batch(self) -> Integers:
        """Batch of each record."""
        return self.integers("batch")

    @cached_property
    def ok(self) -> Flags:
        """Which records gave outputs."""
        return np.asarray(pc.equal(self.rows["outcome"], "ok"), np.bool_)

    @cached_property
    def patterns(self) -> Integers:
        """Distinct patterns, ascending."""
        return self.pattern[np.flatnonzero(np.diff(self.pattern, prepend=-1))]

    @cached_property
    def failed(self) -> list[Row]:
        """Outcome and message of the records that gave no outputs."""
        rows: list[Row] = self.rows.select(["outcome", "message"]).filter(~self.ok).to_pylist()
        return rows

    def integers(self, name: str) -> Integers:
        """A column; 0 where it is null."""
        return np.asarray(pc.fill_null(self.rows[name], 0), np.int64)

    def known(self, name: str) -> npt.NDArray[Any]:
        """What is not null of a column, over records that gave outputs."""
        return np.asarray(self._of_ok(name).drop_null())

    def _of_ok(self, name: str) -> pa.ChunkedArray:
        """A column over records that gave outputs: most often all."""
        column = self.rows[name]
        return column if self.ok.all() else column.filter(pa.array(self.ok))

    def outcomes(self, n_samples: int, batch: int, failed: int = score.Outcome.DUE) -> Matrix:
        """``score.Outcome`` of every pattern and sample; ``failed`` where there is no output."""
        packed = fixed(self._of_ok("outcomes"))
        lanes = _QUADS.view(np.uint32)[packed, 0].view(np.uint8)
        return self._laid(lanes, n_samples, batch, failed)

    def correct(self, n_samples: int, batch: int) -> Matrix:
        """1 where a sample was classified rightly, by pattern and sample."""
        packed = fixed(self._of_ok("correct"))
        return self._laid(np.unpackbits(packed, axis=1), n_samples, batch, 0)

    def _laid(self, lanes: Matrix, n_samples: int, batch: int, elsewhere: int) -> Matrix:
        """Samples of each record at their places in the dataset."""
        n_batches, given = -(-n_samples // batch), min(lanes.shape[1], batch)
        if given == batch and len(lanes) == len(self.patterns) * n_batches:  # in order, none failed
            return lanes[:, :batch].reshape(len(self.patterns), -1)[:, :n_samples]
        made = np.full((len(self.patterns), n_batches, batch), elsewhere, np.uint8)
        at = np.searchsorted(self.patterns, self.pattern[self.ok])
        made[at, self.batch[self.ok], :given] = lanes[:, :given]
        return made.reshape(len(self.patterns), -1)[:, :n_samples]


def fixed(column: pa.ChunkedArray) -> Matrix:
    """Binary values or texts as rows of one width, filled up with zeros."""
    return _fixed(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())


def vectors_in(column: pa.Array) -> Floats:
    """Metric vectors as stored, shape (values that are not null, width)."""
    return _fixed(column.drop_null()).view("<f8").reshape(-1, _WIDTH)


def _fixed(values: pa.Array) -> Matrix:
    lengths = np.asarray(pc.fill_null(pc.binary_length(values), 0), np.int64)
    width = int(lengths.max(initial=0))
    if not width:
        return np.zeros((len(values), 0), np.uint8)
    _, offsets, content = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    told = np.frombuffer(content, np.uint8)[ends[0] : ends[-1]]
    if told.size == len(values) * width:
        return told.reshape(-1, width)
    made = np.zeros((len(values), width), np.uint8)
    made[np.arange(width) < lengths[:, None]] = told
    return made


def read(store: Store, silent: Asked = tuple, *, vectors: bool = True) -> dict[str, Records]:
    """All records of a run by cell, in two passes: metric vectors are never held together.

    The second, most of the reading, is made by a thread, for whose sums ``Records`` wait.

    Args:
        store: the run.
        silent: gives the cells whose records keep their ``SILENT_SLOTS``; asked for between the
            passes, so that it may be found out meanwhile.
        vectors: whether metric vectors are wanted: most of the reading is theirs.
    """

    def batches(names: list[str]) -> Iterator[pa.RecordBatch]:
        wide = names == _VECTORS
        return store.batches("records", names, rows=_VECTOR_ROWS if wide else GROUP_ROWS)

    return by_cell(batches, silent, vectors=vectors)


def by_cell(batches: Batches, silent: Asked = tuple, *, vectors: bool = True) -> dict[str, Records]:
    """``read`` of what gives some columns as record batches, always the same rows."""
    light = pa.Table.from_batches(map(_encoded, batches(_LIGHT)), _LIGHT_SCHEMA)
    if not len(light):
        return {}
    cells = light["cell"].combine_chunks()
    names, code = cells.dictionary.to_pylist(), np.asarray(cells.indices, np.int64)
    order = _first_of_each(code, *(np.asarray(light[each]) for each in ("pattern", "batch")))
    ok = np.asarray(pc.equal(light["outcome"], "ok"), np.bool_)
    sums = _Sums(order[ok[order]], code, np.isin(names, list(silent())))
    if vectors:
        sums.begin(batches(_VECTORS))
    columns = dict(zip(light.column_names, light.columns, strict=True))
    del light, columns["cell"]
    # A column at a time: what was taken is freed.
    rows = pa.table({name: columns.pop(name).take(pa.array(order)) for name in list(columns)})
    bounds = _bounds(code[order], len(names))
    return {
        name: Records(rows.slice(low, high - low), sums, index)
        for index, (name, low, high) in enumerate(zip(names, bounds, bounds[1:], strict=False))
    }


def _encoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with cells by number and small integers: they are most of what is read."""
    arrays = [batch["cell"].dictionary_encode()]
    arrays += [batch[field.name].cast(field.type) for field in list(_LIGHT_SCHEMA)[1:]]
    return pa.RecordBatch.from_arrays(arrays, schema=_LIGHT_SCHEMA)


def _bounds(sorted_codes: Integers, n: int) -> list[int]:
    """Where each code begins, and where the last one ends."""
    found: list[int] = np.searchsorted(sorted_codes, np.arange(n + 1)).tolist()
    return found


def _first_of_each(code: Integers, pattern: Integers, batch: Integers) -> Integers:
    """Rows by cell, pattern and batch, without those that were there before."""
    order = np.lexsort((batch, pattern, code))  # stable, so the first one committed is the first
    new = np.ones(len(order), np.bool_)
    new[1:] = False
    for key in (code, pattern, batch):
        sorted_ = key[order]
        new[1:] |= sorted_[1:] != sorted_[:-1]
    return np.asarray(order[new], np.int64)


class _Sums:
    """Adds up metric vectors cell by cell in the order of records, as they come in any order.

    What comes too early waits, which is no more than what some workers did side by side.

    Args:
        order: stored rows that count, in the order of records.
        code: cell of each stored row.
        silent: of each cell, whether its ``SILENT_SLOTS`` are kept.
    """

    def __init__(self, order: Integers, code: Integers, silent: Flags) -> None:
        self._place = np.full(len(code), -1, np.int64)  # among those that count, by stored row
        self._place[order] = np.arange(len(order))
        self._bounds = np.array(_bounds(code[order], len(silent)))
        self._next = self._bounds[:-1].copy()
        self._waiting: dict[int, Floats] = {}
        self._seen = 0
        self._begun: Future[None] | None = None
        self._totals = np.zeros((len(silent), _WIDTH))
        sizes = np.where(silent, np.diff(self._bounds), 0)
        self._silent_bounds = np.concatenate([[0], np.cumsum(sizes)])
        self._silent = np.zeros((int(sizes.sum()), len(SILENT_SLOTS)))

    def begin(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Add up in a thread what all stored rows give."""
        thread = ThreadPoolExecutor(1)
        self._begun = thread.submit(self._take_all, batches)
        thread.shutdown(wait=False)  # it ends with its work

    def _take_all(self, batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            self._take(batch.column(0))

    def _wait(self) -> None:
        if self._begun is not None:
            self._begun.result()

    def total_of(self, cell: int) -> Floats:
        """Sum of a cell's vectors, once all are added up."""
        self._wait()
        return np.asarray(self._totals[cell])

    def silent_of(self, cell: int) -> Floats:
        """What was kept of a cell, once all are added up."""
        self._wait()
        low, high = self._silent_bounds[cell : cell + 2]
        return self._silent[low:high]

    def _take(self, column: pa.BinaryArray) -> None:
        """The vectors of the next stored rows."""
        known = np.asarray(column.is_valid())
        place = self._place[self._seen : self._seen + len(column)]
        self._seen += len(column)
        rows = np.flatnonzero((place >= 0) & known)
        if not rows.size:
            return
        values = vectors_in(column)
        rows = rows[np.argsort(place[rows], kind="stable")]
        ranks, held = place[rows], (np.cumsum(known) - 1)[rows]
        cells = np.searchsorted(self._bounds, ranks, side="right") - 1
        cuts = np.flatnonzero((np.diff(ranks) != 1) | (np.diff(cells) != 0)) + 1
        for run in np.split(np.arange(len(ranks)), cuts):
            self._run(int(cells[run[0]]), int(ranks[run[0]]), values[held[run]])

    def _run(self, cell: int, first: int, block: Floats) -> None:
        """Some vectors of a cell that follow one another."""
        low, high = self._silent_bounds[cell : cell + 2]
        if high > low:
            at = low + first - self._bounds[cell]
            self._silent[at : at + len(block)] = block[:, SILENT_SLOTS]
        self._waiting[first] = block
        while (due := self._waiting.pop(int(self._next[cell]), None)) is not None:
            due[0] += self._totals[cell]  # then the rows are added one by one, in their order
            self._totals[cell] = np.add.reduce(due, axis=0)
            self._next[cell] += len(due)
            if self._next[cell] >= self._bounds[cell + 1]:
                return
