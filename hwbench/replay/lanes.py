"""Edits by lane and row, and which rows of two batches differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hwbench import edits as bits
from hwbench.backend import Array
from hwbench.edits import NO_ROW, Edits


def split(edits: Edits) -> list[Edits]:
    """The edits of each lane, from lane 0 to the last one named; a lane may have none."""
    count = int(edits.lane.max()) + 1 if len(edits) else 0
    return [edits.where(np.asarray(edits.lane == lane)) for lane in range(count)]


def in_lanes(patterns: Sequence[Edits]) -> Edits:
    """Patterns, one lane each; strata of a campaign draw over site lists of their own."""
    lane = np.repeat(np.arange(len(patterns), dtype=np.int32), [len(each) for each in patterns])
    return replace(bits.join(patterns), lane=lane)


def in_rows(parts: Sequence[Edits]) -> Edits:
    """The edits of each row of a batch, from row 0."""
    row = np.repeat(np.arange(len(parts), dtype=np.int64), [len(each) for each in parts])
    return replace(bits.concatenate(list(parts)), row=row)


def site_of(edits: Edits) -> str:
    """The one site that the edits concern.

    Raises:
        ValueError: they concern several sites, or none.
    """
    touched = edits.touched()
    if len(touched) != 1:
        raise ValueError(f"edits of one site are asked for, and these concern {len(touched)}")
    return touched[0]


def unsigned(array: Array) -> Array:
    """The same bytes as unsigned integers, so that NaN equals itself and 0 differs from -0."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def same(a: Array, b: Array) -> bool:
    """Whether two arrays are equal to the byte."""
    return a.shape == b.shape and a.dtype == b.dtype and bool((unsigned(a) == unsigned(b)).all())


def same_outputs(a: dict[str, Array], b: dict[str, Array]) -> bool:
    """Whether two sets of outputs are equal to the byte."""
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def differing(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Per row (first dimension) whether a byte differs, shape (rows,)."""
    result: npt.NDArray[np.bool_] = (unsigned(a) != unsigned(b)).reshape(len(a), -1).any(axis=1)
    return result


def apply_rows(batch: Array, edits: Edits) -> Array:
    """A copy of a batch with the edits, all of one tensor, carried out in the rows they name.

    Args:
        batch: shape (rows, ...).
        edits: each with a row of the batch; elements count within one row.

    Raises:
        IndexError: an edit names a row or an element that the batch does not have.
    """
    size = batch[0].size if len(batch) else 0
    if len(edits) and (edits.row.min() <= NO_ROW or edits.element.max() >= size):
        raise IndexError(f"an edit lies outside rows of {size} elements, or names no row")
    flat = bits.make(
        edits.sites, edits.site, edits.row * size + edits.element, edits.mask, edits.op
    )
    return bits.apply(batch, flat)


def new_values(stored: Array, edits: Edits) -> tuple[npt.NDArray[np.int64], Array]:
    """The touched elements and their numbers after the edits, without copying the whole tensor.

    Args:
        stored: the tensor in its stored form.
        edits: edits of this tensor, without rows.

    Returns:
        Flat element indices, ascending, shape (n,), and the numbers there, shape (n,).
    """
    touched, place = np.unique(edits.element, return_inverse=True)
    if len(touched) and (touched[0] < 0 or touched[-1] >= stored.size):
        raise IndexError(f"an edit lies outside a tensor of {stored.size} elements")
    small = bits.make(edits.sites, edits.site, place, edits.mask, edits.op)
    return touched, bits.apply(stored.reshape(-1)[touched], small)
