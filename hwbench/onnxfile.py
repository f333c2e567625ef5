"""ONNX files as storage: which tensors they hold, who reads them, and how to change their bits.

Knows the file format and no runtime. Import it inside methods: it brings ``onnx`` with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from hwbench import edits as bits
from hwbench.backend import Array, Site, SiteKind, TensorSpec
from hwbench.edits import NO_ROW, Edits
from hwbench.errors import Unsupported

_MAX_BYTES = 2**31 - 1  # protobuf's limit for one message

_WEIGHT_BIAS: Mapping[int, SiteKind] = {1: "weight", 2: "bias"}
_EITHER_WEIGHT: Mapping[int, SiteKind] = {0: "weight", 1: "weight", 2: "bias"}
_RECURRENT: Mapping[int, SiteKind] = {1: "weight", 2: "weight", 3: "bias", 7: "weight"}
_QUANTISE: Mapping[int, SiteKind] = {1: "scale", 2: "zero_point"}
_QLINEAR: Mapping[int, SiteKind] = {
    1: "scale",
    2: "zero_point",
    3: "weight",
    4: "scale",
    5: "zero_point",
    6: "scale",
    7: "zero_point",
    8: "bias",
}
_INTEGER: Mapping[int, SiteKind] = {1: "weight", 2: "zero_point", 3: "zero_point"}
_DYNAMIC: Mapping[int, SiteKind] = {1: "weight", 2: "scale", 3: "zero_point", 4: "bias"}

# What an initializer in a given input slot is to the operator. Slots that are not listed (shapes,
# axes, clip bounds, gather indices) steer an operator: they are no sites.
_FLOAT_SLOTS: Mapping[str, Mapping[int, SiteKind]] = {
    "Conv": _WEIGHT_BIAS,
    "ConvTranspose": _WEIGHT_BIAS,
    "DeformConv": {1: "weight", 3: "bias"},
    "FusedConv": _WEIGHT_BIAS,
    "Gemm": _EITHER_WEIGHT,
    "FusedGemm": _EITHER_WEIGHT,
    "MatMul": _EITHER_WEIGHT,
    "FusedMatMul": _EITHER_WEIGHT,
    "Attention": _WEIGHT_BIAS,
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "BatchNormalization": {1: "weight", 2: "bias", 3: "weight", 4: "weight"},
    "InstanceNormalization": _WEIGHT_BIAS,
    "GroupNormalization": _WEIGHT_BIAS,
    "LayerNormalization": _WEIGHT_BIAS,
    "PRelu": {1: "weight"},
    "Gather": {0: "weight"},
    "Add": {0: "bias", 1: "bias"},
    "Sub": {0: "bias", 1: "bias"},
    "Mul": {0: "scale", 1: "scale"},
    "Div": {0: "scale", 1: "scale"},
}
_INTEGER_SLOTS: Mapping[str, Mapping[int, SiteKind]] = {
    "QuantizeLinear": _QUANTISE,
    "DequantizeLinear": _QUANTISE,
    "QLinearConv": _QLINEAR,
    "QLinearMatMul": _QLINEAR,
    # C comes before the output's scale and zero point here.
    "QGemm": {**_QLINEAR, 6: "bias", 7: "scale", 8: "zero_point"},
    "ConvInteger": _INTEGER,
    "MatMulInteger": _INTEGER,
    "MatMulIntegerToFloat": {
        1: "weight",
        2: "scale",
        3: "scale",
        4: "zero_point",
        5: "zero_point",
        6: "bias",
    },
    "DynamicQuantizeMatMul": _DYNAMIC,
    "DynamicQuantizeLSTM": {**_RECURRENT, 8: "scale", 9: "zero_point", 10: "scale"},
}
# Operators that hand their first input on: whoever reads their output is the consumer.
_QUANTISERS = frozenset(("QuantizeLinear", "DequantizeLinear"))
_RESHAPERS = frozenset(("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand"))
_TRANSPARENT = _QUANTISERS | _RESHAPERS | {"Cast", "Identity", "Slice", "Concat"}
# Operators whose arithmetic dominates: their precision is the model's.
_CONVOLUTIONS = frozenset(("Conv", "ConvTranspose", "DeformConv", "FusedConv"))
_PRODUCTS = frozenset(("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention"))
_COMPUTE = _CONVOLUTIONS | _PRODUCTS | {"LSTM", "GRU", "RNN"}
_COMPUTE_INTEGER = frozenset(_INTEGER_SLOTS) - _QUANTISERS

_FLOATS = frozenset(
    (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
)
_INTEGERS = frozenset(
    (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32)
)
_PRECISIONS = {
    int(TensorProto.FLOAT): "fp32",
    int(TensorProto.FLOAT16): "fp16",
    int(TensorProto.BFLOAT16): "bf16",
    int(TensorProto.DOUBLE): "fp64",
    int(TensorProto.INT8): "int8",
    int(TensorProto.UINT8): "int8",
}


@dataclass(frozen=True)
class Use:
    """One input slot of one operator, with the names visible to the operator resolved."""

    node: NodeProto
    slot: int
    order: int
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """Initializers of a model and the uses of every tensor, subgraphs included.

    Names are those of the file; inside a subgraph they start with where it hangs, such as
    ``If3.then_branch.``, because sibling branches may use the same names.
    """

    tensors: dict[str, TensorProto] = field(default_factory=dict)
    uses: dict[str, list[Use]] = field(default_factory=dict)


@dataclass(frozen=True)
class Operator:
    """An operator that computes with a stored weight."""

    name: str
    op_type: str
    domain: str
    stored: str
    executed: str
    outputs: tuple[str, ...]


def load(path: Path) -> ModelProto:
    """A model with everything in one message: external data read, initializers no longer inputs.

    Initializers that are also inputs could be overridden by a caller, so no optimiser may fold
    them; nobody feeds them here.
    """
    model = onnx.load(str(path))
    _require_small(model)
    for graph in graphs(model.graph):
        held = {each.name for each in graph.initializer}
        inputs = [each for each in graph.input if each.name not in held]
        del graph.input[:]
        graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # before 4, initializers had to be inputs
    return model


def read(path: Path) -> ModelProto:
    """A model that ``save`` wrote, as it is."""
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def write(model: ModelProto, path: Path) -> None:
    """Write a model as it is, the same bytes for the same model."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def save(model: ModelProto, path: Path) -> None:
    """Write a model in storage form: one file, nodes sorted, tensors raw."""
    sort(model.graph)
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_type in _FLOATS | _INTEGERS and not tensor.HasField("raw_data"):
                overwrite(tensor, stored(tensor))
    _require_small(model)
    write(model, path)


