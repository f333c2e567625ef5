"""Operators that treat every channel alone, run for chosen channels: planes.

A fault in a filter changes one channel, and so it stays through normalisation, activation and
residual addition, up to the next operator that mixes channels. Only there is the whole tensor
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hwbench_torch.graph import Graph, Ref, Step, Values

# One number after another, whatever the shape.
_ACTIVATING = ("relu", "relu6", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh")
_CLIPPING = ("hardswish", "hardsigmoid", "clamp", "clamp_min", "clamp_max")
_ARITHMETIC = ("add", "sub", "mul", "div", "neg", "abs", "exp", "sqrt", "rsqrt")
_STORING = ("clone", "dropout", "quantize_per_tensor", "dequantize_per_tensor")
_POINTWISE = frozenset((*_ACTIVATING, *_CLIPPING, *_ARITHMETIC, *_STORING))
# Channels are the second axis, and each is reduced alone.
_POOLING = frozenset(["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean", "flatten"])
_NORMALISING = frozenset(("batch_norm",))
PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")  # operands of those

Narrow = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Chain:
    """Steps behind a tensor that treat its channels alone.

    Attributes:
        graph: what is executed.
        steps: their positions, in order; the end of the chain is the last one's result.
        start: the tensor that the chain begins with.
        axis: of the channels, 1 or -1.
    """

    graph: Graph
    steps: tuple[int, ...]
    start: str
    axis: int

    @property
    def end(self) -> str:
        """The tensor that the chain ends with."""
        return self.graph.steps[self.steps[-1]].name if self.steps else self.start

    @property
    def beside(self) -> set[str]:
        """Golden tensors that the steps read beside the chain."""
        mine = {self.start, *(self.graph.steps[at].name for at in self.steps)}
        read = set[str]().union(*(self.graph.steps[at].reads for at in self.steps))
        return {name for name in read - mine if name in self.graph.position}

    def whole(self, start: torch.Tensor, golden: Values) -> torch.Tensor:
        """The end from the start, all channels at once as deployed."""
        name, made = self.start, start
        for at in self.steps:
            step = self.graph.steps[at]
            made = step.run({**golden, name: made}, self.graph.constants)
            name = step.name
        return made

    def run(self, planes: torch.Tensor, channels: torch.Tensor, beside: Narrow, golden: Values
            ) -> torch.Tensor:  # fmt: skip
        """Planes of the start as planes of the end.

        Args:
            planes: along ``axis`` one plane per entry of ``channels``.
            channels: which channel each plane is.
            beside: takes the planes of a golden tensor that belong to these.
            golden: the tensors in ``beside``.
        """
        name = self.start
        for at in self.steps:
            step = self.graph.steps[at]
            planes = step.run(_operands(step, self.graph, channels, beside, golden),
                              {name: planes, **_plain(step, self.graph)})  # fmt: skip
            name = step.name
        return planes


def _operands(
    step: Step, graph: Graph, channels: torch.Tensor, beside: Narrow, golden: Values
) -> Values:
    """What a step reads beside its planes, narrowed."""
    found = {name: beside(golden[name]) for name in step.reads & golden.keys()}
    for name in step.reads & graph.constants.keys():
        held = graph.constants[name]
        if held.numel() > 1 or step.op in _NORMALISING:
            found[name] = held.index_select(0, channels)
    return found


def _plain(step: Step, graph: Graph) -> Mapping[str, Any]:
    """Constants of a single number."""
    return {n: graph.constants[n] for n in step.reads & graph.constants.keys()}


def chain(graph: Graph, start: str, axis: int, shapes: Mapping[str, torch.Size]) -> Chain:
    """The longest chain behind a tensor.

    Args:
        graph: what is executed.
        start: the tensor.
        axis: of its channels: 1, or -1 for the last.
        shapes: of every tensor in the graph.
    """
    steps, name = list[int](), start
    inside = {start}
    while len(graph.readers.get(name, [])) == 1 and name not in graph.outputs:
        position = graph.readers[name][0]
        step = graph.steps[position]
        if not _alone(step, graph, name, axis, shapes):
            break
        if any(_depends(graph, each, start) for each in step.reads - {name}):
            break
        steps.append(position)
        name = step.name
        inside.add(name)
    return Chain(graph, tuple(steps), start, axis)


def _depends(graph: Graph, name: str, start: str) -> bool:
    """Whether a tensor beside the chain depends on the chain's start."""
    made = graph.position.get(name, -1)
    if made <= graph.position[start]:
        return False
    reads = graph.steps[made].reads
    return start in reads or any(_depends(graph, each, start) for each in reads)


def _alone(
    step: Step, graph: Graph, name: str, axis: int, shapes: Mapping[str, torch.Size]
) -> bool:
    """Whether a step treats the channels of tensor ``name`` alone, in a form known here."""
    if step.name not in shapes or not step.args or not isinstance(step.args[0], Ref):
        return False
    before, after = shapes[name], shapes[step.name]
    width = axis if axis == 1 else len(before) - 1
    if len(after) <= width or before[width] != after[width] or len(before) <= width:
        return False
    if step.op in _NORMALISING:
        return _normalises(step, graph, name, axis)
    beside = [each for each in step.reads if each != name]
    known = all(_fits(each, graph, before, shapes) for each in beside)
    if step.op in _POINTWISE:
        return known and after == before
    return step.op in _POOLING and not beside and axis == 1 and _reduces(step, before, after)


def _normalises(step: Step, graph: Graph, name: str, axis: int) -> bool:
    operands = [step.argument(each) for each in PER_CHANNEL]
    constant = all(each is None or each.name in graph.constants for each in operands)
    training = step.argument("training", True)
    return axis == 1 and constant and not training and step.args[0] == Ref(name)


def _fits(name: str, graph: Graph, shape: torch.Size, shapes: Mapping[str, torch.Size]) -> bool:
    """Whether an operand is of the tensor's own shape, or one number."""
    if name in graph.constants:
        return (
            isinstance(graph.constants[name], torch.Tensor) and graph.constants[name].numel() == 1
        )
    return shapes.get(name) == shape


def _reduces(step: Step, before: torch.Size, after: torch.Size) -> bool:
    """Whether a pooling step leaves rows and channels where they are."""
    if len(before) < 3 or after[:2] != before[:2]:
        return False
    if step.op == "flatten":
        return after.numel() == before.numel() and len(after) == 2
    if step.op == "mean":
        axes = step.argument("dim")
        return bool(axes) and all(each % len(before) >= 2 for each in axes)
    return True
