"""The graph that OpenVINO executes: which tensors exist between its kernels, and parts of it.

The plugin fuses operators of the IR; what a fusion swallows is in no memory. A part is a piece of
the IR compiled with the deployed options, so that its kernels are those of the deployed session.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13

from hwbench.backend import Array, Artifact
from hwbench.errors import Unsupported
from hwbench_openvino import probe
from hwbench_openvino.ir import Ir
from hwbench_openvino.session import set_options
from hwbench_openvino.sites import XML

_TYPES = {"bfloat16": ov.Type.bf16, "float16": ov.Type.f16, "float32": ov.Type.f32}
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8"}
_LEVELS = 256
_UNCUT = frozenset(("Parameter", "Constant", "Result"))


@dataclass(frozen=True, eq=False)
class Codes:
    """How the 8-bit codes that a quantiser writes map to the numbers of the IR.

    Attributes:
        lowest: the code of the range's lower end.
        read: lower ends and steps of the numbers that the quantiser gives; they broadcast.
        fed: the same of those it takes: a number of its grid comes out as its code.
    """

    lowest: int
    read: tuple[Array, Array]
    fed: tuple[Array, Array]

    def encode(self, values: Array, dtype: str) -> Array:
        """Codes of numbers of the grid."""
        low, step = self.read
        return (np.rint((values.astype(np.float64) - low) / step) + self.lowest).astype(dtype)

    def decode(self, codes: Array) -> Array:
        """Numbers that the quantiser turns into these codes, float32."""
        low, step = self.fed
        return (low + (codes.astype(np.float64) - self.lowest) * step).astype(np.float32)


@dataclass(frozen=True)
class Edge:
    """A tensor that one kernel writes and another reads.

    Attributes:
        name: of the IR's operator that gives it; its output is ``port``.
        dtype: in which it is executed: a NumPy name or ``bfloat16``.
        position: of that operator among the IR's, in topological order.
        codes: for a quantised tensor, what its codes mean.
    """

    name: str
    port: int
    dtype: str
    position: int
    codes: Codes | None = None

    @property
    def label(self) -> str:
        """Unique name."""
        return f"{self.name}:{self.port}" if self.port else self.name

    @property
    def places(self) -> tuple[str, str]:
        """Names of the inputs that numbers are written with: where, and which."""
        return f"{self.label}/where", f"{self.label}/values"

    @property
    def type(self) -> ov.Type:
        """The element type that is fed."""
        return ov.Type.f32 if self.codes is not None else _TYPES[self.dtype]

    def stored(self, values: Array) -> Array:
        """What a part gave, in the executed form; bfloat16 as its bits."""
        return values if self.codes is None else self.codes.encode(values, self.dtype)

    def written(self, stored: Array, where: Array) -> dict[str, ov.Tensor]:
        """What is fed to write numbers of a tensor into some places: see ``Executed.scattered``."""
        tensor = self.tensor(stored)
        values = np.array(tensor.data[tuple(where.T)])
        chosen = ov.Tensor(values, values.shape, tensor.get_element_type())
        return dict(zip(self.places, (ov.Tensor(where.astype(np.int64)), chosen), strict=True))

    def tensor(self, stored: Array) -> ov.Tensor:
        """What is fed for it."""
        if self.codes is not None:
            return ov.Tensor(self.codes.decode(stored))
        array = np.ascontiguousarray(stored)
        if self.dtype == "bfloat16":
            return ov.Tensor(array, array.shape, ov.Type.bf16)
        return ov.Tensor(array)


class Part:
    """A compiled piece of the IR."""

    def __init__(
        self, compiled: ov.CompiledModel, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self._request = compiled.create_infer_request()
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def run(self, feeds: Mapping[str, ov.Tensor]) -> dict[str, Array]:
        """Arrays by output; feeds beyond the part's inputs are left out."""
        self._request.infer({i: feeds[name] for i, name in enumerate(self.inputs)})
        found = [self._request.get_output_tensor(i) for i in range(len(self.outputs))]
        return {name: _array(each) for name, each in zip(self.outputs, found, strict=True)}


def _array(tensor: ov.Tensor) -> Array:
    """A copy of a tensor; bfloat16 as its bits."""
    if tensor.get_element_type() == ov.Type.bf16:
        return np.array(tensor.data).view(np.uint16)  # NumPy has no bfloat16: shown as float16
    return np.array(tensor.data)


