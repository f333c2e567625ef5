"""The ways that faults of a site are run; which one is taken, the gate decides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from hwbench import edits as bits
from hwbench import onnxfile
from hwbench.backend import Array, Site
from hwbench.edits import Edits
from hwbench.replay import lanes, rows
from hwbench.replay.gate import Refused
from hwbench.replay.rows import Changed, Indices
from hwbench.replay.windows import Box, crop, inside
from hwbench_onnxruntime import layout
from hwbench_onnxruntime.heads import SLOTS, Fault, GroupedHead, SingleHead, differing_rows
from hwbench_onnxruntime.tail import Tail
from hwbench_onnxruntime.windows import Walk, Windows

_WINDOW = 8 * 2**20  # bytes of changed rows at a time


@dataclass
class Tailed(ABC):
    """A route that ends in the shared tail.

    Attributes:
        tail: of the batch.
        clean: golden outputs.
        packs: sizes of runs that golden is tried with; all of the tail's where absent.
    """

    tail: Tail
    clean: dict[str, Array]
    packs: tuple[int, ...] | None = field(default=None, kw_only=True)

    def on(self, tail: Tail, clean: dict[str, Array]) -> Self:
        """The same route for another batch; smaller runs than its own were tried on the first."""
        return replace(self, tail=tail, clean=clean, packs=tail.packs[:1])

    @abstractmethod
    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""

    @abstractmethod
    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""

    def finish(
        self, cut: int, names: Sequence[str], changed: Changed, patterns: int
    ) -> list[dict[str, Array]]:
        """Outputs per pattern from what a head has changed of the named tensors."""
        start = self._start(cut, names)
        return rows.finish(
            self.clean,
            changed,
            patterns,
            self._window(cut, names),
            lambda tensors, which: self.tail.finish(start, tensors, which),
        )

    def _window(self, cut: int, names: Sequence[str]) -> int:
        """Rows at a time: what they hold should neither leave the cache far behind nor be small."""
        live, rows = self.tail.golden.at(cut), self.tail.rows
        held = sum(live[name].nbytes for name in names) // rows
        return max(1, _WINDOW // max(1, held * rows)) * rows if self.tail.free else rows

    def _start(self, cut: int, tensors: Sequence[str]) -> int:
        """The first node that reads what was changed: those before it repeat golden."""
        graph = self.tail.executed
        if any(name in graph.outputs for name in tensors):
            return cut
        return min(at for name in tensors for at in graph.readers[name] if at >= cut)

    def repeat(self, cut: int, names: Sequence[str]) -> dict[str, Array]:
        """Outputs when golden itself takes the way of changed rows, none dropped."""
        live = self.tail.golden.at(cut)
        self.tail.require_rows(cut)
        changed = {name: live[name] for name in names}
        start, rows = self._start(cut, names), np.arange(self.tail.rows)
        for pack in self.packs or self.tail.packs:
            _, outputs = self.tail.finish(start, changed, rows, pack)
            if not lanes.same_outputs({**self.clean, **outputs}, self.clean):
                break
        return {**self.clean, **outputs}


@dataclass
class Grouped(Tailed):
    """Faults stacked into one run of the convolution that is hit."""

    head: GroupedHead
    position: int
    copy: layout.Copy
    stored: Array

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        if not self.tail.free:
            raise Refused("rows depend on one another")
        return self.repeat(self.position + 1, [self.head.output])

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        live = self.tail.golden.at(self.position)
        clean = self.tail.golden.at(self.position + 1)[self.head.output]
        results = list[dict[str, Array]]()
        for at in range(0, len(patterns), SLOTS):
            faults = [_fault(self.stored, self.copy, each) for each in patterns[at : at + SLOTS]]
            changed = self.head.run(faults, live, clean)
            results += self.finish(self.position + 1, [self.head.output], changed, len(faults))
        return results


def _fault(stored: Array, copy: layout.Copy, edits: Edits) -> Fault:
    touched, values = lanes.new_values(stored, edits)
    return Fault(copy.position[touched], values)


@dataclass
class Single(Tailed):
    """The operator that is hit run whole for each fault, then the rows that changed."""

    head: SingleHead
    copies: tuple[layout.Copy, ...]
    stored: Array

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        return self.repeat(self.head.stop, self.head.outputs)

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        live = self.tail.golden.at(self.head.start)
        clean = self.tail.golden.at(self.head.stop)
        results = list[dict[str, Array]]()
        for each in patterns:
            made = self.head.run(self._operands(each), live)
            results += self.finish(self.head.stop, self.head.outputs, self._changed(made, clean), 1)
        return results

    def _operands(self, edits: Edits) -> dict[str, Array]:
        touched, values = lanes.new_values(self.stored, edits)
        operands = {}
        for copy in self.copies:
            held = onnxfile.stored(self.tail.executed.constants[copy.name]).copy()
            held.reshape(-1)[copy.position[touched]] = values
            operands[copy.name] = held
        return operands

    def _changed(self, made: dict[str, Array], clean: Mapping[str, Array]) -> Changed:
        if not self.tail.free:
            rows = np.arange(self.tail.rows)
            return Changed(np.zeros_like(rows), rows, lambda some: made)
        rows = np.flatnonzero(differing_rows(made, clean))

        def tensors(some: slice) -> dict[str, Array]:
            return {name: each[rows[some]] for name, each in made.items()}

        return Changed(np.zeros_like(rows), rows, tensors)


@dataclass
class Activation(Tailed):
    """Faults in rows of one tensor between operators."""

    site: Site

    @property
    def _clean(self) -> Array:
        clean: Array = self.tail.golden.at(self.site.order)[self.site.name]
        return clean

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        return self.repeat(self.site.order, [self.site.name])

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        if not self.tail.free:
            return [each for pattern in patterns for each in self._aligned(pattern)]
        entry, row, place, joined = rows.hit(patterns)
        self._check(joined)
        changed = Changed(entry, row, lambda some: self._faulty(row, place, joined, some))
        return self.finish(self.site.order, [self.site.name], changed, len(patterns))

    def _faulty(self, rows: Array, place: Array, edits: Edits, some: slice) -> dict[str, Array]:
        mine = (place >= some.start) & (place < some.stop)
        batch, here = self._clean[rows[some]], edits.where(mine)
        element = (place[mine] - some.start) * self.site.size + here.element
        flat = bits.make(here.sites, here.site, element, here.mask, here.op)
        touched, values = lanes.new_values(batch, flat)
        batch.reshape(-1)[touched] = values
        return {self.site.name: batch}

    def _check(self, edits: Edits) -> None:
        if edits.element.max() >= self.site.size or edits.row.min() < 0:
            raise IndexError(f"an edit lies outside a row of {self.site.size} elements")

    def _aligned(self, pattern: Edits) -> list[dict[str, Array]]:
        rows = np.arange(self.tail.rows)
        tensors = {self.site.name: lanes.apply_rows(self._clean, pattern)}
        changed = Changed(np.zeros_like(rows), rows, lambda some: tensors)
        return self.finish(self.site.order, [self.site.name], changed, 1)


@dataclass
class Windowed(Activation):
    """The same where operators follow that run on the places only that a fault can reach."""

    walk: Walk = field(init=False)

    def __post_init__(self) -> None:
        """Plan.

        Raises:
            Refused: rows depend on one another, or nothing that follows runs on windows.
        """
        if not self.tail.free or self.tail.executed.shapes:
            raise Refused("rows depend on one another, or on their number")
        tail, site = self.tail, self.site
        self.walk = tail.windows.walk(tail.golden, site.name, site.order)

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        if not self.walk.repeats():
            raise Refused("windows are not repeated")
        return self.repeat(self.walk.stop, self.walk.changed)

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        entry, row, place, joined = rows.hit(patterns)
        self._check(joined)
        kept, windows = self.walk.run(row, self._first(row, place, joined))
        changed = Changed(
            entry[kept], row[kept], lambda some: self.walk.whole(windows, row[kept], some)
        )
        return self.finish(self.walk.stop, self.walk.changed, changed, len(patterns))

    def _first(self, row: Indices, place: Indices, edits: Edits) -> Windows:
        """Windows of the tensor that is hit, with the edits in them."""
        clean = self.walk.clean
        group, down, across, lane = np.unravel_index(edits.element, clean.shape[1:])
        box = inside(_bounds(place, down, across, len(row)), *clean.shape[2:4])
        array = crop(clean, row, box)
        where = (place, group, down - box.top[place], across - box.left[place], lane)
        element = np.ravel_multi_index(where, array.shape)
        flat = bits.make(edits.sites, edits.site, element, edits.mask, edits.op)
        touched, values = lanes.new_values(array, flat)
        array.reshape(-1)[touched] = values
        return Windows(box, array, np.ones(len(row), np.bool_))


def _bounds(place: Indices, down: Indices, across: Indices, count: int) -> Box:
    """Per entry the places that its edits hit, as windows of one size."""
    far = np.iinfo(np.int64).max
    first, last = np.full((2, count), far), np.full((2, count), -1)
    for axis, each in enumerate((down, across)):
        np.minimum.at(first[axis], place, each)
        np.maximum.at(last[axis], place, each)
    height, width = (last - first).max(axis=1) + 1
    return Box(first[0], first[1], int(height), int(width))
