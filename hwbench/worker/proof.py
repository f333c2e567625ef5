"""Proof that faults landed: the bits read back are those that the edits make."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hwbench import edits
from hwbench.backend import Array


def wanted(before: Mapping[str, Array], drawn: edits.Edits) -> dict[str, Array]:
    """What the edits make of the tensors that they touch, by site."""
    return {name: edits.apply(before[name], drawn.at_site(name)) for name in drawn.touched()}


def landed(wanted: Mapping[str, Array], read: Callable[[str], Array]) -> None:
    """Compare the bytes of every tensor with those read back.

    Args:
        wanted: tensors as they should be, by site.
        read: gives a site's tensor as it is.

    Raises:
        RuntimeError: one differs.
    """
    for name, array in wanted.items():
        found = np.ascontiguousarray(read(name))
        if found.tobytes() != np.ascontiguousarray(array).tobytes():
            raise RuntimeError(f"edits did not land in {name!r}: its bits are not as asked")
