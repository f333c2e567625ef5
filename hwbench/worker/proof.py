"""Proof that faults landed: the bits read back are those that the edits make.

One tensor at a time, for they may be large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from hwbench import edits
from hwbench.backend import Array

Read = Callable[[str], Array]  # a site's tensor


def wanted(before: Read, drawn: edits.Edits) -> Read:
    """What the edits make of a tensor that they touch."""
    return lambda name: edits.apply(before(name), drawn.at_site(name))


def landed(names: Iterable[str], wanted: Read, read: Read) -> None:
    """Compare the bytes of every tensor with those read back.

    Args:
        names: sites.
        wanted: gives a tensor as it should be.
        read: gives it as it is.

    Raises:
        RuntimeError: one differs.
    """
    for name in names:
        if not _same_bytes(wanted(name), read(name)):
            raise RuntimeError(f"edits did not land in {name!r}: its bits are not as asked")


def _same_bytes(a: Array, b: Array) -> bool:
    """Whether the bits are the same, those of NaN and of the sign of zero included."""
    first, second = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (a, b))
    return np.array_equal(first, second)
