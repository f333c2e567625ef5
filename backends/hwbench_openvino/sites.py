"""The constants of an IR as sites: found at build, read and damaged in the .bin."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from hwbench import edits as edit
from hwbench import files
from hwbench.backend import Array, Artifact, Site, SiteKind
from hwbench.edits import Edits
from hwbench.errors import RequestError
from hwbench_openvino.ir import ALIGNMENT, Constant, Ir, Layer, constant, free
from hwbench_openvino.names import OnnxNames

XML, BIN = "model.xml", "model.bin"

# Where the weights of an operator come in: input positions, counted from the end where negative.
RECURRENT = ("LSTM", "GRU", "RNN")
WEIGHTED = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "DeformableConvolution",
    "MatMul",
)
TABLES = ("Gather", "EmbeddingBagOffsets", "EmbeddingBagPacked", "EmbeddingSegmentsSum")
ELEMENTWISE: dict[str, SiteKind] = {
    "Add": "bias",
    "Subtract": "bias",
    "Multiply": "scale",
    "Divide": "scale",
    "PRelu": "weight",
}
RANGES = {1: "input_low", 2: "input_high", 3: "output_low", 4: "output_high"}


class _Use(NamedTuple):
    """What a constant is to the first operator that is not folded away at load.

    ``part`` is ``value``, or ``scale`` / ``zero_point`` where the constant only serves to
    dequantise another that arrives at the same ``port``, or the name of a quantiser's range.
    """

    layer: Layer
    port: int
    part: str
    scaled: bool


@dataclass(frozen=True)
class _Found:
    const: Layer
    place: Constant
    use: _Use
    kind: SiteKind


def survey(ir: Ir, names: OnnxNames) -> list[dict[str, Any]]:
    """Find and name the sites, and give the constants the names of their sites.

    Constants that are no numbers of the model (axes, shapes, indices, padding) are no sites.

    Returns:
        ``Site`` fields and ``constants``, the names of the ``Const`` layers that are the site.
    """
    found = [each for layer in ir.layers for each in _found(layer)]
    found.sort(key=lambda each: (each.use.layer.index, each.const.index))
    labels = _labels(found, names)
    ir.rename({each.const.index: labels[each.const.index] for each in found})
    groups = _groups(found)
    return [_entry(name, group) for name, group in groups.items()]


def sites(artifact: Artifact) -> Sequence[Site]:
    """See ``Backend.sites``."""
    return [_site(entry) for entry in artifact.meta["sites"]]


def stored(artifact: Artifact, name: str) -> Array:
    """See ``Backend.stored``."""
    place = _places(Ir(artifact.folder / XML), _entry_of(artifact, name))[0]
    return place.read(artifact.folder / BIN)


def corrupt(artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
    """See ``Backend.corrupt``.

    Equal constants share their bytes in the .bin. So that a fault hits the one it names, its
    damaged copy is appended and the constant's offset moved there.
    """
    ir = Ir(artifact.folder / XML)
    files.clone(artifact.folder / BIN, folder / BIN)
    with (folder / BIN).open("r+b") as weights:
        for name in edits.touched():
            entry = _entry_of(artifact, name)
            intact = _places(ir, entry)[0].read(artifact.folder / BIN)
            _move(ir, entry, _append(weights, edit.apply(intact, edits.at_site(name))))
    ir.save(folder / XML)
    damaged = replace(artifact, folder=folder)
    damaged.save()
    return damaged


def _found(layer: Layer) -> Iterator[_Found]:
    place = constant(layer) if layer.type == "Const" and layer.consumers else None
    if place is None:
        return
    use = _use(layer)
    kind = _kind(use)
    if place.dtype in ("int32", "int64") and not use.scaled:
        return  # axes, shapes and indices; a quantised bias is an int32 with a scale
    if kind is not None:
        yield _Found(layer, place, use, kind)


def _use(const: Layer) -> _Use:
    """Follow the first consumers until one is not folded at load."""
    layer, port = const.consumers[0]
    part, scaled = "value", False
    while True:
        if layer.type == "FakeQuantize" and port:
            return _Use(layer, port, RANGES[port], scaled)
        if not layer.constant or not layer.consumers:
            return _Use(layer, port, part, scaled)
        if port and layer.type in ("Multiply", "Subtract"):
            part = "scale" if layer.type == "Multiply" else "zero_point"
        scaled = scaled or layer.type == "Multiply"
        layer, port = layer.consumers[0]


def _kind(use: _Use) -> SiteKind | None:
    value = _kind_of_value(use)
    if value is None or use.part == "value":
        return value
    return "zero_point" if use.part == "zero_point" else "scale"


def _kind_of_value(use: _Use) -> SiteKind | None:
    layer, port = use.layer, use.port
    if layer.type in WEIGHTED or (layer.type in TABLES and port == 0):
        return "weight"
    if layer.type.startswith(RECURRENT):
        kinds: dict[int, SiteKind] = {-1: "bias", -2: "weight", -3: "weight"}
        return kinds.get(port - len(layer.sources))
    if layer.type == "FakeQuantize" and port:
        return "scale"
    return ELEMENTWISE.get(layer.type)


def _labels(found: list[_Found], names: OnnxNames) -> dict[int, str]:
    """Unique names of the constants, by the index of their layer."""
    labels: dict[int, str] = {}
    taken: set[str] = set()
    owners: dict[tuple[int, int], str] = {}
    values_first = sorted(found, key=lambda each: each.use.part != "value")
    for each in values_first:
        port = (each.use.layer.index, each.use.port)
        if each.use.part in RANGES.values():
            label = f"{each.use.layer.name}/{each.use.part}"
        elif each.use.part == "value":
            label = _label(each, names)
        else:
            label = f"{owners.get(port, each.use.layer.name)}/{each.use.part}"
        labels[each.const.index] = free(label, taken)
        owners.setdefault(port, labels[each.const.index])
    return labels


def _label(found: _Found, names: OnnxNames) -> str:
    """The initializer's own name where it can be found, else one after the layer."""
    own = found.const.name.removesuffix("_compressed")
    if names.is_initializer(own):
        return own
    layer, size = found.use.layer, int(np.prod(found.place.shape, dtype=np.int64))
    # Batch norm folded into a convolution leaves its name on the Add that follows.
    candidates = [layer, *(next_ for next_, _ in layer.consumers if next_.type == "Add")]
    for candidate in candidates:
        known = names.find(candidate.name, size, last=found.kind == "bias")
        if known is not None:
            return known
    return f"{layer.name.removesuffix('/WithoutBiases')}.{found.kind}"


