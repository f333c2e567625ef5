"""The operator that a fault hits, and what follows it channel by channel, for many faults at once.

A fault in a filter changes one output channel. The grouped head is the same operator with the
faulted filters of many faults as its output channels; what follows is run for those channels alone,
and only where rows differ from golden then is the whole tensor put together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from hwbench.backend import Array
from hwbench.replay.gate import Refused
from hwbench.replay.rows import Changed, Indices, runs
from hwbench_torch import tensors
from hwbench_torch.graph import Graph, Ref, Step, Values
from hwbench_torch.planes import PER_CHANNEL, Chain

SLOTS = 16  # faulted filters in one run of a grouped head
_CACHE = 2**20  # bytes of a tensor that stays in a core's own cache beside others
_MIXING = ("conv1d", "conv2d", "conv3d", "linear")  # every output channel has a filter


@dataclass(frozen=True)
class Fault:
    """What a pattern makes of an operand: output channels, shape (k,), and their filters."""

    channels: Indices
    filters: torch.Tensor


@dataclass(frozen=True)
class Slots:
    """Faulted filters of several patterns: pattern and channel of each, and its numbers."""

    pattern: Indices
    channel: Indices
    filters: torch.Tensor

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> Slots:
        """The filters of all patterns, one behind the other."""
        counts = [len(each.channels) for each in faults]
        return cls(
            np.repeat(np.arange(len(faults)), counts),
            np.concatenate([each.channels for each in faults]),
            torch.cat([each.filters for each in faults]),
        )


class GroupedHead:
    """One operator with the faulted filters of many faults."""

    def __init__(self, graph: Graph, position: int, constant: str, width: int) -> None:
        """Prepare.

        Args:
            graph: what is executed.
            position: of the operator.
            constant: the operand that is hit.
            width: filters in one run; 0 for as many as the operator has.

        Raises:
            Refused: the operator has no output channels that can be told apart.
        """
        self.graph, self.step, self._constant = graph, graph.steps[position], constant
        self.alone = _treats_alone(self.step, graph)
        self.operands = _operands(self.step, graph)
        if constant not in self.operands.values():
            raise Refused(f"{constant} is no operand of {self.step.op} with output channels")
        self.channels = len(graph.constants[constant])
        self.width = width or self.channels
        (self.hit,) = [name for name, each in self.operands.items() if each == constant]
        self.input = self.step.args[0].name

    @property
    def axis(self) -> int:
        """Axis of the output's channels."""
        return -1 if self.step.op == "linear" else 1

    def run(self, x: torch.Tensor, channels: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
        """Output channels from given filters.

        Args:
            x: golden input, any number of rows.
            channels: which channel each output is, shape (width,).
            filters: the hit operand of each of the first ones; golden's for the rest.
        """
        changed: Values = {
            name: self.graph.constants[each].index_select(0, channels)
            for name, each in self.operands.items()
        }
        changed[self.hit][: len(filters)] = filters
        if self.alone:
            x = x.index_select(1, channels)
            if self.step.op in _MIXING:
                changed["groups"] = len(channels)
        made: torch.Tensor = self.step.called({"input": x, **changed}, self.graph.constants)
        return made


def _operands(step: Step, graph: Graph) -> dict[str, str]:
    """Constants with one entry per output channel, by the operator's names for them."""
    if step.op not in (*_MIXING, "batch_norm"):
        raise Refused(f"{step.op} has no output channels that are known here")
    found = {}
    for name in PER_CHANNEL:
        given = step.argument(name)
        if isinstance(given, Ref):
            if given.name not in graph.constants:
                raise Refused("its operands are computed")
            found[name] = given.name
    if not isinstance(step.args[0], Ref) or step.args[0].name not in graph.position:
        raise Refused("its input is stored")
    if len(set(found.values())) < len(found):
        raise Refused("it reads the tensor twice")
    return found


def _treats_alone(step: Step, graph: Graph) -> bool:
    """Whether each output channel is made of the input channel of the same number."""
    if step.op == "batch_norm":
        if step.argument("training", True):
            raise Refused("it normalises by the batch")
        return True
    groups = step.argument("groups", 1)
    if groups == 1:
        return False
    weight = step.argument("weight")
    held = graph.constants.get(weight.name) if isinstance(weight, Ref) else None
    if held is None or groups != held.shape[0] or held.shape[1] != 1:
        raise Refused("it is in groups of several channels")
    return True


@dataclass(frozen=True)
class Planes:
    """A grouped head and the chain behind it, on golden tensors.

    Attributes:
        head: the operator that is hit.
        chain: what follows it channel by channel.
        golden: golden tensors by name: the head's input, what the chain reads, its end.
        packs: batch sizes that may be run, descending.
    """

    head: GroupedHead
    chain: Chain
    golden: Values
    packs: tuple[int, ...]

    @property
    def _axis(self) -> int:
        return self.head.axis

    @property
    def end(self) -> torch.Tensor:
        """Golden tensor at the end of the chain."""
        tensor: torch.Tensor = self.golden[self.chain.end]
        return tensor

    @cached_property
    def _pack(self) -> int:
        x = self.golden[self.head.input]
        if self.head.step.op == "linear":
            return len(x)
        held = max(x.nbytes // len(x), x[:1].numel() * x.element_size())
        fitting = [each for each in self.packs if each * held <= _CACHE]
        return fitting[0] if fitting else self.packs[-1]

    def run(self, slots: Slots) -> tuple[torch.Tensor, npt.NDArray[np.bool_]]:
        """Planes of the end for every slot, and where they are not golden.

        Returns:
            Planes with slots along the channels' axis, and shape (slots, rows) of bools.
        """
        parts, unequal = list[torch.Tensor](), list[torch.Tensor]()
        for first in range(0, len(slots.channel), self.head.width):
            some = slice(first, first + self.head.width)
            made = self._some(slots.channel[some], slots.filters[some])
            parts.append(made)
            clean = self.end.index_select(self._axis, torch.from_numpy(slots.channel[some]))
            differs = tensors.as_bits(made) != tensors.as_bits(clean)
            differs = differs.movedim(self._axis, 1)
            unequal.append(differs.reshape(*differs.shape[:2], -1).any(2))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, self._axis)
        return joined, torch.cat(unequal, 1).numpy().T

    def _some(self, channel: Indices, filters: torch.Tensor) -> torch.Tensor:
        """Planes of up to as many slots as the head takes at once."""
        channels = torch.from_numpy(np.resize(channel, self.head.width))
        x = self.golden[self.head.input]
        parts = list[torch.Tensor]()
        for first, chosen in runs(len(x), self.packs, self._pack):
            last = min(first + len(chosen), len(x))
            made = self._rows(x, chosen, channels, filters)
            parts.append(made[: last - first].narrow(self._axis, 0, len(channel)))
        return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts)

    def _rows(
        self, x: torch.Tensor, rows: Indices, channels: torch.Tensor, filters: torch.Tensor
    ) -> torch.Tensor:
        made = self.head.run(tensors.take(x, rows), channels, filters)

        def beside(golden: torch.Tensor) -> torch.Tensor:
            return tensors.take(golden, rows).index_select(self._axis, channels)

        golden = {name: self.golden[name] for name in self.chain.beside}
        return self.chain.run(made, channels, beside, golden)

    def golden_repeats(self) -> bool:
        """Whether golden filters give golden planes, for every channel."""
        channel = np.arange(self.head.channels)
        filters = self.head.graph.constants[self.head.operands[self.head.hit]]
        _, unequal = self.run(Slots(channel, channel, filters))
        return not unequal.any()


