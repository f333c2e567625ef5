"""Static int8 quantisation by torchao (PT2E), with its recipe for x86 CPUs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

Consumer = tuple[str, int]  # a node's name, and which of its arguments


def quantise(
    program: ExportedProgram, batches: Iterable[tuple[torch.Tensor, ...]], reduced: bool = False
) -> tuple[nn.Module, dict[str, str]]:
    """The quantised reference module: weights int8 and dequantised where they are used.

    With ``reduced``, activations take 7 bits: torchao's own remedy for CPUs without VNNI.

    Returns:
        The module, and the name of the original parameter by the name of each tensor made of it
        (``conv1.weight``, ``conv1.weight.scale``, ``conv1.weight.zero_point``).
    """
    float_module = program.module(check_guards=False)
    assert isinstance(float_module, GraphModule)
    originals = _parameters(float_module)
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(reduce_range=reduced))
    prepared = prepare_pt2e(float_module, quantizer)
    with torch.no_grad():
        for batch in batches:
            prepared(*batch)
    converted: GraphModule = convert_pt2e(prepared)
    renamed = _renamed(converted, originals)
    _drop_unused(converted)
    return converted, renamed


def _parameters(module: GraphModule) -> dict[Consumer, str]:
    """Which parameter each argument of each node is."""
    return {
        (node.name, index): str(argument.target)
        for node in module.graph.nodes
        for index, argument in enumerate(node.args)
        if isinstance(argument, Node) and argument.op == "get_attr"
    }


def _renamed(module: GraphModule, originals: dict[Consumer, str]) -> dict[str, str]:
    """Names after the original parameters for the tensors that were made of them."""
    taken = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    names: dict[str, str] = {}
    for node in module.graph.nodes:
        for index, argument in enumerate(node.args):
            original = originals.get((node.name, index))
            if original is None or not _dequantises(argument):
                continue
            parts = [str(part.target) for part in argument.args[:3] if isinstance(part, Node)]
            # A parameter that is shared may be read as float elsewhere, or quantised twice.
            stem = f"{original}@{node.name}" if original in taken else original
            if parts[0] not in names:
                taken.add(stem)
                ends = ("", ".scale", ".zero_point")
                names.update({part: stem + end for part, end in zip(parts, ends, strict=False)})
    return names | _folded_biases(taken)


def _folded_biases(targets: set[str]) -> dict[str, str]:
    """``conv1.bias`` for ``conv1.weight_bias``, as folding calls the bias it makes."""
    folded = {name: f"{name.removesuffix('weight_bias')}bias" for name in targets}
    return {name: new for name, new in folded.items() if _is_folded(name) and new not in targets}


def _is_folded(name: str) -> bool:
    return name.rpartition(".")[2] == "weight_bias"


def _dequantises(argument: object) -> bool:
    return isinstance(argument, Node) and "dequantize_per_channel" in str(argument.target)


def _drop_unused(module: GraphModule) -> None:
    """Delete the float weights that quantisation left behind: nothing deploys them."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    for name in held.keys() - used:
        owner, _, attribute = name.rpartition(".")
        delattr(module.get_submodule(owner), attribute)
