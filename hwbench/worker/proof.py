"""Proof that a fault landed: the bits read back are those that the edits make."""

from __future__ import annotations

import numpy as np

from hwbench.backend import Array


def landed(name: str, wanted: Array, found: Array) -> None:
    """Compare two tensors bit by bit, NaN and the sign of zero included.

    Args:
        name: of their site.
        wanted: what the edits make of the tensor.
        found: what was read back.

    Raises:
        RuntimeError: they differ.
    """
    first, second = (np.ascontiguousarray(each).reshape(-1) for each in (wanted, found))
    if not np.array_equal(first.view(np.uint8), second.view(np.uint8)):
        raise RuntimeError(f"edits did not land in {name!r}: its bits are not as asked")
