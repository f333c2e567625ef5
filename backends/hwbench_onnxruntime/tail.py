"""From a cut to the outputs, for chosen rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array
from hwbench.replay import lanes
from hwbench.replay.gate import Refused
from hwbench.replay.golden import Golden
from hwbench.replay.rows import Gain, Indices, pack_sizes, runs
from hwbench_onnxruntime.executed import Executed, Part
from hwbench_onnxruntime.windows import Planner

_PARTS = 3  # consecutive parts that a network is cut into, so that masked rows are dropped early
_CACHE = 2**19  # numbers of a tensor that stay, as accumulators, in a core's own cache
_ROOMS = 4  # tensors kept to run into
_LOADED = 16  # parts kept; each holds its constants


@dataclass
class Tail:
    """The rest of the network from any cut, as consecutive parts.

    Attributes:
        executed: the graph.
        golden: golden tensors at its cuts.
        rows: of the batch.
        free: whether rows are independent of one another, so that any may be run together.
    """

    executed: Executed
    golden: Golden
    rows: int
    free: bool = True
    cuts: tuple[int, ...] = ()
    parts: OrderedDict[tuple[int, int], Part] = field(default_factory=OrderedDict)
    gains: dict[tuple[int, int], Gain] = field(default_factory=dict)
    rooms: OrderedDict[tuple[int, str], Array] = field(default_factory=OrderedDict)
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = field(default_factory=dict)

    windows: Planner = field(init=False)

    def __post_init__(self) -> None:
        self.windows = Planner(self.executed)
        self.cuts = _cuts(self.executed)
        for cut in self.cuts:
            self.golden.at(cut)
            self.free = self.free and not self._without_rows(cut)

    def _without_rows(self, cut: int) -> str:
        """A tensor at a cut whose first dimension is not the batch; empty if there is none."""
        live = self.golden.at(cut)
        return next(
            (n for n in live if n in self.executed.data and not _has(live[n], self.rows)), ""
        )

    def require_rows(self, cut: int) -> None:
        """Refuse a cut whose rows cannot be told apart, where rows are to be chosen from.

        Raises:
            Refused: a tensor there has another first dimension than the batch.
        """
        name = self._without_rows(cut) if self.free else ""
        if name:
            raise Refused(f"{name!r} at the cut has no row per row of the batch")

    @cached_property
    def packs(self) -> tuple[int, ...]:
        """Batch sizes that parts are run with, descending; the gate tries them all.

        Tensors that hold the batch size fix it. So does rounding: kernels of other batch sizes may
        add up in another order, and golden outputs of few bits need not show it.
        """
        if not self.free or self.executed.shapes or self.executed.rounds:
            return (self.rows,)
        return pack_sizes(self.rows)

    def _packs(self, changed: Mapping[str, Array]) -> tuple[int, ...]:
        """Those of the batch sizes whose tensors stay in the cache, or the smallest one."""
        held = max((each[0].size for name, each in changed.items() if self.by_row(name)), default=0)
        fitting = tuple(each for each in self.packs if each * held <= _CACHE)
        return fitting or self.packs[-1:]

    def finish(
        self, cut: int, changed: dict[str, Array], rows: Indices, pack: int | None = None
    ) -> tuple[Indices, dict[str, Array]]:
        """Run on from ``cut`` for some rows.

        Args:
            cut: first node to run.
            changed: tensors that differ from golden, one row each per entry of ``rows``.
            rows: which row of the batch each entry is.
            pack: run with this batch size and drop nothing; by default the sizes are chosen and
                entries that have become golden again are left out.

        Returns:
            The entries that were run to the end, and their outputs.
        """
        kept, live = np.arange(len(rows)), self.golden.at(cut)
        for start, stop in self._spans(cut):
            changed = self._step(start, stop, changed, rows[kept], live, pack)
            if pack is None and self.free and stop in self.golden.kept:
                here = self._differing(stop, changed, rows[kept])
                self._gain(cut, stop).add(here)
                if not here.all():
                    kept = kept[here]
                    changed = {
                        name: each[here] if self.by_row(name) else each
                        for name, each in changed.items()
                    }
            if not len(kept):
                break
        whole = {name: changed[name] for name in changed if name in self.executed.outputs}
        return kept, whole

    def _spans(self, cut: int) -> Iterator[tuple[int, int]]:
        stops = [each for each in self.cuts if each > cut and self._gain(cut, each).pays]
        stops.append(len(self.executed.nodes))
        yield from zip([cut, *stops[:-1]], stops, strict=True)

    def _gain(self, cut: int, stop: int) -> Gain:
        return self.gains.setdefault((cut, stop), Gain())

    def _step(
        self,
        start: int,
        stop: int,
        changed: dict[str, Array],
        rows: Indices,
        live: Mapping[str, Array],
        pack: int | None,
    ) -> dict[str, Array]:
        """One part for all entries: what is changed before it to what is changed after it."""
        wanted = self.executed.live(stop)
        made = [name for name in wanted if self.executed.producers[name] >= start]
        kept = {name: each for name, each in changed.items() if name in wanted}
        if not made:
            return kept
        part = self._part(start, stop, made)
        every = list(runs(len(rows), (pack,) if pack else self._packs(changed)))
        rooms = self._rooms(stop, made, every[-1][0] + len(every[-1][1]))
        results: dict[str, Array] = {}
        for first, chosen in every:
            feeds = self._feeds(part, changed, rows, chosen, live)
            if rooms:
                some = slice(first, first + len(chosen))
                part.run_into(feeds, {name: each[some] for name, each in rooms.items()})
                continue
            for name, array in part.run(feeds).items():
                self._collect(results, name, array, first, len(rows))
        return {**kept, **results, **{name: each[: len(rows)] for name, each in rooms.items()}}

    def _feeds(
        self,
        part: Part,
        changed: Mapping[str, Array],
        rows: Indices,
        chosen: Indices,
        live: Mapping[str, Array],
    ) -> dict[str, Array]:
        """Inputs of a part for one pack; the last pack is filled up with its last entry."""
        full = chosen[-1] - chosen[0] + 1 == len(chosen)
        feeds = {}
        for name in part.inputs:
            if not self.by_row(name):
                feeds[name] = changed[name] if name in changed else live[name]
            elif name in changed:
                source = changed[name]
                feeds[name] = source[chosen[0] : chosen[-1] + 1] if full else source[chosen]
            else:
                feeds[name] = _rows(live[name], rows[chosen])
        return feeds

    def by_row(self, name: str) -> bool:
        """Whether a tensor has one row per row of the batch, and they may be chosen from."""
        return self.free and name in self.executed.data

    def _collect(
        self, results: dict[str, Array], name: str, array: Array, first: int, count: int
    ) -> None:
        if not self.by_row(name):
            results[name] = array
            return
        self.shapes[name] = (array.shape[1:], array.dtype)
        if name not in results:
            results[name] = np.empty((count, *array.shape[1:]), array.dtype)
        results[name][first : first + len(array)] = array[: count - first]

    def _rooms(self, stop: int, names: Sequence[str], count: int) -> dict[str, Array]:
        """Memory for rows at a cut, by name; none before it is known what the rows are like.

        The next call uses it again, for fresh memory costs more than filling it; the network's
        outputs keep their own.
        """
        if not all(name in self.shapes for name in names):
            return {}
        found = {}
        for name in names:
            held, (shape, dtype) = self.rooms.get((stop, name)), self.shapes[name]
            if held is None or len(held) < count:
                held = np.empty((count, *shape), dtype)
            if stop < len(self.executed.nodes):
                self.rooms[stop, name] = held
            found[name] = held[:count]
        while len(self.rooms) > max(_ROOMS, len(names)):
            self.rooms.popitem(last=False)
        return found

    def _part(self, start: int, stop: int, outputs: list[str]) -> Part:
        key = (start, stop)
        if key not in self.parts:
            self.parts[key] = self.executed.part(start, stop, outputs)
            while len(self.parts) > _LOADED:
                self.parts.popitem(last=False)
        self.parts.move_to_end(key)
        return self.parts[key]

    def _differing(
        self, cut: int, changed: Mapping[str, Array], rows: Indices
    ) -> npt.NDArray[np.bool_]:
        """Entries that are not golden at a cut."""
        golden, result = self.golden.kept[cut], np.zeros(len(rows), dtype=np.bool_)
        for name, each in changed.items():
            if self.by_row(name):
                result |= lanes.differing(each, _rows(golden[name], rows))
        return result


def _has(batch: Array, rows: int) -> bool:
    return batch.ndim > 0 and len(batch) == rows


def _rows(batch: Array, rows: Indices) -> Array:
    """Rows of a batch, without copying where they follow one another."""
    if rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return batch[rows[0] : rows[-1] + 1]
    return batch[rows]


def _cuts(executed: Executed) -> tuple[int, ...]:
    """Cuts through as few tensors as possible, spread over the network."""
    count = len(executed.nodes)
    width = {cut: len(set(executed.live(cut)) & executed.data) for cut in range(1, count)}
    least = min(width.values(), default=0)
    apart, result = max(2, count // _PARTS), list[int]()
    for cut, each in width.items():
        if each == least and cut - (result[-1] if result else 0) >= apart:
            result.append(cut)
    return tuple(result)
