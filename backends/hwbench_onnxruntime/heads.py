"""The operator that a stored fault hits, run for many faults at once or for one at a time.

A fault in a filter changes one output channel. The grouped head is the same operator with the
faulted filters of many faults as its output channels; only those channels are then patched into
golden copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from hwbench import onnxfile
from hwbench.backend import Array
from hwbench.replay import lanes
from hwbench.replay.gate import Refused
from hwbench.replay.rows import Changed
from hwbench_onnxruntime.channels import NCHWC, Filters, Indices, Layout, block, layout_of
from hwbench_onnxruntime.executed import Executed, Part

SLOTS = 16  # faulted filters in one run of a grouped head

# Operand slots with one entry or filter per output channel, by operator.
_CONV_OPERANDS = (1, 2)
_QLINEAR_OPERANDS = (3, 4, 5, 8)
_SUM = 3  # slot of the tensor that a fused convolution adds to its result


@dataclass(frozen=True)
class Fault:
    """What a pattern makes of an executed constant: flat positions and the numbers there."""

    position: Indices
    value: Array


@dataclass(frozen=True)
class Slots:
    """Output channels that patterns change: one slot per pattern and channel."""

    pattern: Indices
    channel: Indices

    def __len__(self) -> int:
        return len(self.pattern)


class GroupedHead:
    """One convolution for many faults."""

    def __init__(self, executed: Executed, position: int, constant: str) -> None:
        self._executed = executed
        self.node = executed.nodes[position]
        self._kind = _kind(executed, self.node)
        self._slot = list(self.node.input).index(constant)
        if self._slot not in self._kind.operands:
            raise Refused(f"input {self._slot} of {self.node.op_type} has no output channels")
        self.output = self.node.output[0]
        self._constants = {
            slot: onnxfile.stored(executed.constants[self.node.input[slot]])
            for slot in self._kind.operands
            if slot < len(self.node.input) and self.node.input[slot]
        }
        self._stacked = [s for s, each in self._constants.items() if each.size > 1]
        if self._slot not in self._stacked:
            raise Refused("one number for all output channels")

    @cached_property
    def _part(self) -> Part:
        node, inputs = NodeProto(), dict[str, int]()
        node.CopyFrom(self.node)
        for slot, name in enumerate(node.input):
            if slot in self._stacked or (name and name not in self._executed.constants):
                node.input[slot] = f"slot{slot}"
                inputs[f"slot{slot}"] = self._executed.types[name]
        if self._kind.depthwise:
            group = next(each for each in node.attribute if each.name == "group")
            group.CopyFrom(helper.make_attribute("group", SLOTS))
        return self._executed.build([node], inputs, list(node.output))

    def slots(self, faults: Sequence[Fault]) -> tuple[Slots, list[tuple[Indices, Fault]]]:
        """The channels that each pattern changes, and per slot the places and numbers."""
        filters = self._filters(self._slot)
        pattern, channel, content = list[int](), list[int](), list[tuple[Indices, Fault]]()
        for index, fault in enumerate(faults):
            channels, places = filters.locate(fault.position, self._constants[self._slot].size)
            for each in np.unique(channels):
                mine = channels == each
                pattern.append(index)
                channel.append(int(each))
                content.append((places[mine], Fault(fault.position[mine], fault.value[mine])))
        return Slots(np.array(pattern, np.int64), np.array(channel, np.int64)), content

    def run(self, faults: Sequence[Fault], live: Mapping[str, Array], golden: Array) -> Changed:
        """The head's output for each fault, where it is not golden.

        Args:
            faults: one per pattern.
            live: golden inputs.
            golden: the output without a fault.
        """
        slots, content = self.slots(faults)
        parts = [
            self._planes(slots.channel[at : at + SLOTS], content[at : at + SLOTS], live)
            for at in range(0, len(slots), SLOTS)
        ]
        planes = np.concatenate(parts) if parts else np.empty((0, len(golden), 0), golden.dtype)
        return self._patched(slots, planes, golden, len(faults))

    def _planes(
        self,
        channels: Indices,
        content: Sequence[tuple[Indices, Fault]],
        live: Mapping[str, Array],
    ) -> Array:
        """Faulted output channels, shape (slots, rows, places)."""
        padded = np.resize(channels, SLOTS)  # what is beyond the slots is not read
        feeds = {f"slot{slot}": self._operand(slot, padded, content) for slot in self._stacked}
        for slot, name in enumerate(self.node.input):
            if f"slot{slot}" not in feeds and name and name not in self._executed.constants:
                gathered = slot == _SUM or (slot == 0 and self._kind.depthwise)
                x = live[name]
                feeds[f"slot{slot}"] = self._kind.layout.gather(x, padded) if gathered else x
        output = self._part.run(feeds)[self.output]
        return self._kind.layout.take(output, np.arange(len(channels)))

    def _filters(self, slot: int) -> Filters:
        held = self._constants[slot]
        return Filters(self._kind.lanes if held.ndim > 1 else 1, held.shape[0])

    def _operand(
        self, slot: int, channels: Indices, content: Sequence[tuple[Indices, Fault]]
    ) -> Array:
        filters, held = self._filters(slot), self._constants[slot]
        taken = filters.take(held, channels)
        if slot == self._slot:
            for index, (places, fault) in enumerate(content):
                taken[index, places] = fault.value
        return filters.stack(taken, held.shape)

    def _patched(self, slots: Slots, planes: Array, golden: Array, patterns: int) -> Changed:
        clean = self._kind.layout.take(golden, slots.channel)
        unsigned = f"u{golden.dtype.itemsize}"
        differ = (planes.view(unsigned) != clean.view(unsigned)).any(axis=2)
        hit = np.zeros((patterns, len(golden)), dtype=np.bool_)
        np.logical_or.at(hit, slots.pattern, differ)
        entry, rows = np.nonzero(hit)
        number = np.full(hit.shape, -1)
        number[entry, rows] = np.arange(len(entry))
        slot, row = np.nonzero(hit[slots.pattern])
        order = np.argsort(number[slots.pattern[slot], row], kind="stable")
        slot, row = slot[order], row[order]
        where = number[slots.pattern[slot], row]

        def tensors(some: slice) -> dict[str, Array]:
            result = golden[rows[some]]
            mine = slice(*np.searchsorted(where, [some.start, some.start + len(result)]))
            channel, content = slots.channel[slot[mine]], planes[slot[mine], row[mine]]
            self._kind.layout.put(result, where[mine] - some.start, channel, content)
            return {self.output: result}

        return Changed(entry, rows, tensors)


@dataclass(frozen=True)
class _Kind:
    """How an operator's operands and output are laid out."""

    layout: Layout
    lanes: int
    operands: tuple[int, ...]
    depthwise: bool


