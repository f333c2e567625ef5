"""Which rows of a batch a fault changes, and running such rows together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench import edits
from hwbench.backend import Array, Feeds
from hwbench.edits import Edits
from hwbench.replay import lanes

Indices = npt.NDArray[np.int64]

_SMALLEST = 4  # rows of the smallest run; fewer are filled up
_PATIENCE = 128  # rows compared at a cut before it may be judged useless
_WORTH = 0.05  # share of rows dropped that pays for comparing


@dataclass(frozen=True)
class Changed:
    """Rows in which a tensor is not golden.

    Attributes:
        entry: pattern of each row, shape (n,), ascending.
        rows: row of the batch, shape (n,).
        tensors: the changed tensors of a slice of the entries, in the runtime's own kind, made
            when they are needed.
    """

    entry: Indices
    rows: Indices
    tensors: Callable[[slice], dict[str, Any]]


@dataclass
class Gain:
    """What comparing rows at a cut has brought so far, of faults from one place on."""

    seen: int = 0
    dropped: int = 0

    @property
    def pays(self) -> bool:
        """Whether to go on comparing."""
        return self.seen < _PATIENCE or self.dropped > _WORTH * self.seen

    def add(self, differs: npt.NDArray[np.bool_]) -> None:
        """Count rows that were compared, shape (n,)."""
        self.seen += len(differs)
        self.dropped += int((~differs).sum())


def hit(patterns: Sequence[Edits]) -> tuple[Indices, Indices, Indices, Edits]:
    """Pattern and row of each row that is hit; which of them each edit hits; the edits."""
    lane = np.concatenate([np.full(len(each), i) for i, each in enumerate(patterns)])
    joined = edits.concatenate(list(patterns))
    pairs, place = np.unique(np.stack([lane, joined.row]), axis=1, return_inverse=True)
    return pairs[0], pairs[1], place.reshape(-1), joined


def pack_sizes(rows: int) -> tuple[int, ...]:
    """Batch sizes to run parts of a batch of ``rows`` with, descending."""
    sizes = [rows]
    while sizes[-1] > _SMALLEST:
        sizes.append((sizes[-1] + 1) // 2)
    return tuple(sizes)


def runs(count: int, sizes: Sequence[int], largest: int = 0) -> Iterator[tuple[int, Indices]]:
    """Entries of each run: the largest packs first, the last one filled up with its last entry.

    Args:
        count: entries in all.
        sizes: batch sizes, descending.
        largest: batch size that is not exceeded, one of ``sizes``; 0 for the largest.
    """
    allowed = [each for each in sizes if not largest or each <= largest]
    first = 0
    while first < count:
        left = count - first
        size = next((each for each in allowed if each <= left), allowed[-1])
        yield first, np.arange(first, first + size).clip(max=count - 1)
        first += size


def finish(
    clean: Mapping[str, Array],
    changed: Changed,
    patterns: int,
    window: int,
    tail: Callable[[dict[str, Any], Indices], tuple[Indices, dict[str, Array]]],
) -> list[dict[str, Array]]:
    """Outputs per pattern from what a head has changed.

    Args:
        clean: golden.
        changed: the rows that differ.
        patterns: how many there are.
        window: rows at a time.
        tail: runs on with changed tensors and the rows that they are; gives the entries that it
            ran to the end, and their outputs.
    """
    results = [{name: each.copy() for name, each in clean.items()} for _ in range(patterns)]
    for first in range(0, len(changed.entry), window):
        some = slice(first, first + window)
        rows = changed.rows[some]
        kept, outputs = tail(changed.tensors(some), rows)
        for name, array in outputs.items():
            _scatter(results, name, array, changed.entry[some][kept], rows[kept])
    return results


def _scatter(
    results: list[dict[str, Array]], name: str, array: Array, entry: Indices, rows: Indices
) -> None:
    bounds = np.flatnonzero(np.diff(entry)) + 1
    for some in np.split(np.arange(len(entry)), bounds):
        if len(some):
            results[entry[some[0]]][name][rows[some]] = array[some]


def independent(
    run: Callable[[Feeds], dict[str, Array]], feeds: Feeds, golden: Mapping[str, Array]
) -> bool:
    """Whether each row's outputs depend on that row alone: rows rolled, then half of them gone.

    Args:
        run: ``Session.run``.
        feeds: the batch.
        golden: its outputs.
    """
    rows = len(next(iter(feeds.values())))
    if any(each.ndim == 0 or len(each) != rows for each in (*feeds.values(), *golden.values())):
        return False
    order = np.roll(np.arange(rows), 1)
    rolled = run({name: each[order] for name, each in feeds.items()})
    half = np.arange(rows) // 2 * 2  # odd rows become copies of even ones
    thinned = run({name: each[half] for name, each in feeds.items()})
    return lanes.same_outputs(rolled, {n: g[order] for n, g in golden.items()}) and (
        lanes.same_outputs(thinned, {n: g[half] for n, g in golden.items()})
    )
