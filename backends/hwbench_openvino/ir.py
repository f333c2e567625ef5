"""OpenVINO's IR as a file: layers and edges in an .xml, the constants' bytes in a .bin.

Read and written without the runtime, so that a fault lands in the stored bytes and nowhere else.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hwbench.backend import Array

# IR element types that NumPy can hold, by name in a Site; bfloat16 is read as its bits.
DTYPES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "u8": "uint8",
    "i32": "int32",
    "i64": "int64",
}
ALIGNMENT = 64  # of appended constants: what the widest vector loads want

# The front end numbers what it invents with a counter of the process: Constant_66347, Reshape_15.
_NUMBERED = re.compile(r"^([A-Z][A-Za-z0-9]*)_\d+(?=$|[_/.])")


@dataclass(eq=False)
class Layer:
    """An operation of the IR, or of a body nested in one (``If``, ``Loop``).

    Attributes:
        element: its XML.
        index: position in document order, which is topological within a body.
        sources: what feeds it, by input port, in port order.
        consumers: whom it feeds: (layer, input position).
        constant: whether nothing but constants feeds it, so that it is folded at load.
    """

    element: ET.Element
    index: int
    sources: list[Layer] = field(default_factory=list)
    consumers: list[tuple[Layer, int]] = field(default_factory=list)
    constant: bool = False

    @property
    def name(self) -> str:
        """The friendly name."""
        return self.element.get("name", "")

    @property
    def type(self) -> str:
        """Operation type; a constant is ``Const``."""
        return self.element.get("type", "")


@dataclass(frozen=True)
class Constant:
    """Where a constant lies in the .bin, and how to read it."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def read(self, weights: Path) -> Array:
        """The stored tensor; bfloat16 as its uint16 bits."""
        dtype = np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)
        array = np.fromfile(weights, dtype, self.size // dtype.itemsize, offset=self.offset)
        return array.reshape(self.shape)


def constant(layer: Layer) -> Constant | None:
    """The place of a ``Const`` layer's bytes; ``None`` for types NumPy cannot hold, and empty."""
    data = layer.element.find("data")
    if data is None or data.get("element_type") not in DTYPES:
        return None
    shape = tuple(int(size) for size in data.get("shape", "").split(",") if size.strip())
    place = Constant(
        DTYPES[data.attrib["element_type"]], shape, int(data.get("offset", 0)),
        int(data.get("size", 0)),
    )  # fmt: skip
    return place if place.size else None


class Ir:
    """A parsed .xml."""

    def __init__(self, xml: Path) -> None:
        self._tree = ET.parse(xml)
        self.layers = [
            Layer(each, index) for index, each in enumerate(self._tree.getroot().iter("layer"))
        ]
        self._connect()

    def constants(self) -> dict[str, Layer]:
        """``Const`` layers by name."""
        return {layer.name: layer for layer in self.layers if layer.type == "Const"}

    def save(self, xml: Path) -> None:
        """Write the .xml."""
        self._tree.write(xml, encoding="utf-8", xml_declaration=True)

    def renumber(self, given: Collection[str]) -> None:
        """Number invented names by position, so that equal models have equal files.

        Args:
            given: names that come from the model and are kept.
        """
        taken = {layer.name for layer in self.layers} | set(given)
        renamed: dict[str, str] = {}
        for layer in self.layers:
            found = _NUMBERED.match(layer.name)
            if found and found[0] not in given and layer.name not in given:
                base = renamed.setdefault(found[0], f"{found[1]}.{len(renamed)}")
                layer.element.set("name", free(base + layer.name[found.end() :], taken))

    def rename(self, names: dict[int, str]) -> None:
        """Give layers (by index) new names; another layer that holds one of them gives way."""
        wanted = set(names.values())
        taken = wanted | {layer.name for layer in self.layers}
        for layer in self.layers:
            if layer.index in names:
                layer.element.set("name", names[layer.index])
            elif layer.name in wanted:
                layer.element.set("name", free(f"{layer.name}/{layer.type}", taken))

    def _connect(self) -> None:
        by_element = {layer.element: layer for layer in self.layers}
        for net in self._tree.getroot().iter():
            layers = net.find("layers")
            if layers is not None:
                by_id = {each.attrib["id"]: by_element[each] for each in layers}
                for source, target in _edges(net):
                    _join(by_id[source], by_id[target])
        for layer in self.layers:  # sources come first in document order
            fed = bool(layer.sources) and all(source.constant for source in layer.sources)
            layer.constant = fed or layer.type == "Const"


def _edges(net: ET.Element) -> Iterator[tuple[str, str]]:
    """(from, to) layer ids of one body, in the order of the input ports."""
    edges = net.find("edges")
    found = () if edges is None else sorted(edges, key=lambda each: int(each.attrib["to-port"]))
    for each in found:
        yield each.attrib["from-layer"], each.attrib["to-layer"]


def _join(source: Layer, target: Layer) -> None:
    source.consumers.append((target, len(target.sources)))
    target.sources.append(source)


def free(name: str, taken: set[str]) -> str:
    """``name``, or with a suffix where it is taken; takes it."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}#{count}"
    taken.add(candidate)
    return candidate
