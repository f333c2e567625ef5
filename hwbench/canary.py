"""A workload that never changes, timed beside what is measured: how fast is this machine tonight?

A convolution of 3 x 3 with a ReLU over 32 planes of 64 x 64 in float32, as nine shifted
multiplications and additions in NumPy: arithmetic and memory of a small layer, on one thread,
without BLAS and without any runtime that a sweep is about. Had the canary run on such a runtime, an
update of it would slow both down, and vanish in their ratio.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

PLANES, SIDE, TAPS = 32, 64, 3
WARMUP_S, DURATION_S, LEAST = 0.02, 0.06, 15

Plane = npt.NDArray[np.float32]


def measure() -> float:
    """Median time of one pass in milliseconds; takes about 0.1 s."""
    padded, result, scratch = _arrays()
    _repeat(padded, result, scratch, WARMUP_S, 1)
    return float(np.median(_repeat(padded, result, scratch, DURATION_S, LEAST))) / 1e6


def layer(padded: Plane, result: Plane, scratch: Plane) -> None:
    """``result = relu(convolution of padded)``, the taps being 1/9, 2/9, ... 9/9.

    Args:
        padded: shape (planes, side + 2, side + 2).
        result: shape (planes, side, side), written.
        scratch: the same shape, overwritten.
    """
    result.fill(0)
    side = result.shape[-1]
    for tap in range(TAPS * TAPS):
        down, right = divmod(tap, TAPS)
        window = padded[:, down : down + side, right : right + side]
        np.multiply(window, np.float32((tap + 1) / TAPS**2), out=scratch)
        np.add(result, scratch, out=result)
    np.maximum(result, 0, out=result)


def _arrays() -> tuple[Plane, Plane, Plane]:
    count = PLANES * (SIDE + TAPS - 1) ** 2
    flat = np.arange(count, dtype=np.float32) % 17 - 8
    padded = flat.reshape(PLANES, SIDE + TAPS - 1, SIDE + TAPS - 1)
    result = np.empty((PLANES, SIDE, SIDE), np.float32)
    return padded, result, np.empty_like(result)


def _repeat(
    padded: Plane, result: Plane, scratch: Plane, duration_s: float, least: int
) -> list[int]:
    times: list[int] = []
    end = time.perf_counter_ns() + int(duration_s * 1e9)
    while len(times) < least or time.perf_counter_ns() < end:
        start = time.perf_counter_ns()
        layer(padded, result, scratch)
        times.append(time.perf_counter_ns() - start)
    return times
