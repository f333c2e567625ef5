"""``python -m hwbench_scenarios.load KIND``: a small load, where stress-ng is not installed."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import numpy as np

PR_SET_PDEATHSIG = 1
STREAM_BYTES = 256 * 2**20  # beyond any cache
CACHE_BYTES = 8 * 2**20  # a good part of a shared cache
LINE = 64


def cpu() -> Callable[[], object]:
    """Arithmetic that stays within a core."""
    small = np.random.default_rng(0).random((64, 64))
    return lambda: small @ small


def memory() -> Callable[[], object]:
    """Copies from and to RAM."""
    source = np.ones(STREAM_BYTES // 2, np.uint8)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)


def cache() -> Callable[[], object]:
    """Lines touched in random order."""
    held = np.zeros(CACHE_BYTES, np.uint8)
    order = np.random.default_rng(0).permutation(CACHE_BYTES // LINE) * LINE
    return lambda: held[order]


KINDS: dict[str, Callable[[], Callable[[], object]]] = {
    "cpu": cpu,
    "memory": memory,
    "cache": cache,
}


def main() -> NoReturn:
    """Load the machine until killed; a line tells that it has begun."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    step = KINDS[sys.argv[1]]()
    step()
    print("begun", flush=True)
    while True:
        step()


if __name__ == "__main__":
    main()
