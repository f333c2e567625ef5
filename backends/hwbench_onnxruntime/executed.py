"""The graph that ONNX Runtime executes: optimised once, then cut into parts that run alone.

A part is loaded with every optimisation off, so its kernels are those of the deployed session.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from hwbench import onnxfile
from hwbench.backend import Array, Artifact
from hwbench_onnxruntime import devices, session

# Operators that read a tensor's shape only: what they give does not depend on the tensor's bits.
_SHAPE_ONLY = frozenset(("Shape", "Size"))


def optimise(artifact: Artifact) -> ModelProto:
    """The model as the deployed session executes it on this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "executed.onnx"
        settings = session.settings_of(artifact)
        settings.optimized_model_filepath = str(target)
        session.load(artifact, settings)
        return onnxfile.load(target)


class Part:
    """Consecutive nodes of an executed graph, loaded alone."""

    def __init__(self, model: ModelProto, artifact: Artifact) -> None:
        settings = session.settings_of(artifact)
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        provider, parameters = devices.provider_of(artifact.environment)
        self._session = ort.InferenceSession(
            model.SerializeToString(), settings, providers=[provider], provider_options=[parameters]
        )
        self._session.disable_fallback()
        self.inputs = tuple(each.name for each in model.graph.input)
        self.outputs = tuple(each.name for each in model.graph.output)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by name to arrays by name; names beyond the part's inputs are left out."""
        results = self._session.run(self.outputs, {name: feeds[name] for name in self.inputs})
        return dict(zip(self.outputs, results, strict=True))

    def run_into(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """As ``run``, into contiguous arrays of the right shape and type: no memory is fresh."""
        binding = self._session.io_binding()
        held = {name: np.ascontiguousarray(feeds[name]) for name in self.inputs}
        for name, array in held.items():
            binding.bind_cpu_input(name, array)
        for name in self.outputs:
            to = outputs[name]
            binding.bind_output(name, "cpu", 0, to.dtype, to.shape, to.ctypes.data)
        self._session.run_with_iobinding(binding)

    def types(self) -> dict[str, int]:
        """ONNX element type of each output, as the runtime inferred it."""
        return {each.name: _element_type(each.type) for each in self._session.get_outputs()}


@dataclass(frozen=True)
class Executed:
    """An optimised model, its nodes in topological order.

    Attributes:
        model: as ``optimise`` gave it, sorted.
        artifact: whose environment's options every part is loaded with.
    """

    model: ModelProto
    artifact: Artifact

    @classmethod
    def of(cls, artifact: Artifact) -> Executed:
        """What the deployed session of an artifact executes."""
        model = optimise(artifact)
        onnxfile.sort(model.graph)
        return cls(model, artifact)

    @property
    def rounds(self) -> bool:
        """Whether results are rounded to fewer bits than they are computed with."""
        return self.artifact.environment.precision in ("fp16", "bf16")

    @cached_property
    def nodes(self) -> tuple[NodeProto, ...]:
        """The nodes of the main graph."""
        return tuple(self.model.graph.node)

    @cached_property
    def constants(self) -> dict[str, TensorProto]:
        """Initializers of the main graph by name."""
        return {each.name: each for each in self.model.graph.initializer}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return tuple(each.name for each in self.model.graph.input)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return tuple(each.name for each in self.model.graph.output)

    @cached_property
    def reads(self) -> tuple[frozenset[str], ...]:
        """Per node, every name it reads, those of its subgraphs included."""
        return tuple(frozenset(onnxfile.reads(node)) for node in self.nodes)

    @cached_property
    def producers(self) -> dict[str, int]:
        """Position of the node that writes each tensor; -1 for the graph's inputs."""
        made = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        return {**dict.fromkeys(self.inputs, -1), **made}

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """Positions of the nodes that read each tensor or constant."""
        result: dict[str, list[int]] = {}
        for position, names in enumerate(self.reads):
            for name in names:
                result.setdefault(name, []).append(position)
        return result

    @cached_property
    def data(self) -> frozenset[str]:
        """Tensors that depend on the inputs' contents, not only on their shapes."""
        found = set(self.inputs)
        for node, names in zip(self.nodes, self.reads, strict=True):
            if node.op_type not in _SHAPE_ONLY and names & found:
                found.update(node.output)
        return frozenset(found)

    @cached_property
    def shapes(self) -> frozenset[str]:
        """Tensors that depend on the inputs' shapes: they change with the batch size."""
        found = {n for node in self.nodes if node.op_type in _SHAPE_ONLY for n in node.output}
        for node, names in zip(self.nodes, self.reads, strict=True):
            if names & found:
                found.update(node.output)
        return frozenset(found) - self.data

    @cached_property
    def types(self) -> dict[str, int]:
        """ONNX element type of every tensor, as the runtime itself infers it."""
        names = [name for node in self.nodes for name in node.output if name]
        found = {each.name: each.type.tensor_type.elem_type for each in self.model.graph.input}
        probe = Part(self._model(self.nodes, (), names, self.constants), self.artifact)
        found.update(probe.types())
        return {**found, **{name: each.data_type for name, each in self.constants.items()}}

    def live(self, cut: int) -> tuple[str, ...]:
        """Tensors written before node ``cut`` that it or a later node, or the caller, reads."""
        wanted = set(self.outputs).union(*self.reads[cut:])
        return tuple(name for name, at in self.producers.items() if at < cut and name in wanted)

    def advance(self, start: int, cut: int, before: dict[str, Array]) -> dict[str, Array]:
        """Tensors that are live before node ``cut``, from those before node ``start``."""
        live = self.live(cut)
        made = [name for name in live if self.producers[name] >= start]
        after = self.part(start, cut, made).run(before) if made else {}
        return {name: after[name] if name in after else before[name] for name in live}

    def part(
        self,
        start: int,
        stop: int,
        outputs: Sequence[str],
        fed: Iterable[str] = (),
        replaced: Mapping[str, Array] | None = None,
    ) -> Part:
        """Nodes ``start`` up to ``stop`` as a session.

        Args:
            start: first node.
            stop: one past the last node.
            outputs: tensors that the nodes write.
            fed: constants that become inputs.
            replaced: constants by name with other bits, in their stored form.
        """
        nodes = self.nodes[start:stop]
        written = {name for node in nodes for name in node.output}
        read = frozenset[str]().union(*self.reads[start:stop])
        given = [name for name in self.producers if name in read and name not in written]
        given += [name for name in fed if name in read]
        held = {n: t for n, t in self.constants.items() if n in read and n not in given}
        for name, array in (replaced or {}).items():
            if name in held:
                held[name] = TensorProto()
                held[name].CopyFrom(self.constants[name])
                onnxfile.overwrite(held[name], array)
        return Part(self._model(nodes, given, outputs, held), self.artifact)

    def scattered(
        self, writes: Mapping[str, tuple[Array, Array]], wanted: Sequence[str] | None = None
    ) -> Part:
        """The whole graph with numbers written into tensors on its way: the naive route.

        Args:
            writes: per input, or tensor that a node writes: indices, shape (n, dimensions of the
                tensor), and the numbers there, shape (n,).
            wanted: tensors to give, as their nodes write them; the graph's outputs, as written
                over, where ``None``.
        """
        held: dict[str, Array] = {}
        for name, (where, values) in writes.items():
            held |= {f"{name}/where": where.astype(np.int64), f"{name}/values": values}
        nodes = [_write(name) for name in writes if self.producers[name] < 0]
        for node in self.nodes:
            nodes.append(_renamed(node, writes))
            nodes += [_write(name) for name in node.output if name in writes]
        constants = {
            **self.constants,
            **{n: numpy_helper.from_array(v, n) for n, v in held.items()},
        }
        outputs = wanted or [_hit(each) if each in writes else each for each in self.outputs]
        return Part(
            self._assemble(nodes, self.model.graph.input, outputs, constants), self.artifact
        )

    def build(
        self, nodes: Sequence[NodeProto], inputs: Mapping[str, int], outputs: Sequence[str]
    ) -> Part:
        """Nodes of one's own, with this graph's constants, as a session.

        Args:
            nodes: in topological order.
            inputs: element type by name.
            outputs: tensors that the nodes write.
        """
        read = {name for node in nodes for name in node.input}
        held = {n: t for n, t in self.constants.items() if n in read and n not in inputs}
        values = [helper.make_tensor_value_info(name, each, None) for name, each in inputs.items()]
        return Part(self._assemble(nodes, values, outputs, held), self.artifact)

    def _model(
        self,
        nodes: Sequence[NodeProto],
        given: Sequence[str],
        outputs: Sequence[str],
        held: Mapping[str, TensorProto],
    ) -> ModelProto:
        inputs = list(self.model.graph.input)
        if nodes is not self.nodes:
            inputs = [helper.make_tensor_value_info(name, self.types[name], None) for name in given]
        return self._assemble(nodes, inputs, outputs, held)

    def _assemble(
        self,
        nodes: Sequence[NodeProto],
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[str],
        held: Mapping[str, TensorProto],
    ) -> ModelProto:
        graph = GraphProto(name="part", node=nodes, input=inputs, initializer=held.values())
        # The runtime infers what it was not told.
        graph.output.extend(ValueInfoProto(name=name) for name in outputs)
        model = ModelProto(ir_version=self.model.ir_version, graph=graph)
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        return model


def _hit(name: str) -> str:
    return f"{name}/hit"


def _write(name: str) -> NodeProto:
    """Numbers into some places of a tensor."""
    return helper.make_node("ScatterND", [name, f"{name}/where", f"{name}/values"], [_hit(name)])


def _renamed(node: NodeProto, hit: Container[str]) -> NodeProto:
    """The node reading the tensors that were written into instead, in its subgraphs too."""
    if not any(name in hit for name in onnxfile.reads(node)):
        return node
    result = NodeProto()
    result.CopyFrom(node)
    result.input[:] = [_hit(each) if each in hit else each for each in node.input]
    for _, graph in onnxfile.subgraphs(result):
        inner = [_renamed(each, hit) for each in graph.node]
        del graph.node[:]
        graph.node.extend(inner)
    return result


def _element_type(described: str) -> int:
    """``tensor(float)`` as an ONNX element type."""
    name = described.removeprefix("tensor(").removesuffix(")").upper()
    numbers = dict(TensorProto.DataType.items())
    return int(numbers.get(name, TensorProto.UNDEFINED))
