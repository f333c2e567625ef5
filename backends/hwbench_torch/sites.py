"""The stored tensors of an artifact: which there are, their bits, and damaging them.

Everything here but ``table`` works on the file's bytes alone: no torch, no re-export, so damaging
an artifact costs as much as copying its weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench import files
from hwbench.backend import Array, Artifact, Site, SiteKind
from hwbench.edits import Edits, apply
from hwbench.errors import Unsupported

if TYPE_CHECKING:
    import torch

_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

PROGRAM = "program.pt2"
WEIGHTS = "weights.safetensors"

# Operators that hand a tensor on to the kernel proper, which is what a site is named after.
PASSING = ("dequantize", "t", "transpose", "permute", "view", "reshape", "to", "_to_copy", "clone")
# Operators that multiply by weights, by how their names begin.
MULTIPLIES = ("conv", "linear", "mm", "addmm", "bmm", "baddbmm", "matmul", "lstm", "gru", "rnn")
KINDS: Mapping[str, SiteKind] = {
    "bias": "bias",
    "running_mean": "bias",
    "scale": "scale",
    "scales": "scale",
    "zero_point": "zero_point",
    "zero_points": "zero_point",
}


def sites(artifact: Artifact) -> Sequence[Site]:
    """The stored tensors, in topological order of their first consumer."""
    return [Site(**{**row, "shape": tuple(row["shape"])}) for row in artifact.meta["sites"]]


def stored(artifact: Artifact, name: str) -> Array:
    """The tensor of site ``name`` as stored; bfloat16 as uint16 bits."""
    path = artifact.folder / WEIGHTS
    site = site_named(artifact, name)
    values: Array = np.fromfile(path, bits_dtype(site), site.size, offset=_offset(path, name))
    return values.reshape(site.shape)


def corrupt(artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
    """The artifact in ``folder`` with the edits in the bytes of its weights file."""
    (folder / PROGRAM).symlink_to((artifact.folder / PROGRAM).resolve())
    damaged = folder / WEIGHTS
    files.clone(artifact.folder / WEIGHTS, damaged)
    with damaged.open("r+b") as file:
        for name in edits.touched():
            values = apply(stored(artifact, name), edits.at_site(name))
            file.seek(_offset(damaged, name))
            file.write(values.tobytes())
    result = replace(artifact, folder=folder)
    result.save()
    return result


def site_named(artifact: Artifact, name: str) -> Site:
    """The site of that name.

    Raises:
        Unsupported: there is none; inputs and activations are not stored.
    """
    for site in sites(artifact):
        if site.name == name:
            return site
    raise Unsupported(f"{name} is not a tensor stored in the torch artifact")


def bits_dtype(site: Site) -> np.dtype[Any]:
    """The NumPy dtype in which a site's stored values are handed out."""
    return np.dtype("uint16" if site.dtype == "bfloat16" else site.dtype)


@dataclass(frozen=True)
class Entry:
    """A tensor in a safetensors file: torch's name of its dtype, and where its bytes begin."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


def header(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file: a length of 8 bytes, the JSON that it counts, bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        held = json.loads(file.read(length))
    held.pop("__metadata__", None)
    return {
        name: Entry(
            _SAFETENSORS[each["dtype"]], tuple(each["shape"]), 8 + length + each["data_offsets"][0]
        )
        for name, each in held.items()
    }


def _offset(path: Path, name: str) -> int:
    return header(path)[name].offset


def table(program: torch.export.ExportedProgram, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of ``sites`` of an exported program, to be kept with the artifact.

    Args:
        program: with lifted parameters and buffers.
        names: site name by parameter, buffer or constant of the program; shared tensors share one.
    """
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    labels = layers(program, names)
    rows: dict[str, dict[str, Any]] = {}
    for node, name in stored_nodes(program, names):
        first = min(node.users, key=order.__getitem__)
        consumer = _kernel(first)
        value = node.meta["val"]
        site = Site(
            name,
            _kind(node, first),
            str(value.dtype).removeprefix("torch."),
            tuple(value.shape),
            short_name(consumer),
            labels.get(consumer.name, consumer.name),
            order[consumer],
        )
        if site.kind == "weight" and site.dtype == "int64":
            continue  # indices: they steer an operator, and nothing multiplies by them
        if name not in rows or site.order < rows[name]["order"]:
            rows[name] = asdict(site)
    return sorted(rows.values(), key=lambda row: (row["order"], row["kind"] != "weight"))