@dataclass
class Executed:
    """The IR of an artifact beside what the plugin makes of it.

    Attributes:
        artifact: what is deployed.
        core: with the deployed options.
        device: the plugin's name.
        model: the IR as read.
        edges: tensors between kernels, by label, in topological order.
        absent: data tensors of the IR that no kernel writes as they are, and why.
    """

    artifact: Artifact
    core: ov.Core
    device: str
    model: ov.Model
    edges: dict[str, Edge] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, artifact: Artifact, feeds: Mapping[str, Array]) -> Executed:
        """What the deployed session executes: some kernels are chosen at the first run only."""
        core = ov.Core()
        device = probe.require(core, artifact.environment)
        set_options(core, device, artifact.environment)
        made = cls(artifact, core, device, core.read_model(artifact.folder / XML))
        compiled = core.compile_model(made.model, device)
        compiled.create_infer_request().infer(dict(feeds))
        made._find(_written(compiled))
        return made

    def corrupted(self, folder_of: Artifact) -> Executed:
        """The same edges on the IR of a corrupted artifact."""
        model = self.core.read_model(folder_of.folder / XML)
        return Executed(folder_of, self.core, self.device, model, self.edges, self.absent)

    @cached_property
    def ops(self) -> tuple[Any, ...]:
        """Operators of the IR's main graph in topological order."""
        return tuple(self.model.get_ordered_ops())

    @cached_property
    def position(self) -> dict[str, int]:
        """Place of each operator by name."""
        return {op.get_friendly_name(): at for at, op in enumerate(self.ops)}

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Names of the operators that are the network's inputs."""
        return frozenset(each.get_friendly_name() for each in self.model.get_parameters())

    @cached_property
    def index(self) -> dict[str, int]:
        """Place of each layer in the file, which ``Site.order`` counts by."""
        return {layer.name: layer.index for layer in Ir(self.artifact.folder / XML).layers}

    @cached_property
    def data(self) -> frozenset[str]:
        """Operators whose outputs depend on the inputs' contents, not only on their shapes."""
        found: set[str] = set()
        for op in self.ops:
            kind, name = op.get_type_name(), op.get_friendly_name()
            if kind == "Parameter" or (kind != "ShapeOf" and found & set(_sources(op))):
                found.add(name)
        return frozenset(found)

    def first_reader(self, label: str) -> Any:
        """The first operator that reads an edge or an input."""
        edge = self.edges.get(label)
        if edge is None:
            source = next(e for e in self.model.get_parameters() if _input_name(e) == label)
            output = source.output(0)
        else:
            output = self.ops[edge.position].output(edge.port)
        found = [each.get_node() for each in output.get_target_inputs()]
        return min(found, key=lambda op: self.position[op.get_friendly_name()])

    @cached_property
    def reads(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Per operator, the outputs that it reads: name and port."""
        sources = [[port.get_source_output() for port in op.inputs()] for op in self.ops]
        return tuple(
            tuple((each.get_node().get_friendly_name(), each.get_index()) for each in found)
            for found in sources
        )

    def live(self, position: int) -> tuple[Edge, ...] | None:
        """Edges that ``position`` or a later operator reads and an earlier one writes.

        ``None`` where a fusion reaches over this place, so that a tensor there is in no memory.
        """
        found = dict[str, Edge]()
        for name, port in dict.fromkeys(each for reads in self.reads[position:] for each in reads):
            if self.position[name] >= position or name not in self.data or name in self.inputs:
                continue
            edge = self.edges.get(_label(name, port))
            if edge is None:
                return None
            found[edge.label] = edge
        return tuple(found.values())

    def reached(self, constant: str) -> int:
        """Position of the first operator whose output depends on a constant and on the inputs."""
        found = {constant}
        for position, reads in enumerate(self.reads):
            name = self.ops[position].get_friendly_name()
            if found & {each for each, _ in reads}:
                if name in self.data or self.ops[position].get_type_name() == "Result":
                    return position
                found.add(name)
        return len(self.ops)

    def part(
        self,
        outputs: Sequence[Edge] | None,
        fed: Collection[Edge] = (),
        operand: str = "",
        constants: Mapping[str, Array] | None = None,
    ) -> Part:
        """A piece of the IR from inputs and fed edges on.

        Args:
            outputs: edges to give; the model's outputs where ``None``.
            fed: edges that become inputs.
            operand: a constant that becomes an input.
            constants: constants by name with other bits, in their stored form.
        """
        model = self.model.clone()
        nodes = {op.get_friendly_name(): op for op in model.get_ops()}
        given = {_input_name(each): each for each in model.get_parameters()}
        for edge in fed:
            given[edge.label] = _feed(nodes, edge)
        if operand:
            given[operand] = _exposed(nodes[operand])
        for name, array in (constants or {}).items():
            _replaced(nodes[name], array)
        return self._compiled(model, nodes, outputs, given)

    def scattered(self, writes: Mapping[Edge, int], wanted: Edge | None = None) -> Part:
        """The whole network with numbers written into edges on its way: the naive route.

        Args:
            writes: dimensions of each edge's tensor. The part takes what ``Edge.written`` gives.
            wanted: an edge to give, as its kernel writes it; the network's outputs where ``None``.
        """
        model = self.model.clone()
        nodes = {op.get_friendly_name(): op for op in model.get_ops()}
        given = {_input_name(each): each for each in model.get_parameters()}
        for edge, rank in writes.items():
            output = nodes[edge.name].output(edge.port)
            targets = list(output.get_target_inputs())
            where = opset13.parameter(ov.PartialShape([-1, rank]), ov.Type.i64)
            values = opset13.parameter(ov.PartialShape([-1]), edge.type)
            for name, parameter in zip(edge.places, (where, values), strict=True):
                parameter.set_friendly_name(name)
                given[name] = parameter
            written = _written_into(output, edge, where, values)
            for target in targets:
                target.replace_source_output(written)
        return self._compiled(model, nodes, None if wanted is None else [wanted], given)

    def _compiled(
        self,
        model: ov.Model,
        nodes: Mapping[str, Any],
        outputs: Sequence[Edge] | None,
        given: Mapping[str, Any],
    ) -> Part:
        names = [spec.name for spec in self.artifact.outputs]
        results = model.get_results()
        if outputs is not None:
            names = [edge.label for edge in outputs]
            results = [opset13.result(_rounded(nodes[e.name].output(e.port), e)) for e in outputs]
        wanted = _reached(results)
        used = {name: each for name, each in given.items() if each.get_friendly_name() in wanted}
        built = ov.Model(results, list(used.values()), "part")
        return Part(self.core.compile_model(built, self.device), list(used), names)

    def _find(self, written: Mapping[str, list[str]]) -> None:
        """Edges: outputs of operators that end a kernel, in the kernel's precision."""
        for position, op in enumerate(self.ops):
            name = op.get_friendly_name()
            if name not in self.data or op.get_type_name() in _UNCUT:
                continue
            for port, output in enumerate(op.outputs()):
                kinds = {each.get_node().get_type_name() for each in output.get_target_inputs()}
                if not kinds - {"Result", "ShapeOf"}:
                    continue
                try:
                    edge = _edge(op, port, position, written.get(name))
                    self.edges[edge.label] = edge
                except Unsupported as reason:
                    self.absent[_label(name, port)] = str(reason)


def _edge(op: Any, port: int, position: int, precisions: Sequence[str] | None) -> Edge:
    """The edge that an output is.

    Raises:
        Unsupported: no kernel writes this tensor as it is.
    """
    name = op.get_friendly_name()
    if precisions is None or port >= len(precisions):
        raise Unsupported("it is fused into a kernel and is in no memory")
    dtype = _DTYPES.get(precisions[port], precisions[port])
    if dtype in ("uint8", "int8"):
        return Edge(name, port, dtype, position, _codes(op, dtype))
    if dtype not in _TYPES or str(op.output(port).get_element_type().get_type_name()) != "f32":
        raise Unsupported(f"its numbers are {dtype}")
    return Edge(name, port, dtype, position)


def _codes(op: Any, dtype: str) -> Codes:
    """The grid of a quantiser over a whole tensor."""
    if op.get_type_name() != "FakeQuantize" or op.get_attributes()["levels"] != _LEVELS:
        raise Unsupported("its codes are no quantiser's of 256 levels")
    bounds = [port.get_source_output().get_node() for port in op.inputs()[1:]]
    if any(each.get_type_name() != "Constant" for each in bounds):
        raise Unsupported("the bounds of its quantiser are computed")
    low_in, high_in, low_out, high_out = (np.asarray(e.data, np.float64) for e in bounds)
    steps = _LEVELS - 1
    read, fed = (low_out, (high_out - low_out) / steps), (low_in, (high_in - low_in) / steps)
    if not (np.all(read[1] > 0) and np.all(fed[1] > 0)):
        raise Unsupported("its quantiser has an empty range")
    return Codes(int(np.iinfo(dtype).min), read, fed)


def _written(compiled: ov.CompiledModel) -> dict[str, list[str]]:
    """Per operator that ends a kernel, the precisions of the kernel's outputs."""
    found: dict[str, list[str]] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {name: _text(value) for name, value in node.get_rt_info().items()}
        layers = [each for each in info.get("originalLayersNames", "").split(",") if each]
        if layers:
            found[layers[-1]] = info["outputPrecisions"].split(",")
    return found


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _label(name: str, port: int) -> str:
    return f"{name}:{port}" if port else name


def _sources(op: Any) -> Iterator[str]:
    for port in op.inputs():
        yield port.get_source_output().get_node().get_friendly_name()


def _input_name(parameter: Any) -> str:
    return str(parameter.output(0).get_any_name())


def _place(nodes: Mapping[str, Any], edge: Edge) -> tuple[Any, list[Any]]:
    """What gives an edge's numbers, and the inputs that are to take others instead.

    Codes are given by feeding the quantiser that writes them: its grid comes out unchanged.
    """
    if edge.codes is None:
        output = nodes[edge.name].output(edge.port)
        return output, list(output.get_target_inputs())
    quantised = nodes[edge.name].input(0)
    return quantised.get_source_output(), [quantised]


def _rounded(output: Any, edge: Edge) -> Any:
    """An edge's numbers in the executed type: left wider, a last kernel would not round them."""
    if edge.codes is not None or edge.dtype == "float32":
        return output
    return opset13.convert(output, _TYPES[edge.dtype].get_type_name()).output(0)


def _written_into(output: Any, edge: Edge, where: Any, values: Any) -> Any:
    """An edge with other numbers in some places, between the kernels that write and read it."""
    result = opset13.scatter_nd_update(_rounded(output, edge), where, values)
    if edge.codes is not None:  # once more, for codes again: numbers of the grid stay
        bounds = [port.get_source_output() for port in output.get_node().inputs()[1:]]
        return opset13.fake_quantize(result, *bounds, _LEVELS).output(0)
    if edge.dtype != "float32":
        return opset13.convert(result, "f32").output(0)
    return result.output(0)


def _feed(nodes: Mapping[str, Any], edge: Edge) -> Any:
    """Replace an edge by an input of the executed type; returns the parameter."""
    source, targets = _place(nodes, edge)
    parameter = opset13.parameter(source.get_partial_shape(), edge.type)
    parameter.set_friendly_name(f"{edge.label}/fed")
    given = parameter.output(0)
    if edge.type != ov.Type.f32:
        given = opset13.convert(parameter, "f32").output(0)
    for target in targets:
        target.replace_source_output(given)
    return parameter


def _exposed(constant: Any) -> Any:
    """Replace a constant by an input; returns the parameter."""
    output = constant.output(0)
    parameter = opset13.parameter(output.get_partial_shape(), output.get_element_type())
    parameter.set_friendly_name(f"{constant.get_friendly_name()}/fed")
    for target in list(output.get_target_inputs()):
        target.replace_source_output(parameter.output(0))
    return parameter


def _replaced(constant: Any, array: Array) -> None:
    """Put other bits of the same type in a constant's place, under its name."""
    output, name = constant.output(0), constant.get_friendly_name()
    tensor = ov.Tensor(output.get_element_type(), output.get_shape())
    tensor.data.reshape(-1).view(np.uint8)[:] = (
        np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    )
    new = ov.op.Constant(tensor)
    new.set_friendly_name(name)
    for target in list(output.get_target_inputs()):
        target.replace_source_output(new.output(0))


def _reached(results: Sequence[Any]) -> set[str]:
    """Names of everything that the results depend on."""
    found: set[str] = set()
    waiting = list(results)
    while waiting:
        op = waiting.pop()
        if op.get_friendly_name() not in found:
            found.add(op.get_friendly_name())
            waiting += [port.get_source_output().get_node() for port in op.inputs()]
    return found
