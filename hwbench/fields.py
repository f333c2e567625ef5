"""Which bits of a stored element mean what: sign, exponent and mantissa, or places of an integer.

Scenarios restrict faults to fields, and tables tell them apart; both mean the same bits by them.
"""

from __future__ import annotations

import numpy as np

# Widths of exponent and mantissa, below one sign bit (IEEE 754, and bfloat16).
_FLOATS = {"float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23), "float64": (11, 52)}
_BYTE = 8

SEVERAL = "several"  # the name of what lies in more than one field


def fields(dtype: str) -> dict[str, tuple[int, ...]]:
    """The fields of an element and their bits, 0 the lowest; every bit is in exactly one.

    Integers of a byte have each bit as a field of its own (``bit 7``), wider ones each byte
    (``bits 24-31``): what an integer's bits do depends on nothing but their place.
    """
    if dtype in _FLOATS:
        exponent, mantissa = _FLOATS[dtype]
        return {
            "mantissa": tuple(range(mantissa)),
            "exponent": tuple(range(mantissa, mantissa + exponent)),
            "sign": (mantissa + exponent,),
        }
    width = _BYTE * np.dtype(dtype).itemsize
    if width == _BYTE:
        return {f"bit {bit}": (bit,) for bit in range(width)}
    lows = range(0, width, _BYTE)
    return {f"bits {low}-{low + _BYTE - 1}": tuple(range(low, low + _BYTE)) for low in lows}


def field_of(dtype: str, mask: int) -> str:
    """The field that holds every bit of ``mask``; ``SEVERAL`` where none does."""
    for name, bits in fields(dtype).items():
        if mask and not mask & ~sum(1 << bit for bit in bits):
            return name
    return SEVERAL
