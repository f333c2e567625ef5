"""Stored tensors as real numbers, and real numbers back as edits of the stored bits.

Scenarios that compute new weights (analog devices, noise) see what the bits mean; what is carried
out are ``write`` edits, so that every backend and proof that serves bit flips serves them too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwbench import edits
from hwbench.backend import Array, Site

Floats = npt.NDArray[np.float64]


def refusal(site: Site) -> str:
    """Why a site's stored bits have no real value here; empty where they have one."""
    if site.dtype in ("bfloat16", "int8") or np.dtype(site.dtype).kind == "f":
        return ""
    return (
        f"{site.name!r} is stored as {site.dtype}, whose zero point is not known here;"
        f" only real numbers and symmetric int8 codes can be rewritten"
    )


def decode(stored: Array, site: Site) -> Floats:
    """The values of a stored tensor, float64, in its shape.

    An int8 tensor gives its codes: the weights in units of their channel's scale, zero at zero.

    Raises:
        ValueError: the dtype has no real value; see ``refusal``.
    """
    reason = refusal(site)
    if reason:
        raise ValueError(reason)
    if site.dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def number(bits: int, dtype: str) -> float | int:
    """The value of one stored element's bits; integers give their code."""
    if dtype == "bfloat16":
        return float(np.uint32(bits << 16).view(np.float32))
    kind = np.dtype(dtype)
    return np.asarray(bits, dtype=f"u{kind.itemsize}").view(kind).item()  # type: ignore[no-any-return]


def encode(values: Floats, site: Site) -> Array:
    """The nearest storable tensor, as stored; int8 saturates at -127 and 127."""
    if site.dtype == "int8":
        # -128 is left out, as symmetric quantisers do, so that w and -w stay as far from zero.
        return np.clip(np.rint(values), -127, 127).astype(np.int8)
    if site.dtype == "bfloat16":
        return _bfloat16(values.astype(np.float32))
    return values.astype(site.dtype)


def _bfloat16(values: npt.NDArray[np.float32]) -> Array:
    """Upper halves of float32, rounded to nearest, ties to even; finite values only."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def rewrite(stored: Array, new: Array, names: tuple[str, ...], index: int) -> edits.Edits:
    """Write edits for the elements of site ``index`` whose stored bits change."""
    width = stored.dtype.itemsize
    before, after = (
        np.ascontiguousarray(each).reshape(-1).view(f"u{width}") for each in (stored, new)
    )
    element = np.flatnonzero(before != after)
    return edits.make(names, index, element, after[element], edits.Op.WRITE)