def stored_nodes(
    program: torch.export.ExportedProgram, names: Mapping[str, str]
) -> Iterator[tuple[torch.fx.Node, str]]:
    """The placeholders of stored tensors that something reads, each with its site name."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        node = nodes[spec.arg.name]
        if spec.target is not None and node.users:
            yield node, names[spec.target]


def layers(program: torch.export.ExportedProgram, names: Mapping[str, str]) -> dict[str, str]:
    """A readable, unique label per weight-reading node: its weight's module, else its own name."""
    result: dict[str, str] = {}
    for consumer, weight in weight_readers(program, names):
        owner = weight.rpartition(".")[0]
        free = owner and owner not in result.values()
        result.setdefault(consumer.name, owner if free else consumer.name)
    return result


def operators(
    program: torch.export.ExportedProgram, names: Mapping[str, str]
) -> list[dict[str, str]]:
    """The operators that multiply by stored weights: node, layer label and the weights' dtype."""
    labels = layers(program, names)
    dtypes = {name: str(node.meta["val"].dtype) for node, name in stored_nodes(program, names)}
    rows = {
        node.name: {
            "node": node.name,
            "layer": labels[node.name],
            "stored": dtypes[name].removeprefix("torch."),
        }
        for node, name in weight_readers(program, names)
        if short_name(node).startswith(MULTIPLIES)
    }
    return [rows[node.name] for node in program.graph.nodes if node.name in rows]


def weight_readers(
    program: torch.export.ExportedProgram, names: Mapping[str, str]
) -> Iterator[tuple[torch.fx.Node, str]]:
    """The kernels that read weights, each with the site name of such a weight."""
    for node, name in stored_nodes(program, names):
        for user in node.users:
            if _kind(node, user) == "weight":
                yield _kernel(user), name


def short_name(node: torch.fx.Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``."""
    return str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", node.name))


def _kernel(node: torch.fx.Node) -> torch.fx.Node:
    """The first node from ``node`` on that does more than hand a tensor on."""
    return _path(node)[-1]


def _path(node: torch.fx.Node) -> list[torch.fx.Node]:
    """``node``, and where it only hands a tensor on, what follows up to the kernel."""
    name = short_name(node)
    passes = name in PASSING or name.startswith("dequantize_")
    return [node, *_path(next(iter(node.users)))] if passes and node.users else [node]


def _kind(node: torch.fx.Node, first: torch.fx.Node) -> SiteKind:
    """What a tensor is to its kernel, from the names of the arguments it arrives in."""
    path = [node, *_path(first)]
    for value, user in pairwise(path):
        argument = _argument(value, user)
        if argument in KINDS:
            return KINDS[argument]
    if short_name(path[-1]) == "addmm":
        return "bias" if argument == "self" else "weight"
    # Recurrent kernels take all parameters of a layer in one list.
    return "bias" if argument == "params" and node.meta["val"].ndim == 1 else "weight"


def _argument(node: torch.fx.Node, user: torch.fx.Node) -> str:
    """The name of the argument of ``user`` that ``node`` is, or is part of; empty if unknown."""
    schema = getattr(user.target, "_schema", None)
    named = [] if schema is None else [argument.name for argument in schema.arguments]
    given = [*zip(named, user.args, strict=False), *user.kwargs.items()]
    for name, value in given:
        if value is node or (isinstance(value, list | tuple) and node in value):
            return str(name)
    return ""