def patched(
    slots: Slots,
    planes: torch.Tensor,
    unequal: npt.NDArray[np.bool_],
    end: torch.Tensor,
    axis: int,
    patterns: int,
) -> tuple[Indices, Indices, Callable[[slice], torch.Tensor]]:
    """Rows that differ, and golden tensors with the changed planes in them.

    Args:
        slots: what the planes are.
        planes: with slots along ``axis``.
        unequal: per slot and row whether the plane is not golden, shape (slots, rows).
        end: golden.
        axis: of the channels.
        patterns: how many there are.

    Returns:
        Pattern and row of each entry, and what makes the tensor of a slice of them.
    """
    hit = np.zeros((patterns, len(end)), dtype=np.bool_)
    np.logical_or.at(hit, slots.pattern, unequal)
    entry, rows = np.nonzero(hit)
    number = np.full(hit.shape, -1)
    number[entry, rows] = np.arange(len(entry))
    slot, row = np.nonzero(unequal)
    where = number[slots.pattern[slot], row]
    order = np.argsort(where, kind="stable")
    slot, row, where = slot[order], row[order], where[order]

    def make(some: slice) -> torch.Tensor:
        result = tensors.gather(end, rows[some])
        mine = slice(*np.searchsorted(where, [some.start, some.start + len(result)]))
        at, channel = where[mine] - some.start, slots.channel[slot[mine]]
        planes_first = planes.movedim(axis, 1)
        result.movedim(axis, 1)[_index(at), _index(channel)] = planes_first[
            _index(row[mine]), _index(slot[mine])
        ]
        return result

    return entry, rows, make


def _index(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def changed_by(faults: Sequence[Fault], planes: Planes) -> Changed:
    """What faults make of the end of a chain."""
    name, slots = planes.chain.end, Slots.of(faults)
    if not len(slots.channel):
        nothing = np.zeros(0, np.int64)
        return Changed(nothing, nothing, lambda _: {})
    made, unequal = planes.run(slots)
    entry, rows, make = patched(slots, made, unequal, planes.end, planes.head.axis, len(faults))
    return Changed(entry, rows, lambda some: {name: make(some)})
