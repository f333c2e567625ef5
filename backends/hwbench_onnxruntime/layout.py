"""Where the elements of an artifact's tensors lie in the graph that is executed.

Optimisations reorder weights (NCHWc blocks). The permutation is found by optimising the same model
with every element numbered, and proven on the real bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from hwbench import onnxfile
from hwbench.backend import Array, Artifact, Site
from hwbench_onnxruntime.executed import Executed, optimise
from hwbench_onnxruntime.sites import path_of

_EXACT = 2**24  # float32 counts without gaps up to here


@dataclass(frozen=True)
class Copy:
    """A tensor of the executed graph that holds a site's elements.

    Attributes:
        name: of the executed graph's constant.
        position: flat position there of each element of the site, in the site's C order.
    """

    name: str
    position: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Copies of every site that could be located, and why the others could not."""

    copies: dict[str, tuple[Copy, ...]]
    refused: dict[str, str]


def trace(artifact: Artifact, executed: Executed, sites: Sequence[Site]) -> Layout:
    """Locate the sites of an artifact in its executed graph."""
    stored = onnxfile.index(onnxfile.read(path_of(artifact))).tensors
    numbered: dict[str, tuple[Copy, ...]] = {}
    for some in _countable_together([site for site in sites if _countable(site)]):
        numbered |= _numbered(artifact, executed, some)
    layout = Layout({}, {})
    for site in sites:
        found = numbered.get(site.name) or _same(executed, site)
        reason = _disproof(executed, onnxfile.stored(stored[site.name]), found)
        if reason:
            layout.refused[site.name] = reason
        else:
            layout.copies[site.name] = found
    return layout


def _countable(site: Site) -> bool:
    """Single numbers steer optimisers (is it 1, is it 0?) and so keep their value."""
    return site.dtype == "float32" and site.kind in ("weight", "bias") and site.size > 1


def _countable_together(sites: Sequence[Site]) -> list[list[Site]]:
    """Groups of sites whose elements can be numbered at once."""
    groups: list[list[Site]] = []
    count = _EXACT
    for site in sites:
        if count + site.size >= _EXACT:
            groups.append([])
            count = 0
        groups[-1].append(site)
        count += site.size
    return groups


def _same(executed: Executed, site: Site) -> tuple[Copy, ...]:
    """The constant of the same name, where there is one; the optimiser merges single numbers."""
    if site.name not in executed.constants or site.size == 1:
        return ()
    return (Copy(site.name, np.arange(site.size)),)


def _disproof(executed: Executed, stored: Array, copies: tuple[Copy, ...]) -> str:
    """Why the copies do not hold the stored bytes; empty if they do."""
    if not copies and stored.size == 1:
        return "the optimiser merges single numbers and decides by them"
    if not copies:
        return "the optimiser made other tensors of it"
    bits = stored.reshape(-1).view(f"u{stored.dtype.itemsize}")
    for copy in copies:
        held = onnxfile.stored(executed.constants[copy.name]).reshape(-1)
        if held.dtype != stored.dtype or held.size < stored.size:
            return "the optimiser changed its type or size"
        if not np.array_equal(held.view(bits.dtype)[copy.position], bits):
            return "the optimiser changed its values"
    return ""


def _numbered(
    artifact: Artifact, executed: Executed, sites: Sequence[Site]
) -> dict[str, tuple[Copy, ...]]:
    """Copies found by optimising a model whose elements carry their numbers."""
    model = onnxfile.read(path_of(artifact))
    tensors, starts, count = onnxfile.index(model).tensors, {}, 1
    for site in sites:
        if site.size >= _EXACT:
            return {}
        numbers = np.arange(count, count + site.size, dtype=np.float32)
        onnxfile.overwrite(tensors[site.name], numbers)
        starts[site.name] = count
        count += site.size
    probe = _optimised(artifact, model)
    if [n.op_type for n in probe.graph.node] != [n.op_type for n in executed.nodes]:
        return {}
    return _located(probe, starts, {site.name: site.size for site in sites})


def _optimised(artifact: Artifact, model: ModelProto) -> ModelProto:
    with tempfile.TemporaryDirectory() as scratch:
        numbered = replace(artifact, folder=Path(scratch))
        onnxfile.write(model, path_of(numbered))
        probe = optimise(numbered)
    onnxfile.sort(probe.graph)
    return probe


def _located(
    probe: ModelProto, starts: dict[str, int], sizes: dict[str, int]
) -> dict[str, tuple[Copy, ...]]:
    found: dict[str, list[Copy]] = {}
    firsts = np.array(sorted(starts.values()))
    names = sorted(starts, key=lambda name: starts[name])
    for tensor in probe.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        held = onnxfile.stored(tensor).reshape(-1).astype(np.float64)
        inside = np.flatnonzero((held >= 1) & (held < _EXACT) & (held == np.floor(held)))
        owners = np.searchsorted(firsts, held[inside], side="right") - 1
        for owner in np.unique(owners):
            name, mine = names[owner], inside[owners == owner]
            element = (held[mine] - starts[name]).astype(np.int64)
            if np.array_equal(np.sort(element), np.arange(sizes[name])):
                copy = Copy(tensor.name, mine[np.argsort(element)])
                found.setdefault(name, []).append(copy)
    return {name: tuple(copies) for name, copies in found.items()}
