"""Channels of tensors in the layouts that ONNX Runtime's kernels use.

Every layout is one shape (rows, groups, places, lanes) in memory; channel c lies at group
c // lanes, lane c % lanes. NCHW: one lane a group. NHWC: one group. NCHWc: blocks of lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from hwbench.backend import Array

Indices = npt.NDArray[np.int64]
NCHWC = "com.microsoft.nchwc"


@cache
def block() -> int:
    """Channels in a block of this machine's NCHWc kernels, as ReorderInput shows them."""
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=NCHWC)
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "block", given, [ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(NCHWC, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    x = np.arange(128, dtype=np.float32).reshape(1, 64, 1, 2)
    (y,) = session.run(None, {"x": x})
    # Within a block each place holds all its channels, two numbers apart in x.
    return int(np.flatnonzero(y.reshape(-1) == 1)[0])


@dataclass(frozen=True)
class Layout:
    """How channels lie in a batch: ``lanes`` to a group, the channel axis of the stated shape."""

    lanes: int
    axis: int

    def view(self, batch: Array) -> Array:
        """A batch as (rows, groups, places, lanes), without copying."""
        channels = batch.shape[self.axis]
        lanes = self.lanes or channels
        return batch.reshape(len(batch), channels // lanes, -1, lanes)

    def maps(self, batch: Array) -> Array:
        """A batch of maps as (rows, groups, height, width, lanes), without copying."""
        seen, (height, width) = self.view(batch), self.extent(batch)
        return seen.reshape(*seen.shape[:2], height, width, seen.shape[-1])

    def extent(self, batch: Array) -> tuple[int, int]:
        """Height and width of a batch of maps."""
        first = 2 if self.axis == 1 else 1
        return batch.shape[first], batch.shape[first + 1]

    def batch(self, maps: Array) -> Array:
        """``maps`` back in the shape that is stated."""
        rows, groups, height, width, lanes = maps.shape
        if self.axis == 1:
            return maps.reshape(rows, groups * lanes, height, width)
        return maps.reshape(rows, height, width, lanes)

    def take(self, batch: Array, channels: Indices) -> Array:
        """Planes of some channels, shape (channels, rows, places)."""
        seen = self.view(batch)
        lanes = seen.shape[-1]
        planes: Array = seen[:, channels // lanes, :, channels % lanes]
        return planes

    def gather(self, batch: Array, channels: Indices) -> Array:
        """A batch of the chosen channels in this same layout."""
        planes = self.take(batch, channels)
        count, rows, places = planes.shape
        lanes = self.lanes or count
        shaped = planes.transpose(1, 0, 2).reshape(rows, count // lanes, lanes, places)
        shape = list(batch.shape)
        shape[self.axis] = count
        return np.ascontiguousarray(shaped.transpose(0, 1, 3, 2)).reshape(shape)

    def put(self, batch: Array, rows: Indices, channels: Indices, planes: Array) -> None:
        """Write planes, shape (n, places), each to a row and a channel, in place."""
        seen = self.view(batch)
        lanes = seen.shape[-1]
        seen[rows, channels // lanes, :, channels % lanes] = planes


def layout_of(node: NodeProto) -> Layout:
    """How a convolution's output lies."""
    if any(each.name == "channels_last" and each.i for each in node.attribute):
        return Layout(0, -1)
    return Layout(block() if node.domain == NCHWC else 1, 1)


@dataclass(frozen=True)
class Filters:
    """How output channels lie in an operand: (groups, places, lanes) in memory."""

    lanes: int
    channels: int

    def view(self, operand: Array) -> Array:
        """An operand as (groups, places, lanes), without copying."""
        return operand.reshape(self.channels // self.lanes, -1, self.lanes)

    def locate(self, position: Indices, size: int) -> tuple[Indices, Indices]:
        """Output channel and place of flat positions in an operand of ``size`` elements."""
        block = size // self.channels * self.lanes
        channel = position // block * self.lanes + position % self.lanes
        return channel, position % block // self.lanes

    def take(self, operand: Array, channels: Indices) -> Array:
        """Filters of some channels, shape (channels, places)."""
        taken: Array = self.view(operand)[channels // self.lanes, :, channels % self.lanes]
        return taken

    def stack(self, filters: Array, shape: tuple[int, ...]) -> Array:
        """Filters, shape (n, places), as an operand of n channels; ``shape`` is the original's."""
        count, places = filters.shape
        stacked = filters.reshape(count // self.lanes, self.lanes, places).transpose(0, 2, 1)
        return np.ascontiguousarray(stacked).reshape(count, *shape[1:])
