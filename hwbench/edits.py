"""Edits: the faults of a pattern as arrays, and the one place that applies them to stored bits.

Scenarios draw edits, backends carry them out, neither changes bits by itself: a flip means the
same on every runtime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

NO_ROW = -1  # the edit concerns the stored tensor, not one row of a batch


class Op(IntEnum):
    """What an edit does to the masked bits of an element."""

    FLIP = 0
    SET = 1
    CLEAR = 2
    WRITE = 3  # the element becomes the mask


@dataclass(frozen=True, eq=False)
class Edits:
    """The faults of one pattern, one array entry per edited element.

    Attributes:
        sites: names of the sites that ``site`` indexes.
        site: index into ``sites``, int32, shape (n,).
        element: flat (C order) index into the site's tensor, int64. For edits with a row it
            counts within one row.
        mask: bits concerned, in the element's stored width, uint64.
        op: an ``Op`` value, uint8.
        row: dataset sample index for inputs and activations, or ``NO_ROW``, int64.
        lane: which of several patterns run together, int32.
    """

    sites: tuple[str, ...]
    site: npt.NDArray[np.int32]
    element: npt.NDArray[np.int64]
    mask: npt.NDArray[np.uint64]
    op: npt.NDArray[np.uint8]
    row: npt.NDArray[np.int64]
    lane: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return int(self.site.shape[0])

    @property
    def n_bits(self) -> int:
        """Bits named by the masks: the number of flipped bits where every op is a flip."""
        return int(np.bitwise_count(self.mask).sum())

    def digest(self) -> str:
        """A content hash, independent of the order in which the edits were drawn."""
        order = np.lexsort((self.mask, self.op, self.element, self.row, self.lane, self.site))
        content = hashlib.blake2b(digest_size=16)
        content.update("\0".join(self.sites).encode())
        for array in (self.site, self.element, self.mask, self.op, self.row, self.lane):
            content.update(np.ascontiguousarray(array[order]).tobytes())
        return content.hexdigest()

    def touched(self) -> tuple[str, ...]:
        """Names of the sites that at least one edit concerns."""
        return tuple(self.sites[i] for i in np.unique(self.site))

    def where(self, keep: npt.NDArray[np.bool_]) -> Edits:
        """The edits for which ``keep`` (shape (n,)) is true."""
        return Edits(
            self.sites,
            self.site[keep],
            self.element[keep],
            self.mask[keep],
            self.op[keep],
            self.row[keep],
            self.lane[keep],
        )

    def at_site(self, name: str) -> Edits:
        """The edits of one site."""
        return self.where(np.asarray(self.site == self.sites.index(name)))

    def at_row(self, row: int) -> Edits:
        """The edits of one dataset sample."""
        return self.where(np.asarray(self.row == row))

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` without pickles."""
        np.savez(
            path,
            sites=np.asarray(self.sites, dtype=np.str_),
            site=self.site,
            element=self.element,
            mask=self.mask,
            op=self.op,
            row=self.row,
            lane=self.lane,
        )

    @classmethod
    def load(cls, path: Path) -> Edits:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                tuple(str(name) for name in arrays["sites"]),
                *(arrays[key] for key in ("site", "element", "mask", "op", "row", "lane")),
            )


def make(
    sites: tuple[str, ...],
    site: npt.ArrayLike,
    element: npt.ArrayLike,
    mask: npt.ArrayLike,
    op: Op | npt.ArrayLike = Op.FLIP,
    row: npt.ArrayLike = NO_ROW,
    lane: npt.ArrayLike = 0,
) -> Edits:
    """Edits from anything array-like; scalars are repeated to the length of ``element``."""
    elements = np.atleast_1d(np.asarray(element, dtype=np.int64))
    shape = elements.shape

    def spread(value: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=dtype), shape))

    return Edits(
        tuple(sites),
        spread(site, np.int32),  # type: ignore[arg-type]
        elements,
        spread(mask, np.uint64),  # type: ignore[arg-type]
        spread(op, np.uint8),  # type: ignore[arg-type]
        spread(row, np.int64),  # type: ignore[arg-type]
        spread(lane, np.int32),  # type: ignore[arg-type]
    )


def none(sites: tuple[str, ...] = ()) -> Edits:
    """No edits at all."""
    return make(sites, [], [], [])


def concatenate(parts: list[Edits]) -> Edits:
    """One ``Edits`` of several over the same site list."""
    if not parts:
        return none()
    if any(part.sites != parts[0].sites for part in parts):
        raise ValueError("edits over different site lists cannot be joined")
    columns = ("site", "element", "mask", "op", "row", "lane")
    return Edits(
        parts[0].sites,
        *(np.concatenate([getattr(part, column) for part in parts]) for column in columns),
    )


def join(parts: Sequence[Edits]) -> Edits:
    """One ``Edits`` of several, each over a site list of its own."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.sites))
    places = [np.array([names.index(name) for name in part.sites], np.int32) for part in parts]
    return concatenate(
        [
            replace(part, sites=names, site=place[part.site])
            for part, place in zip(parts, places, strict=True)
        ]
    )


def apply(stored: npt.NDArray[np.generic], edits: Edits) -> npt.NDArray[np.generic]:
    """A copy of ``stored`` with the edits (all of one site, without rows) carried out on its bits.

    Args:
        stored: the tensor in its stored dtype, any shape; items of 1, 2, 4 or 8 bytes.
        edits: edits whose elements index ``stored`` in C order.

    Raises:
        IndexError: an edit names an element or a bit that the tensor does not have.
    """
    result = np.array(stored, order="C", copy=True)
    width = result.dtype.itemsize
    bits = result.reshape(-1).view(f"u{width}")
    if len(edits) and (edits.element.min() < 0 or edits.element.max() >= bits.size):
        raise IndexError(f"an edit lies outside a tensor of {bits.size} elements")
    if width < 8 and np.any(edits.mask >> np.uint64(8 * width)):
        raise IndexError(f"an edit names a bit beyond the {8 * width} of {result.dtype}")
    for op, carry_out in (
        (Op.FLIP, np.bitwise_xor),
        (Op.SET, np.bitwise_or),
        (Op.CLEAR, np.bitwise_and),
    ):
        chosen = edits.op == op
        mask = edits.mask[chosen].astype(bits.dtype)
        carry_out.at(bits, edits.element[chosen], ~mask if op is Op.CLEAR else mask)
    written = edits.op == Op.WRITE
    bits[edits.element[written]] = edits.mask[written].astype(bits.dtype)
    return result
