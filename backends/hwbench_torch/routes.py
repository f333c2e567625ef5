"""The ways that faults of a site are run; which one is taken, the gate decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from hwbench import edits as bits
from hwbench.backend import Array, Site
from hwbench.edits import Edits
from hwbench.replay import lanes, rows
from hwbench.replay.gate import Refused
from hwbench.replay.rows import Changed, Indices
from hwbench_torch import tensors
from hwbench_torch.build import as_input
from hwbench_torch.graph import Graph, Values
from hwbench_torch.heads import SLOTS, Fault, GroupedHead, Planes, Slots, changed_by
from hwbench_torch.planes import Chain, chain
from hwbench_torch.tail import Tail

__all__ = ["SLOTS", "Fed", "Grouped", "Planed", "Rowwise", "Single", "Stored"]

_WINDOW = 8 * 2**20  # bytes of changed rows at a time
_PLANES = 2**20  # bytes of planes at a time


@dataclass
class Tailed:
    """A route that ends in the shared tail.

    Attributes:
        tail: of the network.
        clean: the bits of golden.
        steady: whether NaN and infinities have the same bits at any batch size.
    """

    tail: Tail
    clean: dict[str, Array]
    steady: bool = field(default=False, init=False)

    def finish(
        self, start: int, name: str, changed: Changed, patterns: int
    ) -> list[dict[str, Array]]:
        """Outputs per pattern from what a head has changed of one tensor."""
        held = self.tail.sizes[name]
        window = max(1, _WINDOW // max(1, held * self.tail.rows)) * self.tail.rows
        results = rows.finish(
            self.clean,
            changed,
            patterns,
            window if self.tail.free else self.tail.rows,
            lambda made, which: self.tail.finish(start, made, which),
        )
        return [self.tail.widened(each) for each in results]

    def exact(self, pattern: Edits) -> dict[str, Array]:
        """Outputs of one pattern, by the deployed batch size in every operator."""
        raise NotImplementedError

    def settled(
        self, results: list[dict[str, Array]], patterns: Sequence[Edits]
    ) -> list[dict[str, Array]]:
        """Results, run once more where they hold NaN and their bits depend on the batch size."""
        if self.steady:
            return results
        return [
            self.exact(pattern) if any(_has_nan(each) for each in made.values()) else made
            for made, pattern in zip(results, patterns, strict=True)
        ]

    def is_steady(self, start: int, name: str, golden: torch.Tensor) -> bool:
        """Whether NaN and infinities come out with the same bits at any batch size and place.

        Which of two NaN an addition hands on is up to the kernel, and kernels differ by shape.
        """
        odd, every = special(golden), np.arange(self.tail.rows)
        _, wanted = self.tail.finish(start, {name: odd}, every, self.tail.rows)
        order = np.roll(every, 1)
        turned = {name: tensors.gather(odd, order)}
        for pack in self.tail.packs:
            _, made = self.tail.finish(start, turned, order, pack)
            if not lanes.same_outputs(made, {n: each[order] for n, each in wanted.items()}):
                return False
        return True

    def repeat(self, start: int, name: str, golden: torch.Tensor) -> dict[str, Array]:
        """Outputs when golden itself takes the way of changed rows, none dropped."""
        every = np.arange(self.tail.rows)
        for pack in self.tail.packs:
            _, outputs = self.tail.finish(start, {name: golden}, every, pack)
            if not lanes.same_outputs({**self.clean, **outputs}, self.clean):
                break
        return self.tail.widened({**self.clean, **outputs})


def _has_nan(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def special(golden: torch.Tensor) -> torch.Tensor:
    """A copy with NaN and infinities in it: alone, and many together; unlike in each row."""
    odd = golden.clone()
    if not odd.is_floating_point() or not odd[0].numel():
        return odd
    nan = tensors.from_array(np.array([-1], f"i{odd.element_size()}"), odd.dtype)[0]
    rng = np.random.default_rng(len(odd))
    for row, each in enumerate(odd):
        flat = each.reshape(-1).clone()
        place = int(rng.integers(len(flat)))
        flat[place] = nan if row % 2 else float("inf")
        if row % 4 > 1:
            flat[int(rng.integers(len(flat)))] = -float("inf")
            flat[place // 2 : place // 2 + len(flat) // 8] = float("inf")
        odd[row] = flat.view(each.shape)
    return odd


@dataclass
class Stored:
    """A stored tensor and what depends on it.

    Attributes:
        tail: of the network.
        clean: golden.
        array: the tensor as stored.
        site: its name.
    """

    tail: Tail
    clean: dict[str, Array]
    array: Array
    site: str

    @property
    def graph(self) -> Graph:
        """What is executed."""
        return self.tail.graph

    @cached_property
    def holders(self) -> list[str]:
        """The graph's own names of the tensor."""
        return self.graph.holders.get(self.site, [])

    @cached_property
    def operands(self) -> list[str]:
        """Constants that the steps read and that depend on it."""
        return self.graph.reached(self.holders)

    @cached_property
    def readers(self) -> list[int]:
        """Positions of the steps that read those."""
        found = {at for name in self.operands for at in self.graph.readers[name]}
        return sorted(found)

    def under(self, edits: Edits) -> Values:
        """Constants that differ under edits."""
        touched, values = lanes.new_values(self.array, edits)
        held = {}
        for name in self.holders:
            tensor = self.graph.constants[name].clone()
            self._write(tensor.reshape(-1), touched, values)
            held[name] = tensor
        return self.graph.refixed(held)

    def fault(self, edits: Edits) -> Fault:
        """What edits make of the filters of the one operand."""
        operand = self.operands[0]
        golden = self.graph.constants[operand]
        if [operand] != self.holders:
            made = self.under(edits)[operand]
            channels = tensors.differing(made, golden)
            return Fault(channels, made.index_select(0, torch.from_numpy(channels)))
        touched, values = lanes.new_values(self.array, edits)
        size = self.array.size // len(golden)
        channels, place = np.unique(touched // size, return_inverse=True)
        filters = golden.index_select(0, torch.from_numpy(channels))
        self._write(filters.view(-1), place * size + touched % size, values)
        return Fault(channels, filters)

    def _write(self, flat: torch.Tensor, touched: Indices, values: Array) -> None:
        flat[torch.from_numpy(touched)] = tensors.from_array(values, flat.dtype).to(flat.device)


class Grouped(Tailed):
    """Faults stacked into one run of the operator that is hit, then its channels alone."""

    def __init__(self, stored: Stored, width: int, shapes: Mapping[str, torch.Size]) -> None:
        """Prepare; ``width`` filters in one run, 0 for as many as the operator has.

        Raises:
            Refused: the tensor has no filters, or rows depend on one another.
        """
        super().__init__(stored.tail, stored.clean)
        if not self.tail.free:
            raise Refused("rows depend on one another")
        if len(stored.operands) != 1 or len(stored.readers) != 1:
            raise Refused("several operators read it")
        (position,), (operand,) = stored.readers, stored.operands
        self.stored, graph = stored, stored.graph
        self.head = GroupedHead(graph, position, operand, width)
        self.chain = chain(graph, self.head.step.name, self.head.axis, shapes)
        self.width = self.head.width

    def planes(self) -> Planes:
        """The head on golden tensors."""
        wanted = frozenset((self.head.input, self.chain.end, *self.chain.beside))
        at = self.tail.graph.position[self.head.step.name]
        golden = self.tail.hold(at, wanted)
        return Planes(self.head, self.chain, golden, self.tail.packs)

    @property
    def start(self) -> int:
        """The step behind the chain."""
        return self.tail.graph.position[self.chain.end] + 1

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        planes = self.planes()
        if not tensors.has_rows(planes.end, self.tail.rows) or not planes.golden_repeats():
            raise Refused("golden channels are not repeated")
        self.steady = self._odd_filters(planes) and self.is_steady(
            self.start, self.chain.end, planes.end
        )
        return self.repeat(self.start, self.chain.end, planes.end)

    def _odd_filters(self, planes: Planes) -> bool:
        """Whether filters with NaN and infinities give the bits that the operator gives whole."""
        odd = special(planes.head.graph.constants[self.stored.operands[0]])
        channels = np.arange(self.head.channels)
        made, _ = planes.run(Slots(channels, channels, odd))
        values = dict(self.tail.golden.at(self.stored.readers[0]))
        values.update(planes.golden)
        wanted = self.head.step.run({**values, self.stored.operands[0]: odd}, self._constants)
        return tensors.same(made, self.chain.whole(wanted, values))

    @property
    def _constants(self) -> Values:
        return self.tail.graph.constants

    def exact(self, pattern: Edits) -> dict[str, Array]:
        """See ``Tailed.exact``."""
        return to_the_end(self.tail, self.clean, self.stored, self.stored.under(pattern))

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        planes, results = self.planes(), list[dict[str, Array]]()
        for at in range(0, len(patterns), self.width):
            faults = [self.stored.fault(each) for each in patterns[at : at + self.width]]
            changed = changed_by(faults, planes)
            results += self.finish(self.start, self.chain.end, changed, len(faults))
        return self.settled(results, patterns)


class Single(Tailed):
    """The operator that is hit run whole for each fault, then the rows that changed."""

    def __init__(self, stored: Stored) -> None:
        """Prepare.

        Raises:
            Refused: nothing reads the tensor.
        """
        super().__init__(stored.tail, stored.clean)
        if not stored.readers:
            raise Refused("no operator reads it")
        self.stored, self.first = stored, stored.readers[0]
        name = self.tail.graph.steps[self.first].name
        self.rowwise = self.tail.free and len(stored.readers) == 1 and name in self.tail.sizes

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        if not self.rowwise:
            self.steady = True
            return self._to_the_end({})
        step = self.tail.graph.steps[self.first]
        clean = self._clean(self.first + 1, step.name)
        self.steady = self.is_steady(self.first + 1, step.name, clean)
        return self.repeat(self.first + 1, step.name, clean)

    def exact(self, pattern: Edits) -> dict[str, Array]:
        """See ``Tailed.exact``."""
        return self._to_the_end(self.stored.under(pattern))

    def _clean(self, cut: int, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self.tail.hold(cut, frozenset((name,)))[name]
        return tensor

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        results = list[dict[str, Array]]()
        for each in patterns:
            replaced = self.stored.under(each)
            results += self._rows(replaced) if self.rowwise else [self._to_the_end(replaced)]
        return self.settled(results, patterns)

    def _rows(self, replaced: Values) -> list[dict[str, Array]]:
        step, live = self.tail.graph.steps[self.first], self.tail.golden.at(self.first)
        clean = self._clean(self.first + 1, step.name)
        made = step.run({**live, **replaced}, self.tail.graph.constants)
        which = tensors.differing(made, clean)
        changed = Changed(
            np.zeros_like(which), which, lambda some: {step.name: tensors.gather(made, which[some])}
        )
        return self.finish(self.first + 1, step.name, changed, 1)

    def _to_the_end(self, replaced: Values) -> dict[str, Array]:
        return to_the_end(self.tail, self.clean, self.stored, replaced)


def to_the_end(
    tail: Tail, clean: dict[str, Array], stored: Stored, replaced: Values
) -> dict[str, Array]:
    """Outputs of the whole batch from the first step that reads a stored tensor."""
    graph, first = tail.graph, stored.readers[0]
    values = dict(tail.golden.at(first))
    graph.advance(first, len(graph.steps), values, {**graph.constants, **replaced})
    return tail.widened({**clean, **tail.outputs(values)})


@dataclass
class Rowwise(Tailed):
    """Faults in rows of one tensor between operators."""

    site: Site

    @property
    def name(self) -> str:
        """The tensor that is hit."""
        return self.site.name

    def clean_rows(self) -> torch.Tensor:
        """The tensor without a fault."""
        tensor: torch.Tensor = self.tail.hold(self.site.order, frozenset((self.name,)))[self.name]
        return tensor

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        clean = self.clean_rows()
        self.steady = not self.tail.free or self.is_steady(self.site.order, self.name, clean)
        return self.repeat(self.site.order, self.name, clean)

    def exact(self, pattern: Edits) -> dict[str, Array]:
        """See ``Tailed.exact``."""
        self._check(pattern)
        graph, every = self.tail.graph, slice(0, self.tail.rows)
        rows_of = np.arange(self.tail.rows)
        start = graph.position[self.name] + 1
        values = {
            **self.tail.golden.at(start),
            **self._faulty(rows_of, pattern.row, pattern, every),
        }
        graph.advance(start, len(graph.steps), values, graph.constants)
        return self.tail.widened({**self.clean, **self.tail.outputs(values)})

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        if not self.tail.free:
            return [each for pattern in patterns for each in self._aligned(pattern)]
        entry, row, place, joined = rows.hit(patterns)
        self._check(joined)
        changed = Changed(entry, row, lambda some: self._faulty(row, place, joined, some))
        results = self.finish(self.site.order, self.name, changed, len(patterns))
        return self.settled(results, patterns)

    def _check(self, edits: Edits) -> None:
        outside = edits.element.min() < 0 or edits.element.max() >= self.site.size
        if outside or edits.row.min() < 0 or edits.row.max() >= self.tail.rows:
            raise IndexError(f"an edit lies outside {self.tail.rows} rows of {self.site.size}")

    def _faulty(self, row: Indices, place: Indices, edits: Edits, some: slice) -> Values:
        mine = (place >= some.start) & (place < some.stop)
        batch, here = self._take(row[some]), edits.where(mine)
        element = (place[mine] - some.start) * self.site.size + here.element
        return {self.name: written(batch, element, here)}

    def _take(self, which: Indices) -> torch.Tensor:
        return tensors.gather(self.clean_rows(), which)

    def _aligned(self, pattern: Edits) -> list[dict[str, Array]]:
        every, place = np.arange(self.tail.rows), pattern.row
        self._check(pattern)
        made = self._faulty(every, place, pattern, slice(0, self.tail.rows))
        changed = Changed(np.zeros_like(every), every, lambda some: made)
        return self.finish(self.site.order, self.name, changed, 1)


def written(batch: torch.Tensor, element: Indices, edits: Edits) -> torch.Tensor:
    """A tensor, changed in place, with edits at flat elements in the order of its shape."""
    flat = bits.make(edits.sites, edits.site, element, edits.mask, edits.op)
    touched, values = lanes.new_values(tensors.to_array(batch), flat)
    index = np.unravel_index(touched, tuple(batch.shape))
    batch[tuple(torch.from_numpy(each) for each in index)] = tensors.from_array(
        values, batch.dtype
    ).to(batch.device)
    return batch


@dataclass
class Fed(Rowwise):
    """Faults in rows of an input, in the form in which the caller gives it."""

    input: str
    array: Array
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """The graph's name of the input."""
        return self.input

    def _faulty(self, row: Indices, place: Indices, edits: Edits, some: slice) -> Values:
        mine = (place >= some.start) & (place < some.stop)
        batch, here = self.array[row[some]], edits.where(mine)
        element = (place[mine] - some.start) * self.site.size + here.element
        flat = bits.make(here.sites, here.site, element, here.mask, here.op)
        return {self.name: as_input(bits.apply(batch, flat), self.dtype).to(self._device)}

    @property
    def _device(self) -> str:
        return self.tail.graph.artifact.environment.device


@dataclass
class Planed(Rowwise):
    """The same where operators follow that treat channels alone: they run on the hit ones only."""

    shapes: Mapping[str, torch.Size]
    chain: Chain = field(init=False)

    def __post_init__(self) -> None:
        """Prepare.

        Raises:
            Refused: what follows mixes channels, or rows depend on one another.
        """
        if not self.tail.free:
            raise Refused("rows depend on one another")
        if len(self.site.shape) < 1:
            raise Refused("it has no channels")
        self.chain = chain(self.tail.graph, self.name, 1, self.shapes)
        if not self.chain.steps or self.chain.end not in self.tail.sizes:
            raise Refused("what follows mixes channels")

    @property
    def start(self) -> int:
        """The step behind the chain."""
        return self.tail.graph.position[self.chain.end] + 1

    @property
    def _plane(self) -> int:
        return self.site.size // self.site.shape[0]

    def _golden(self) -> Values:
        wanted = frozenset((self.name, self.chain.end, *self.chain.beside))
        return self.tail.hold(self.site.order, wanted)

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        golden, channels = self._golden(), self.site.shape[0]
        row, channel = np.divmod(np.arange(self.tail.rows * channels), channels)
        for some in self._chunks(len(row)):
            _, unequal = self._through(golden, row[some], channel[some], lambda planes: planes)
            if unequal.any():
                raise Refused("golden channels are not repeated")
        end = golden[self.chain.end]
        self.steady = self._odd_planes(golden) and self.is_steady(self.start, self.chain.end, end)
        return self.repeat(self.start, self.chain.end, end)

    def _odd_planes(self, golden: Values) -> bool:
        """Whether NaN and infinities leave the chain with the bits of the whole tensor."""
        odd, channels = special(golden[self.name]), self.site.shape[0]
        wanted = self.chain.whole(odd, golden)
        row, channel = np.divmod(np.arange(self.tail.rows * channels), channels)
        for some in self._chunks(len(row)):
            at, of = torch.from_numpy(row[some]), torch.from_numpy(channel[some])

            def hit(
                clean: torch.Tensor, at: torch.Tensor = at, of: torch.Tensor = of
            ) -> torch.Tensor:
                return odd[at, of]

            made, _ = self._through(golden, row[some], channel[some], hit)
            if not tensors.same(made[0], wanted[at, of]):
                return False
        return True

    def _chunks(self, count: int) -> list[slice]:
        held = self._plane * self.site.bits // 8
        size = max(1, _PLANES // max(1, held))
        return [slice(at, at + size) for at in range(0, count, size)]

    def _through(
        self,
        golden: Values,
        row: Indices,
        channel: Indices,
        hit: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, Array]:
        """Planes at the end of the chain, shape (1, n, ...), and which are not golden."""
        at, channels = torch.from_numpy(row), torch.from_numpy(channel)

        def beside(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[at, channels].unsqueeze(0)

        planes = hit(golden[self.name][at, channels]).unsqueeze(0)
        kept = {name: golden[name] for name in self.chain.beside}
        made = self.chain.run(planes, channels, beside, kept)
        clean = beside(golden[self.chain.end])
        differs = tensors.as_bits(made) != tensors.as_bits(clean)
        return made, differs.reshape(len(row), -1).any(1).numpy()

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        lane = np.concatenate([np.full(len(each), i) for i, each in enumerate(patterns)])
        joined = bits.concatenate(list(patterns))
        self._check(joined)
        keys = np.stack([lane, joined.row, joined.element // self._plane])
        slots, place = np.unique(keys, axis=1, return_inverse=True)
        made = self._faulty_planes(slots, place.reshape(-1), joined)
        if made is None:
            return [self.tail.widened(self.clean) for _ in patterns]
        planes, kept = made
        changed = self._patched(slots[:, kept], planes)
        results = self.finish(self.start, self.chain.end, changed, len(patterns))
        return self.settled(results, patterns)

    def _faulty_planes(
        self, slots: Indices, place: Indices, edits: Edits
    ) -> tuple[torch.Tensor, Indices] | None:
        """Planes that are not golden, shape (n, ...), and which slots they are."""
        golden, planes, kept = self._golden(), list[torch.Tensor](), list[Indices]()
        for some in self._chunks(slots.shape[1]):
            mine = (place >= some.start) & (place < some.stop)
            here, within = edits.where(mine), edits.element[mine] % self._plane
            element = (place[mine] - some.start) * self._plane + within

            def hit(
                clean: torch.Tensor, element: Indices = element, here: Edits = here
            ) -> torch.Tensor:
                return written(clean, element, here)

            made, unequal = self._through(golden, slots[1, some], slots[2, some], hit)
            found = np.flatnonzero(unequal)
            planes.append(made[0, torch.from_numpy(found)])
            kept.append(found + some.start)
        joined = np.concatenate(kept)
        return (torch.cat(planes), joined) if len(joined) else None

    def _patched(self, slots: Indices, planes: torch.Tensor) -> Changed:
        end = self._golden()[self.chain.end]
        pairs, entry = np.unique(slots[:2], axis=1, return_inverse=True)
        entry = entry.reshape(-1)  # ascending, as the slots are

        def make(some: slice) -> Values:
            result = tensors.gather(end, pairs[1, some])
            mine = slice(*np.searchsorted(entry, [some.start, some.start + len(result)]))
            at = torch.from_numpy(entry[mine] - some.start)
            result[at, torch.from_numpy(np.ascontiguousarray(slots[2, mine]))] = planes[mine]
            return {self.chain.end: result}

        return Changed(pairs[0], pairs[1], make)
