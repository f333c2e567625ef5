"""Where an ONNX file keeps its tensors' bytes: read one of them, change some, without the others.

A parsed model holds every weight in memory; a trial needs those that it hits. The file is walked
along protobuf's own framing: what is parsed has, in place of a tensor's bytes, where they lie.
For files that ``onnxfile.save`` wrote: one file, tensors raw, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from hwbench import edits as bits
from hwbench import files, onnxfile
from hwbench.backend import Array
from hwbench.edits import NO_ROW, Edits

_PLACE = struct.Struct("<QQ")  # offset in the file, number of bytes
_RAW = 9  # TensorProto.raw_data
_BYTES, _FIXED = 2, {1: 8, 5: 4}  # wire types of protobuf

# Fields to look into, by message: numbers in onnx.proto. Constants of attributes are no sites.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {6: "graph", 11: "graph"},
    "tensor": {},
}


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie in the file."""

    offset: int
    size: int


def skeleton(path: Path) -> ModelProto:
    """The model without its initializers' bytes: their ``raw_data`` says where those lie."""
    model = ModelProto()
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        model.ParseFromString(_without(view, "model", 0, len(view)))
    return model


def place(tensor: TensorProto) -> Place:
    """Where the bytes of a skeleton's initializer lie."""
    return Place(*_PLACE.unpack(tensor.raw_data))


def stored(path: Path, name: str) -> Array:
    """The initializer that ``onnxfile.sites`` calls ``name``, as stored; bfloat16 as uint16 bits.

    Raises:
        ValueError: there is none.
    """
    return _read(path, onnxfile.tensor(skeleton(path), name))


def corrupt(path: Path, target: Path, edits: Edits) -> None:
    """Write the model with the edits in the bytes of its initializers.

    Raises:
        ValueError: an edit concerns an input or activation, or a tensor that is not there.
    """
    if np.any(edits.row != NO_ROW):
        raise ValueError("edits of single rows do not concern a stored tensor")
    tensors = onnxfile.index(skeleton(path)).tensors
    absent = [name for name in edits.touched() if name not in tensors]
    if absent:
        raise ValueError(f"the model stores no tensor {absent[0]!r}")
    files.clone(path, target)
    with target.open("r+b") as file:
        for name in edits.touched():
            array = bits.apply(_read(path, tensors[name]), edits.at_site(name))
            file.seek(place(tensors[name]).offset)
            file.write(np.ascontiguousarray(array).data)


def _read(path: Path, tensor: TensorProto) -> Array:
    if tensor.data_type == TensorProto.BFLOAT16:
        dtype = np.dtype(np.uint16)
    else:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    at = place(tensor)
    array = np.fromfile(path, dtype, at.size // dtype.itemsize, offset=at.offset)
    return array.reshape(tuple(tensor.dims))


def _without(view: memoryview, kind: str, start: int, stop: int) -> bytes:
    """A message's bytes, with a place in place of every initializer's numbers."""
    parts: list[bytes] = []
    kept = start  # what lies between the fields that change is copied as it is
    for field, begin, first, last in _fields(view, start, stop):
        if kind == "tensor" and field == _RAW:
            inner = _PLACE.pack(first, last - first)
        elif field in _INSIDE[kind]:
            inner = _without(view, _INSIDE[kind][field], first, last)
        else:
            continue
        parts += [bytes(view[kept:begin]), _varint(field << 3 | _BYTES), _varint(len(inner)), inner]
        kept = last
    return b"".join([*parts, bytes(view[kept:stop])])


def _fields(view: memoryview, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, begin, begin of the content and end of each field of variable length."""
    at = start
    while at < stop:
        begin = at
        key, at = _number(view, at)
        wire = key & 7
        if wire == _BYTES:
            size, at = _number(view, at)
            yield key >> 3, begin, at, at + size
            at += size
        elif wire == 0:
            _, at = _number(view, at)
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise ValueError(f"protobuf has no wire type {wire}")


def _number(view: memoryview, at: int) -> tuple[int, int]:
    """A varint, and where the next thing begins."""
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
