"""Windows of maps: what a fault in one place can reach, and what is read around it.

Maps are seen as (rows, groups, height, width, lanes), whatever the runtime's layout; places outside
of a map count from below 0 or above its extent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reach:
    """A sliding operator along one axis.

    Attributes:
        span: places from the first to the last that one output reads.
        stride: places between the first ones of neighbouring outputs.
        pad: places before the map that the first output reads.
    """

    span: int = 1
    stride: int = 1
    pad: int = 0

    def outputs(self, start: Indices, size: int, extent: int) -> tuple[Indices, int]:
        """First outputs that read any of ``size`` places from ``start``, and how many at most.

        Args:
            start: first places, shape (n,).
            size: places.
            extent: outputs in all; windows stay within.
        """
        count = min((size + self.span - 2) // self.stride + 1, extent)
        first = -(-(start + self.pad - self.span + 1) // self.stride)
        return first.clip(0, extent - count), count

    def inputs(self, start: Indices, size: int) -> tuple[Indices, int]:
        """First places that ``size`` outputs from ``start`` read, and how many."""
        return start * self.stride - self.pad, (size - 1) * self.stride + self.span


@dataclass(frozen=True)
class Box:
    """Windows of one size, one a row.

    Attributes:
        top: first place down, shape (n,).
        left: first place across, shape (n,).
        height: places down.
        width: places across.
    """

    top: Indices
    left: Indices
    height: int
    width: int

    def take(self, which: slice | npt.NDArray[np.bool_]) -> Box:
        """The windows of some rows."""
        return Box(self.top[which], self.left[which], self.height, self.width)


def around(boxes: list[Box]) -> Box:
    """The smallest windows of one size that hold all the given ones, row by row."""
    if len(boxes) == 1:
        return boxes[0]
    top = np.minimum.reduce([each.top for each in boxes])
    left = np.minimum.reduce([each.left for each in boxes])
    bottom = np.maximum.reduce([each.top + each.height for each in boxes])
    right = np.maximum.reduce([each.left + each.width for each in boxes])
    return Box(top, left, int((bottom - top).max()), int((right - left).max()))


def inside(box: Box, height: int, width: int) -> Box:
    """The same windows moved into a map that they may stick out of."""
    tall, wide = min(box.height, height), min(box.width, width)
    return Box(box.top.clip(0, height - tall), box.left.clip(0, width - wide), tall, wide)


def padded(maps: Array, margins: tuple[int, int], fill: Any = 0) -> Array:
    """Maps with a margin around them, of places that hold ``fill``.

    Args:
        maps: shape (rows, groups, height, width, lanes), contiguous.
        margins: places above and below, and to the left and right.
        fill: the number there.
    """
    down, across = margins
    if not down and not across:
        return maps
    rows, groups, height, width, lanes = maps.shape
    shape = (rows, groups, height + 2 * down, width + 2 * across, lanes)
    made = np.full(shape, fill, maps.dtype)
    made[:, :, down : down + height, across : across + width] = maps
    return made


def crop(maps: Array, rows: Indices, box: Box) -> Array:
    """Windows of some rows, shape (n, groups, box height, box width, lanes).

    Args:
        maps: shape (rows, groups, height, width, lanes), contiguous.
        rows: one a window, shape (n,).
        box: where the windows lie, within the maps.
    """
    lines, place = _lines(maps, box), _places(maps.shape, rows, box)
    return lines[place].reshape(*place.shape, box.width, maps.shape[-1])


def put(target: Array, box: Box, windows: Array) -> None:
    """Write windows into maps, row by row and in place; what sticks out is left out.

    Args:
        target: shape (n, groups, height, width, lanes), contiguous.
        box: where they lie in the target.
        windows: shape (n, groups, box height, box width, lanes).
    """
    height, width = target.shape[2:4]
    down = ((box.top >= 0) & (box.top + box.height <= height)).all()
    if down and ((box.left >= 0) & (box.left + box.width <= width)).all():
        place = _places(target.shape, np.arange(len(target)), box)
        _lines(target, box)[place] = windows.reshape(*place.shape, -1)
        return
    for row, each in enumerate(windows):
        (there, here), (right, mine) = (
            _overlap(int(box.top[row]), box.height, height),
            _overlap(int(box.left[row]), box.width, width),
        )
        target[row, :, there, right] = each[:, here, mine]


def _overlap(start: int, size: int, extent: int) -> tuple[slice, slice]:
    """Places within an extent, and which of the window's they are."""
    first, last = max(start, 0), max(min(start + size, extent), 0)
    return slice(first, last), slice(first - start, max(last - start, 0))


def _lines(maps: Array, box: Box) -> Array:
    """What begins at each place and is as long as a box's line, shape (places, numbers)."""
    lanes = maps.shape[-1]
    flat = maps.reshape(-1)
    count = len(flat) // lanes - box.width + 1
    strides = (lanes * flat.itemsize, flat.itemsize)
    return np.lib.stride_tricks.as_strided(flat, (count, box.width * lanes), strides)


def _places(shape: tuple[int, ...], rows: Indices, box: Box) -> Indices:
    """Where the lines of boxes begin, shape (n, groups, box height)."""
    groups, height, width = shape[1:4]
    plane = rows[:, None] * groups + np.arange(groups)
    down = box.top[:, None] + np.arange(box.height)
    return (plane[:, :, None] * height + down[:, None]) * width + box.left[:, None, None]
