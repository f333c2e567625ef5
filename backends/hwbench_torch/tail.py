"""From a step to the outputs, for chosen rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hwbench.backend import Array
from hwbench.replay.gate import Refused
from hwbench.replay.golden import Golden
from hwbench.replay.rows import Gain, Indices, pack_sizes, runs
from hwbench_torch import tensors
from hwbench_torch.graph import Graph, Values
from hwbench_torch.session import as_array

# Operators that give the same for different numbers: behind them a fault may have vanished.
_CLIPPING = frozenset(
    ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "max_pool2d", "quantize_per_tensor")
)
_APART = 6  # steps at least between comparisons
_PLANS = 2  # plans kept, each with golden tensors
_ROOMS = 4  # tensors kept to join rows in: fresh memory costs more than filling it
_CACHE = 2**21  # bytes of a tensor that stays in a core's own cache


@dataclass(frozen=True)
class Span:
    """Steps between two comparisons.

    Attributes:
        steps: positions in the graph.
        done: what is read for the last time, by position.
        beside: golden tensors that the steps read.
        after: tensors that may have changed and are needed later.
        stop: number of the comparison that follows; -1 at the end.
        pack: rows at a time.
    """

    steps: tuple[int, ...]
    done: Mapping[int, tuple[str, ...]]
    beside: tuple[str, ...]
    after: tuple[str, ...]
    stop: int
    pack: int


@dataclass(frozen=True)
class Plan:
    """What follows from changes of some tensors.

    Attributes:
        spans: in order.
        golden: golden tensors that are read or compared with.
    """

    spans: tuple[Span, ...]
    golden: Values


@dataclass
class Tail:
    """The rest of the network from any step.

    Attributes:
        graph: what is executed.
        golden: golden tensors at cuts.
        rows: of the batch.
        free: whether rows are independent of one another, so that any may be run together.
        sizes: bytes of a row of each tensor that has one per row of the batch.
        dtypes: of the outputs, as the graph gives them.
    """

    graph: Graph
    golden: Golden
    rows: int
    free: bool
    sizes: Mapping[str, int]
    dtypes: Mapping[str, torch.dtype]
    plans: OrderedDict[tuple[int, tuple[str, ...]], Plan] = field(default_factory=OrderedDict)
    held: OrderedDict[tuple[int, frozenset[str]], Values] = field(default_factory=OrderedDict)
    gains: dict[int, Gain] = field(default_factory=dict)
    rooms: OrderedDict[tuple[int, str], torch.Tensor] = field(default_factory=OrderedDict)

    @cached_property
    def packs(self) -> tuple[int, ...]:
        """Batch sizes that steps are run with, descending; the gate tries them all.

        Kernels of other batch sizes may add up in another order. Of numbers that are rounded to
        fewer bits than they are computed with, that changes one in hundreds, which a golden batch
        need not have.
        """
        if not self.free or self.graph.sizes or self.graph.rounds:
            return (self.rows,)
        return pack_sizes(self.rows)

    def finish(
        self, start: int, changed: Values, rows: Indices, pack: int = 0
    ) -> tuple[Indices, dict[str, Array]]:
        """Run on from a step for some rows.

        Args:
            start: first step that may read what has changed.
            changed: tensors that differ from golden, one row each per entry of ``rows``.
            rows: which row of the batch each entry is.
            pack: run with this batch size and drop nothing; by default the sizes are chosen and
                entries that have become golden again are left out.

        Returns:
            The entries that were run to the end, and the bits of outputs that can differ.
        """
        plan, kept = self.plan(start, tuple(changed)), np.arange(len(rows))
        if not len(rows):
            return kept, {}
        for spans in self._groups(plan, pack):
            changed, span = self._through(spans, plan, changed, rows[kept], pack), spans[-1]
            if span.stop < 0 or pack:
                continue
            here = self._differing(span, plan, changed, rows[kept])
            if len(here) < len(kept):
                kept = kept[here]
                changed = {name: tensors.gather(each, here) for name, each in changed.items()}
            if not len(kept):
                return kept, {}
        return kept, self.outputs(changed)

    def _groups(self, plan: Plan, pack: int) -> list[list[Span]]:
        """Spans that are run as one: what is between them is compared only where that pays."""
        groups: list[list[Span]] = [[]]
        for span in plan.spans:
            groups[-1].append(span)
            if pack or (span.stop >= 0 and self.gains[span.stop].pays):
                groups.append([])
        return [each for each in groups if each]

    def outputs(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """The bits of those outputs that are among some results."""
        pairs = zip(self.graph.outputs, self.graph.artifact.outputs, strict=True)
        return {
            spec.name: tensors.to_array(values[name]).copy()
            for name, spec in pairs
            if name in values
        }

    def widened(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the whole batch as the session gives them.

        How a NaN is widened depends on its place in the tensor: only whole batches are.
        """
        return {
            name: as_array(tensors.from_array(each, self.dtypes[name]))
            for name, each in outputs.items()
        }

    def plan(self, start: int, names: tuple[str, ...]) -> Plan:
        """The steps that follow from changes of some tensors.

        Raises:
            Refused: rows are to be chosen from, and a tensor has none.
        """
        key = (start, names)
        if key not in self.plans:
            self.plans[key] = self._plan(start, names)
            while len(self.plans) > _PLANS:
                self.plans.popitem(last=False)
        self.plans.move_to_end(key)
        return self.plans[key]

    def _plan(self, start: int, names: tuple[str, ...]) -> Plan:
        steps, changed = self._follow(start, names)
        cuts = self._cuts(steps, changed)
        spans, first = list[Span](), 0
        for stop in [*cuts, len(steps)]:
            spans.append(self._span(steps, first, stop, names, changed))
            first = stop
        wanted = {name for span in spans for name in span.beside}
        wanted |= {name for span in spans if span.stop >= 0 for name in span.after}
        golden = self.collect(start, wanted)
        if self.free:
            beside = {name for span in spans for name in span.beside}
            self._require_rows(beside, golden)
        return Plan(tuple(spans), golden)

    def _require_rows(self, names: set[str], golden: Values) -> None:
        for name in sorted(names):
            number = isinstance(golden[name], int)  # a size: then no other batch size is run
            if not number and not tensors.has_rows(golden[name], self.rows):
                raise Refused(f"{name!r} has no row per row of the batch")

    def _follow(self, start: int, names: Sequence[str]) -> tuple[list[int], set[str]]:
        """The steps that changes reach, and everything that they change."""
        steps, changed = list[int](), set(names)
        for position in range(start, len(self.graph.steps)):
            if not self.graph.steps[position].reads.isdisjoint(changed):
                steps.append(position)
                changed.add(self.graph.steps[position].name)
        return steps, changed

    def _cuts(self, steps: Sequence[int], changed: set[str]) -> list[int]:
        """Where one changed tensor is all that goes on, and faults may have vanished."""
        cuts, last = list[int](), -_APART
        for index, position in enumerate(steps[:-1]):
            step = self.graph.steps[position]
            alone = self._later(steps[index + 1 :], changed, position) == {step.name}
            clips = step.op in _CLIPPING and step.name in self.sizes
            if self.free and clips and alone and index - last >= _APART:
                cuts.append(index + 1)
                last = index
        return cuts

    def _later(self, steps: Sequence[int], changed: set[str], position: int) -> set[str]:
        """Changed tensors given up to a step that later ones, or the caller, read."""
        read = set(self.graph.outputs).union(*(self.graph.steps[each].reads for each in steps))
        return {name for name in read & changed if self.graph.position.get(name, -1) <= position}

    def _span(
        self, steps: Sequence[int], first: int, stop: int, names: Sequence[str], changed: set[str]
    ) -> Span:
        graph, some = self.graph, tuple(steps[first:stop])
        read = {name for at in some for name in graph.steps[at].reads if name in graph.position}
        end = steps[stop - 1] if stop else -1
        after = self._later(steps[stop:], changed, end) | (set(names) & set(graph.outputs))
        last = dict[str, int]()
        for at in some:
            last.update(dict.fromkeys(graph.steps[at].reads & changed, at))
        done = dict[int, list[str]]()
        for name, at in last.items():
            if name not in after:
                done.setdefault(at, []).append(name)
        number = steps[stop - 1] if stop < len(steps) else -1
        if number >= 0:
            self.gains.setdefault(number, Gain())
        return Span(
            some,
            {at: tuple(each) for at, each in done.items()},
            tuple(sorted(read - changed)),
            tuple(sorted(after)),
            number,
            self._pack([name for name in (*read, *after) if name in changed]),
        )

    def _pack(self, names: Sequence[str]) -> int:
        """The largest batch size whose tensors stay in the cache."""
        held = max((self.sizes.get(name, 0) for name in names), default=0)
        fitting = [each for each in self.packs if each * held <= _CACHE]
        return fitting[0] if fitting else self.packs[-1]

    def hold(self, start: int, wanted: frozenset[str]) -> Values:
        """As ``collect``; what was asked for last is kept."""
        if (start, wanted) not in self.held:
            self.held[start, wanted] = self.collect(start, wanted)
            while len(self.held) > _PLANS:
                self.held.popitem(last=False)
        self.held.move_to_end((start, wanted))
        return self.held[start, wanted]

    def collect(self, start: int, wanted: Set[str]) -> Values:
        """Golden results of any steps, given what is live before one of them or comes later."""
        live, position = self.golden.at(start), self.graph.position
        found = {name: live[name] for name in wanted if name in live}
        later = wanted - found.keys()

        def keep(name: str, tensor: Any) -> Any:
            if name in later:
                found[name] = tensor
            return tensor

        if later:
            stop = max(position[name] for name in later) + 1
            self.graph.advance(start, stop, dict(live), self.graph.constants, keep)
        return found

    def _through(
        self, spans: Sequence[Span], plan: Plan, changed: Values, rows: Indices, pack: int
    ) -> Values:
        """Changed tensors behind consecutive spans from those before the first."""
        wanted = spans[-1].after
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
        for first, chosen in self._runs(len(rows), spans[0], pack):
            last, full = min(first + len(chosen), len(rows)), first + len(chosen) <= len(rows)
            values = {
                name: tensors.cut(each, first, last) if full else tensors.gather(each, chosen)
                for name, each in changed.items()
            }
            for span in spans:
                values.update(self._beside(span, plan, rows[chosen]))
                self._run(span, values)
            for name in wanted:
                parts[name].append(values[name] if full else values[name][: last - first])
        stop = spans[-1].stop
        return {name: self._joined((stop, name), each) for name, each in parts.items()}

    def _joined(self, place: tuple[int, str], parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Rows of several runs in one tensor, in memory that the next call uses again."""
        if len(parts) == 1 or not all(each.is_contiguous() for each in parts):
            return parts[0] if len(parts) == 1 else torch.cat(list(parts))
        count, shape = sum(len(each) for each in parts), parts[0].shape[1:]
        room = self.rooms.get(place)
        if room is None or len(room) < count:
            room = self.rooms[place] = parts[0].new_empty((count, *shape))
            while len(self.rooms) > _ROOMS:
                self.rooms.popitem(last=False)
        return torch.cat(list(parts), out=room[:count])

    def _runs(self, count: int, span: Span, pack: int) -> Iterator[tuple[int, Indices]]:
        return runs(count, (pack,)) if pack else runs(count, self.packs, span.pack)

    def _beside(self, span: Span, plan: Plan, rows: Indices) -> Values:
        """Golden tensors that a span reads, for some rows."""
        found = {name: plan.golden[name] for name in span.beside}
        if not self.free:
            return found
        return {
            name: tensors.take(each, rows) if tensors.has_rows(each, self.rows) else each
            for name, each in found.items()
        }

    def _run(self, span: Span, values: Values) -> None:
        steps, constants = self.graph.steps, self.graph.constants
        for position in span.steps:
            step = steps[position]
            values[step.name] = step.run(values, constants)
            for name in span.done.get(position, ()):
                del values[name]

    def _differing(self, span: Span, plan: Plan, changed: Values, rows: Indices) -> Indices:
        """Entries that are not golden behind a span."""
        (name,) = span.after
        found = tensors.differing(changed[name], tensors.take(plan.golden[name], rows))
        gain = self.gains[span.stop]
        gain.seen += len(rows)
        gain.dropped += len(rows) - len(found)
        return found
