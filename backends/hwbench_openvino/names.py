"""The names an ONNX file gives to its parameters, found again behind OpenVINO's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

FOLDED = ("BatchNormalization", "Mul", "Add", "Sub", "Div", "Relu", "Clip")


class OnnxNames:
    """Looks up initializers by the OpenVINO layer that uses them.

    Quantising and folding replace constants and lose their names, but a layer keeps the name of
    the ONNX node (or of its output) that it came from, with suffixes.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        graph = onnx.load(path, load_external_data=False).graph
        self.outputs = [each.name for each in graph.output]
        self._sizes: dict[str, int] = {}
        self._nodes: dict[str, onnx.NodeProto] = {}
        for each in _graphs(graph):
            self._add(each)

    @property
    def given(self) -> set[str]:
        """Every name that comes from the file."""
        return set(self._sizes) | set(self._nodes)

    def is_initializer(self, name: str) -> bool:
        """Whether the file has a stored tensor of that name."""
        return name in self._sizes

    def find(self, layer: str, size: int, *, last: bool) -> str | None:
        """The initializer with ``size`` elements of the node behind ``layer``.

        Args:
            layer: OpenVINO's name of the consumer.
            size: number of elements.
            last: of several, the last (a bias) rather than the first (a weight).
        """
        node = self._behind(layer)
        while node is not None:
            fitting = [str(name) for name in node.input if self._sizes.get(name) == size]
            if fitting and node.op_type != "BatchNormalization":
                return fitting[-1 if last else 0]
            # A layer that others were folded into is named after the last of them: go back.
            node = self._nodes.get(node.input[0]) if node.op_type in FOLDED else None
        return None

    def _behind(self, layer: str) -> onnx.NodeProto | None:
        while layer and layer not in self._nodes:
            layer = layer.rpartition("/")[0]
        return self._nodes.get(layer)

    def _add(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self._sizes[tensor.name] = int(np.prod(tensor.dims, dtype=np.int64))
        for node in graph.node:
            for name in (*node.output, node.name):
                self._nodes[name] = node
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                dims = node.attribute[0].t.dims
                self._sizes[node.output[0]] = int(np.prod(dims, dtype=np.int64))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those nested in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
