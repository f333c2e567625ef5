"""Faults of single places, followed operator by operator on the windows that they can reach.

A fault in one place of a map reaches 3x3 places behind a 3x3 convolution and 5x5 behind two. Each
operator runs on crops that hold those places and what it reads around them. Rows that have become
golden again are dropped behind every operator, which costs next to nothing on windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from hwbench import onnxfile
from hwbench.backend import Array
from hwbench.replay import lanes
from hwbench.replay.gate import Refused
from hwbench.replay.golden import Golden
from hwbench.replay.windows import Box, Indices, Reach, around, crop, inside, padded, put
from hwbench_onnxruntime.channels import NCHWC, Layout, block, layout_of
from hwbench_onnxruntime.executed import Executed, Part

_CONVOLUTIONS = ("Conv", "FusedConv", "QLinearConv")
# Number by number, and the same bits whatever the kernel: no exponentials.
_POINTWISE = ("Add", "Sub", "Mul", "Relu", "LeakyRelu", "Clip", "QLinearAdd", "QLinearMul")
_ZERO_POINT = 2  # slot of a QLinearConv's input's
_SUM = 3  # slot of the tensor that a fused convolution adds to its result
_DIMENSIONS = 4  # of a batch of maps
_SHARE = 0.45  # of a map that windows may take: cutting them out costs too
_ROWS = 128  # at a time
_TRIED = 32  # places at least that the gate tries


@dataclass(frozen=True)
class Windows:
    """A tensor where it may differ from golden.

    Attributes:
        box: where, one window a row.
        array: shape (n, groups, height, width, lanes).
        differs: whether a byte differs from golden, shape (n,).
    """

    box: Box
    array: Array
    differs: npt.NDArray[np.bool_]

    def take(self, which: npt.NDArray[np.bool_]) -> Windows:
        """Those of some rows."""
        return Windows(self.box.take(which), self.array[which], self.differs[which])

    def into(self, target: Array, box: Box, rows: slice = slice(None)) -> None:
        """Write those of some rows into maps, or crops that lie at a box."""
        top, left = self.box.top[rows] - box.top[rows], self.box.left[rows] - box.left[rows]
        put(target, Box(top, left, self.box.height, self.box.width), self.array[rows])


@dataclass(frozen=True)
class Sliding:
    """What an operator reads for one place of its output.

    Attributes:
        layouts: of its operands that are no constants, by slot.
        axes: the places that it reads of them, down and across, by slot.
        layout: of its output.
        fill: the number that it reads beyond the borders of a map.
    """

    layouts: Mapping[int, Layout]
    axes: Mapping[int, tuple[Reach, Reach]]
    layout: Layout
    fill: Any = 0


@dataclass(frozen=True)
class Operand:
    """What an operator reads of a golden tensor.

    Attributes:
        slot: of the operator.
        layout: of the tensor.
        maps: the tensor with margins.
        margins: places above and below, and to the left and right.
        box: what is read, in places of the tensor.
    """

    slot: int
    layout: Layout
    maps: Array
    margins: tuple[int, int]
    box: Box

    @property
    def placed(self) -> Box:
        """The same in places of ``maps``."""
        top, left = self.box.top + self.margins[0], self.box.left + self.margins[1]
        return replace(self.box, top=top, left=left)


@dataclass(frozen=True)
class Step:
    """An operator on windows.

    Attributes:
        position: of the node in the executed graph.
        node: as deployed.
        part: the node alone, loaded without padding.
        sliding: what it reads.
        needed: tensors that a later node, or the caller, reads.
    """

    position: int
    node: NodeProto
    part: Part
    sliding: Sliding
    needed: frozenset[str]

    @property
    def output(self) -> str:
        """The tensor that it writes."""
        return str(self.node.output[0])

    @property
    def layout(self) -> Layout:
        """How that lies."""
        return self.sliding.layout

    def reached(self, boxes: Mapping[str, Box], extent: tuple[int, int]) -> Box:
        """The outputs that changes of its operands can reach.

        Args:
            boxes: of the tensors that may have changed.
            extent: height and width of the output.
        """
        found = list[Box]()
        for slot, (down, across) in self.sliding.axes.items():
            box = boxes.get(self.node.input[slot])
            if box is not None:
                top, height = down.outputs(box.top, box.height, extent[0])
                left, width = across.outputs(box.left, box.width, extent[1])
                found.append(Box(top, left, height, width))
        return inside(around(found), *extent)

    def run(self, rows: Indices, windows: Mapping[str, Windows], golden: Golden) -> Windows:
        """Windows of the output.

        Args:
            rows: of the batch, one a window.
            windows: of the tensors that may differ from golden.
            golden: golden tensors.
        """
        clean = self.layout.maps(golden.at(self.position + 1)[self.output])
        boxes = {name: each.box for name, each in windows.items()}
        box = self.reached(boxes, clean.shape[2:4])
        shape = (len(rows), clean.shape[1], box.height, box.width, clean.shape[-1])
        array, differs = np.empty(shape, clean.dtype), np.empty(len(rows), np.bool_)
        operands = self._operands(box, golden.at(self.position))
        for at in range(0, len(rows), _ROWS):
            some = slice(at, at + _ROWS)
            feeds = self._feeds(rows, operands, windows, some)
            self.part.run_into(feeds, {self.output: self.layout.batch(array[some])})
            differs[some] = lanes.differing(array[some], crop(clean, rows[some], box.take(some)))
        return Windows(box, array, differs)

    def _operands(self, box: Box, live: Mapping[str, Array]) -> list[Operand]:
        """Golden operands with what the outputs in a box read of them."""
        found = []
        for slot, layout in self.sliding.layouts.items():
            down, across = self.sliding.axes[slot]
            top, height = down.inputs(box.top, box.height)
            left, width = across.inputs(box.left, box.width)
            maps = layout.maps(live[self.node.input[slot]])
            margins = _beyond(top, height, maps.shape[2]), _beyond(left, width, maps.shape[3])
            held = padded(maps, margins, self.sliding.fill)
            found.append(Operand(slot, layout, held, margins, Box(top, left, height, width)))
        return found

    def _feeds(
        self,
        rows: Indices,
        operands: Sequence[Operand],
        windows: Mapping[str, Windows],
        some: slice,
    ) -> dict[str, Array]:
        """What some rows read: golden with the windows put in."""
        feeds = {}
        for each in operands:
            taken = crop(each.maps, rows[some], each.placed.take(some))
            if self.node.input[each.slot] in windows:
                windows[self.node.input[each.slot]].into(taken, each.box, some)
            feeds[f"slot{each.slot}"] = each.layout.batch(taken)
        return feeds


def _beyond(start: Indices, size: int, extent: int) -> int:
    """How far windows stick out of a map at most."""
    return max(0, -int(start.min()), int(start.max()) + size - extent)


@dataclass(frozen=True)
class Walk:
    """The operators behind a tensor that run on windows of it.

    Attributes:
        executed: the graph.
        golden: golden tensors at its cuts.
        name: the tensor that is hit.
        start: first node that may read it.
        layout: of the tensor that is hit.
        steps: in order, at least one.
    """

    executed: Executed
    golden: Golden
    name: str
    start: int
    layout: Layout
    steps: tuple[Step, ...]

    def on(self, golden: Golden) -> Walk:
        """The same for another batch."""
        return replace(self, golden=golden)

    @property
    def stop(self) -> int:
        """One past the last node that is run."""
        return self.steps[-1].position + 1

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Tensors that may differ from golden there, and are needed."""
        made = {self.name, *(each.output for each in self.steps)}
        return tuple(name for name in self.executed.live(self.stop) if name in made)

    @property
    def clean(self) -> Array:
        """The tensor that is hit, golden, as maps."""
        return self.layout.maps(self.golden.at(self.start)[self.name])

    def run(
        self, rows: Indices, first: Windows, *, drop: bool = True
    ) -> tuple[Indices, dict[str, Windows]]:
        """Windows of ``changed``.

        Args:
            rows: of the batch, one a window.
            first: windows of the tensor that is hit.
            drop: leave out what has become golden again.

        Returns:
            The entries that are left, and their windows; no windows where none are left.
        """
        kept, windows = np.arange(len(rows)), {self.name: first}
        for step in self.steps:
            made = step.run(rows[kept], windows, self.golden)
            windows = {n: w for n, w in (*windows.items(), (step.output, made)) if n in step.needed}
            here = np.logical_or.reduce([each.differs for each in windows.values()])
            if drop and not here.all():
                kept = kept[here]
                windows = {name: each.take(here) for name, each in windows.items()}
            if not len(kept):
                return kept, {}
        return kept, windows

    def whole(
        self, windows: Mapping[str, Windows], rows: Indices, some: slice = slice(None)
    ) -> dict[str, Array]:
        """Golden rows of ``changed`` with some of the windows in them."""
        live, layouts = self.golden.at(self.stop), {each.output: each.layout for each in self.steps}
        made, none = {}, np.zeros(len(rows), np.int64)
        for name, each in windows.items():
            made[name] = live[name][rows[some]]
            maps = layouts.get(name, self.layout).maps(made[name])
            each.into(maps, Box(none, none, 0, 0), some)
        return made

    def repeats(self) -> bool:
        """Whether numbers of every sort come out as from whole maps, wherever they are."""
        rounds = -(-_TRIED // len(self.clean))
        return all(self._repeats(np.random.default_rng(seed)) for seed in range(rounds))

    def _repeats(self, rng: np.random.Generator) -> bool:
        clean = self.clean
        rows, (height, width) = np.arange(len(clean)), clean.shape[2:4]
        top, left = _anywhere(len(rows), height, rng), _anywhere(len(rows), width, rng)
        box = Box(top, left, 1, 1)
        first = crop(clean, rows, box)
        _plant(first, rng)
        faulty = Windows(box, first, np.ones(len(rows), np.bool_))
        _, windows = self.run(rows, faulty, drop=False)
        hit = self.golden.at(self.start)[self.name].copy()
        faulty.into(self.layout.maps(hit), Box(0 * rows, 0 * rows, 0, 0))
        state = {**self.golden.at(self.start), self.name: hit}
        wanted = self.executed.advance(self.start, self.stop, state)
        made = self.whole(windows, rows)
        return all(lanes.same(made[name], wanted[name]) for name in self.changed)


def _anywhere(count: int, extent: int, rng: np.random.Generator) -> Indices:
    """Places, the first and the last one among them."""
    places = rng.integers(extent, size=count)
    places[rng.random(count) < 0.1] = 0
    places[rng.random(count) < 0.1] = extent - 1
    return places


def _plant(windows: Array, rng: np.random.Generator) -> None:
    """Any bits in one number of each window, and in every other NaN, an infinity or the largest."""
    kind, count = windows.dtype, len(windows)
    flat = windows.reshape(count, -1)
    some = rng.integers(np.iinfo(np.int64).max, size=count).astype(f"u{kind.itemsize}").view(kind)
    if kind.kind == "f":
        odd = np.array([np.nan, np.inf, -np.inf, np.finfo(kind).max], kind)
        some[::2] = np.resize(odd, len(some[::2]))
    flat[np.arange(count), rng.integers(flat.shape[1], size=count)] = some


@dataclass(frozen=True)
class Planner:
    """Plans walks on one graph; an operator is loaded once for all of them.

    Attributes:
        executed: the graph.
        parts: operators that are loaded, by position.
    """

    executed: Executed
    parts: dict[int, Part] = field(default_factory=dict)

    def walk(self, golden: Golden, name: str, start: int) -> Walk:
        """The operators behind a tensor, for as long as windows are less work than whole maps.

        Args:
            golden: golden tensors.
            name: the tensor that is hit.
            start: first node that may read it.

        Raises:
            Refused: there are none.
        """
        if golden.at(start)[name].ndim != _DIMENSIONS:
            raise Refused("it holds no maps")
        layout = self._layout(name)
        steps = tuple(self._steps(golden, name, start, layout))
        if not steps:
            raise Refused("what follows does not run on windows, or reaches too far")
        return Walk(self.executed, golden, name, start, layout, steps)

    def _layout(self, name: str) -> Layout:
        """The layout of a tensor, by the convolution that writes or reads it."""
        nodes, made = self.executed.nodes, self.executed.producers[name]
        if made >= 0 and nodes[made].op_type in _CONVOLUTIONS:
            return layout_of(nodes[made])
        for at in self.executed.readers[name]:
            if nodes[at].op_type in _CONVOLUTIONS and nodes[at].input[0] == name:
                return self._read(nodes[at])
        raise Refused("no convolution writes or reads it")

    def _read(self, node: NodeProto) -> Layout:
        """How a convolution's input lies: blocked kernels take a few channels as they are."""
        if node.domain != NCHWC:
            return layout_of(node)
        grouped = any(each.name == "group" and each.i > 1 for each in node.attribute)
        few = self._filters(node)[1] < block() and not grouped
        return Layout(1, 1) if few else layout_of(node)

    def _filters(self, node: NodeProto) -> tuple[int, ...]:
        """Shape of a convolution's filters.

        Raises:
            Refused: they are computed.
        """
        held = self.executed.constants.get(node.input[3 if node.op_type == "QLinearConv" else 1])
        if held is None:
            raise Refused("its filters are computed")
        return tuple(held.dims)

    def _steps(self, golden: Golden, name: str, start: int, layout: Layout) -> Iterator[Step]:
        """The operators in order, until one does not run on windows, or they no longer pay."""
        corner, held = np.array([0]), 0
        boxes, layouts = {name: Box(corner, corner, 1, 1)}, {name: layout}
        for position in range(start, len(self.executed.nodes)):
            if not self.executed.reads[position] & boxes.keys():
                continue
            try:
                step = self._step(position, golden, layouts)
            except Refused:
                return
            clean = golden.at(position + 1)[step.output]
            height, width = step.layout.extent(clean)
            box = step.reached(boxes, (height, width))
            held += clean.nbytes
            if box.height * box.width > _SHARE * height * width or held > golden.bound / 2:
                return
            boxes[step.output], layouts[step.output] = box, step.layout
            yield step

    def _step(self, position: int, golden: Golden, layouts: Mapping[str, Layout]) -> Step:
        """An operator on windows, if it is of a known kind.

        Raises:
            Refused: it is not.
        """
        node, live = self.executed.nodes[position], golden.at(position)
        slots = {s: n for s, n in enumerate(node.input) if n and n not in self.executed.constants}
        outputs = [each for each in node.output if each]
        if len(outputs) != 1 or golden.at(position + 1)[outputs[0]].ndim != _DIMENSIONS:
            raise Refused("it gives no maps")
        if node.op_type in _CONVOLUTIONS:
            found = self._convolution(node, slots)
        elif node.op_type in _POINTWISE:
            found = self._pointwise(node, slots, layouts)
            shape = golden.at(position + 1)[outputs[0]].shape
            if any(live[name].shape != shape for name in slots.values()):
                raise Refused("its operands are of unlike shapes")
        else:
            raise Refused(f"{node.op_type} is not run on windows")
        for slot, name in slots.items():
            if layouts.get(name, found.layouts[slot]) != found.layouts[slot]:
                raise Refused(f"{name!r} lies in another way than it is read")
        needed = frozenset(self.executed.live(position + 1))
        return Step(position, node, self._part(position, slots), found, needed)

    def _convolution(self, node: NodeProto, slots: Mapping[int, str]) -> Sliding:
        quantised = node.op_type == "QLinearConv"
        if not slots.keys() <= ({0} if quantised else {0, _SUM}):
            raise Refused("its operands are computed")
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise Refused("how it pads depends on the map")
        axes = [
            Reach((size - 1) * dilation + 1, stride, pad)
            for size, dilation, stride, pad in zip(
                self._filters(node)[2:],
                attributes.get("dilations", (1, 1)),
                attributes.get("strides", (1, 1)),
                attributes.get("pads", (0, 0))[:2],
                strict=True,
            )
        ]
        layout, fill = layout_of(node), np.zeros(1, np.float32)
        if quantised:
            fill = onnxfile.stored(self.executed.constants[node.input[_ZERO_POINT]]).reshape(-1)
        return Sliding(
            {slot: layout if slot else self._read(node) for slot in slots},
            {slot: (Reach(), Reach()) if slot else (axes[0], axes[1]) for slot in slots},
            layout,
            fill[0],
        )

    def _pointwise(
        self, node: NodeProto, slots: Mapping[int, str], layouts: Mapping[str, Layout]
    ) -> Sliding:
        held = [self.executed.constants.get(name) for name in node.input]
        if any(each is not None and onnxfile.stored(each).size > 1 for each in held):
            raise Refused("it has an operand per channel or place")
        layout = next(layouts[name] for name in slots.values() if name in layouts)
        return Sliding(
            dict.fromkeys(slots, layout), dict.fromkeys(slots, (Reach(), Reach())), layout
        )

    def _part(self, position: int, slots: Mapping[int, str]) -> Part:
        """A node alone, without padding."""
        if position not in self.parts:
            node, inputs = NodeProto(), dict[str, int]()
            node.CopyFrom(self.executed.nodes[position])
            for slot, name in slots.items():
                node.input[slot] = f"slot{slot}"
                inputs[f"slot{slot}"] = self.executed.types[name]
            for each in node.attribute:
                if each.name == "pads":
                    each.ints[:] = [0] * len(each.ints)
            outputs = [name for name in node.output if name]
            self.parts[position] = self.executed.build([node], inputs, outputs)
        return self.parts[position]