def _require_small(model: ModelProto) -> None:
    if model.ByteSize() > _MAX_BYTES:
        raise Unsupported("ONNX models above 2 GiB do not fit one file and are not handled")


def signature(model: ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a model that ``load`` has cleaned.

    Raises:
        Unsupported: one of them is no tensor.
    """
    graph = model.graph
    return tuple(map(_spec, graph.input)), tuple(map(_spec, graph.output))


def _spec(value: ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type == TensorProto.STRING:
        raise Unsupported(f"{value.name!r} is no tensor of numbers")
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return TensorSpec(value.name, shape, dtype.name)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and every graph inside it."""
    yield graph
    for node in graph.node:
        for _, inner in subgraphs(node):
            yield from graphs(inner)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    nodes = [node for function in model.functions for node in function.node]
    inner = [each for node in nodes for _, graph in subgraphs(node) for each in graphs(graph)]
    for graph in (*graphs(model.graph), *inner):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes += graph.node
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """Attribute name and graph of each subgraph of a node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            for position, graph in enumerate(attribute.graphs):
                yield f"{attribute.name}{position}", graph


def sort(graph: GraphProto) -> None:
    """Bring nodes into topological order; nodes that could go in any order keep theirs.

    Raises:
        ValueError: the graph has a cycle.
    """
    for node in graph.node:
        for _, inner in subgraphs(node):
            sort(inner)
    nodes = list(graph.node)
    order = _topological(nodes)
    if len(order) != len(nodes):
        raise ValueError(f"graph {graph.name!r} has a cycle")
    del graph.node[:]
    graph.node.extend(nodes[position] for position in order)


def _topological(nodes: list[NodeProto]) -> list[int]:
    """Positions of nodes in topological order, the earliest possible first."""
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs = [{producer[name] for name in reads(node) if name in producer} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for position, sources in enumerate(needs):
        for source in sources:
            readers[source].append(position)
    ready = [position for position, sources in enumerate(needs) if not sources]
    order: list[int] = []
    while ready:
        done = heapq.heappop(ready)
        order.append(done)
        for reader in readers[done]:
            needs[reader].discard(done)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    return order


def reads(node: NodeProto) -> set[str]:
    """Names a node reads, those its subgraphs take from outside included."""
    names = set(node.input)
    for _, graph in subgraphs(node):
        for inner in graph.node:
            names |= reads(inner)
    return names - {""}


def index(model: ModelProto) -> Index:
    """Who reads what in a model."""
    result = Index()
    _walk(model.graph, "", {}, 0, result)
    return result


def _walk(
    graph: GraphProto, prefix: str, outer: Mapping[str, str], order: int, result: Index
) -> int:
    own = [each.name for each in graph.initializer] + [each.name for each in graph.input]
    own += [name for node in graph.node for name in node.output]
    scope = {**outer, **{name: prefix + name for name in own}}
    result.tensors.update({scope[each.name]: each for each in graph.initializer})
    for node in graph.node:
        outputs = tuple(scope[name] for name in node.output)
        for slot, name in enumerate(node.input):
            if name:
                use = Use(node, slot, order, outputs)
                result.uses.setdefault(scope.get(name, name), []).append(use)
        place = f"{prefix}{node.op_type}{order}"
        order += 1
        for attribute, inner in subgraphs(node):
            order = _walk(inner, f"{place}.{attribute}.", scope, order, result)
    return order


def sites(model: ModelProto) -> list[Site]:
    """Every initializer whose numbers enter the arithmetic, in order of the first consumer."""
    found = index(model)
    result = []
    for name, tensor in found.tensors.items():
        for use in found.uses.get(name, [])[:1]:
            kind = _kind(found, use, tensor)
            if kind is not None:
                node, order = _site_end(found, use, tensor)
                dtype, shape = _dtype_name(tensor), tuple(tensor.dims)
                result.append(Site(name, kind, dtype, shape, node.op_type, node.name, order))
    return sorted(result, key=lambda site: site.order)


def _site_end(found: Index, use: Use, tensor: TensorProto) -> tuple[NodeProto, int]:
    end, _ = _end(found, use, tensor.data_type)
    return end.node, end.order


def _dtype_name(tensor: TensorProto) -> str:
    if tensor.data_type == TensorProto.BFLOAT16:
        return "bfloat16"
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).name


def _end(found: Index, use: Use, dtype: int) -> tuple[Use, int]:
    """The first real consumer behind operators that only hand on, and the dtype it reads."""
    while use.node.op_type in _TRANSPARENT:
        dtype = _handed_on(found, use, dtype)
        following = [each for name in use.outputs[:1] for each in found.uses.get(name, ())]
        if not following:
            break
        use = following[0]
    return use, dtype


def _handed_on(found: Index, use: Use, dtype: int) -> int:
    """Element type after a transparent operator."""
    if use.node.op_type == "Cast":
        return int(next(each.i for each in use.node.attribute if each.name == "to"))
    if use.node.op_type == "QuantizeLinear":
        return int(TensorProto.INT8)
    if use.node.op_type == "DequantizeLinear":
        scale = found.tensors.get(use.node.input[1])
        return int(scale.data_type if scale is not None else TensorProto.FLOAT)
    return dtype


def _kind(found: Index, use: Use, tensor: TensorProto) -> SiteKind | None:
    """What a tensor is to the kernel that reads it; ``None`` when it is no site."""
    if tensor.data_type not in _FLOATS | _INTEGERS or 0 in tensor.dims:
        return None
    slots = _INTEGER_SLOTS.get(use.node.op_type, {})
    if use.slot in slots:
        return slots[use.slot]
    end, dtype = _end(found, use, tensor.data_type)
    if use is not end and use.slot != 0 and use.node.op_type != "Concat":
        return None  # a shape, axes: not what is handed on
    slots = _INTEGER_SLOTS.get(end.node.op_type, {})
    if end.node.op_type not in _TRANSPARENT and end.slot in slots:
        return slots[end.slot]
    # Integers that no DequantizeLinear turns into numbers are shapes and indices.
    return _FLOAT_SLOTS.get(end.node.op_type, {}).get(end.slot) if dtype in _FLOATS else None


def operators(model: ModelProto) -> list[Operator]:
    """The operators that multiply with a stored weight, how it is stored and how it is read."""
    found = index(model)
    result: dict[int, Operator] = {}
    for name, tensor in found.tensors.items():
        for use in found.uses.get(name, ()):
            if _kind(found, use, tensor) != "weight":
                continue
            end, dtype = _end(found, use, tensor.data_type)
            if end.node.op_type in _COMPUTE | _COMPUTE_INTEGER:
                result.setdefault(end.order, _operator(end, tensor.data_type, dtype))
    return [result[order] for order in sorted(result)]


def _operator(end: Use, stored_as: int, read_as: int) -> Operator:
    node = end.node
    executed = "int8" if node.op_type in _COMPUTE_INTEGER else precision(read_as)
    kept = precision(stored_as)
    return Operator(node.name, node.op_type, node.domain, kept, executed, end.outputs)


def precision(data_type: int) -> str:
    """The name of an ONNX element type among the precisions."""
    return _PRECISIONS.get(data_type) or TensorProto.DataType.Name(data_type).lower()


def tensor(model: ModelProto, name: str) -> TensorProto:
    """The initializer that ``sites`` calls ``name``.

    Raises:
        ValueError: there is none.
    """
    return _held(index(model).tensors, name)


def _held(tensors: Mapping[str, TensorProto], name: str) -> TensorProto:
    if name not in tensors:
        raise ValueError(f"the model stores no tensor {name!r}")
    return tensors[name]


def stored(tensor: TensorProto) -> Array:
    """The tensor's numbers as stored; bfloat16 as its uint16 bits."""
    array: Array = numpy_helper.to_array(tensor)
    return array.view(np.uint16) if tensor.data_type == TensorProto.BFLOAT16 else array


def overwrite(tensor: TensorProto, array: Array) -> None:
    """Replace the tensor's numbers by ``array`` (same stored form), bit for bit."""
    for typed in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(typed)
    little_endian = array.dtype.newbyteorder("<")
    tensor.raw_data = np.ascontiguousarray(array, dtype=little_endian).tobytes()


def corrupt(model: ModelProto, edits: Edits) -> None:
    """Carry the edits out on the model's initializers.

    Raises:
        ValueError: an edit concerns an input or activation, or a tensor that is not there.
    """
    if np.any(edits.row != NO_ROW):
        raise ValueError("edits of single rows do not concern a stored tensor")
    tensors = index(model).tensors
    for name in edits.touched():
        held = _held(tensors, name)
        overwrite(held, bits.apply(stored(held), edits.at_site(name)))
