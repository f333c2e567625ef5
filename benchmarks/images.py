"""Inputs for networks that were not trained. Imports NumPy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def images(
    count: int, shape: tuple[int, int, int] = (3, 32, 32), seed: int = 0
) -> npt.NDArray[np.float32]:
    """Smooth random images, shape (count, channels, height, width)."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    coarse = rng.normal(0, 1, (count, channels, height // 8, width // 8))
    fine = rng.normal(0, 0.2, (count, *shape))
    return (coarse.repeat(8, axis=2).repeat(8, axis=3) + fine).astype(np.float32)