def _kind(executed: Executed, node: NodeProto) -> _Kind:
    """The layout of a convolution.

    Raises:
        Refused: it is none, or one in groups of several channels.
    """
    if node.op_type not in ("Conv", "FusedConv", "QLinearConv"):
        raise Refused(f"{node.op_type} is no convolution")
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    quantised = node.op_type == "QLinearConv"
    operands = _QLINEAR_OPERANDS if quantised else _CONV_OPERANDS
    names = [node.input[slot] for slot in operands if slot < len(node.input) and node.input[slot]]
    if any(name not in executed.constants for name in names):
        raise Refused("its operands are computed")
    dims = executed.constants[names[0]].dims
    group = attributes.get("group", 1)
    depthwise = group > 1 and group == dims[0] and dims[1] == 1
    if group > 1 and not depthwise:
        raise Refused("it is in groups of several channels")
    lanes = block() if node.domain == NCHWC else 1
    return _Kind(layout_of(node), lanes, operands, depthwise)


class SingleHead:
    """The nodes from the first that reads a constant to where only rows are changed."""

    def __init__(
        self, executed: Executed, constants: Sequence[str], *, constant: bool = False
    ) -> None:
        self._executed, self._names, self._constant = executed, tuple(constants), constant
        readers = [at for name in constants for at in executed.readers.get(name, [])]
        if not readers:
            raise Refused("no operator of the main graph reads it")
        self.start = min(readers)
        self.stop, self.outputs = _reach(executed, self.start, max(readers) + 1, constants)

    @cached_property
    def _fed(self) -> Part:
        return self._executed.part(self.start, self.stop, self.outputs, fed=self._names)

    def run(self, operands: Mapping[str, Array], live: Mapping[str, Array]) -> dict[str, Array]:
        """Changed tensors of the whole batch with these constants in place of the stored ones."""
        if self._constant:
            part = self._executed.part(self.start, self.stop, self.outputs, replaced=operands)
            return part.run(live)
        return self._fed.run({**live, **operands})


def _reach(
    executed: Executed, start: int, stop: int, constants: Sequence[str]
) -> tuple[int, list[str]]:
    """Where the head must end, so that all it changes are tensors that depend on the inputs."""
    changed = set(constants)
    for position in range(start, len(executed.nodes)):
        if executed.reads[position] & changed:
            changed.update(executed.nodes[position].output)
        live = [name for name in executed.live(position + 1) if name in changed]
        if position + 1 >= stop and live and set(live) <= executed.data:
            return position + 1, live
    raise Refused("what it changes never depends on the inputs")


def differing_rows(made: Mapping[str, Array], golden: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
    """Rows of a batch in which any of the tensors is not golden."""
    masks = [lanes.differing(each, golden[name]) for name, each in made.items()]
    result: npt.NDArray[np.bool_] = np.logical_or.reduce(masks)
    return result