def _groups(found: list[_Found]) -> dict[str, list[_Found]]:
    """Constants by site: a quantiser's input and output bound are one where they are one value.

    The file holds such a bound once, and damage there reaches both.
    """
    offsets: dict[str, set[int]] = {}
    for each in found:
        offsets.setdefault(_bound(each), set()).add(each.place.offset)
    groups: dict[str, list[_Found]] = {}
    for each in found:
        shared = len(offsets[_bound(each)]) == 1
        groups.setdefault(_bound(each) if shared else each.const.name, []).append(each)
    return groups


def _bound(found: _Found) -> str:
    """``quantiser/low`` or ``quantiser/high``; of other constants the name."""
    if found.use.part not in RANGES.values():
        return found.const.name
    return f"{found.use.layer.name}/{found.use.part.partition('_')[2]}"


def _entry(name: str, group: list[_Found]) -> dict[str, Any]:
    first = group[0]
    layer = first.use.layer
    shape = first.place.shape
    site = Site(name, first.kind, first.place.dtype, shape, layer.type, layer.name, layer.index)
    return {**asdict(site), "constants": [each.const.name for each in group]}


def _site(entry: dict[str, Any]) -> Site:
    fields = {key: value for key, value in entry.items() if key != "constants"}
    return Site(**{**fields, "shape": tuple(entry["shape"])})


def _entry_of(artifact: Artifact, name: str) -> dict[str, Any]:
    for entry in artifact.meta["sites"]:
        if entry["name"] == name:
            return dict(entry)
    raise RequestError(f"this artifact has no site {name!r}")


def _places(ir: Ir, entry: dict[str, Any]) -> list[Constant]:
    constants = ir.constants()
    places = [constant(constants[name]) for name in entry["constants"]]
    return [place for place in places if place is not None]


def _append(weights: BinaryIO, array: Array) -> int:
    """Append to the open .bin; returns the offset."""
    end = weights.seek(0, os.SEEK_END)
    offset = -(-end // ALIGNMENT) * ALIGNMENT
    weights.write(bytes(offset - end) + np.ascontiguousarray(array).tobytes())
    return offset


def _move(ir: Ir, entry: dict[str, Any], offset: int) -> None:
    constants = ir.constants()
    for name in entry["constants"]:
        data = constants[name].element.find("data")
        assert data is not None
        data.set("offset", str(offset))
