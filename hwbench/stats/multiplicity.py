"""Many comparisons at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def holm(p_values: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P-values adjusted by Holm's step-down method (1979), in the order given.

    Rejecting where the result is at most alpha keeps the chance of *any* false rejection at alpha,
    whatever the dependence between the tests. A NaN (no test was possible) stays NaN and is not
    counted as a comparison.

    Args:
        p_values: shape (n,), each within 0..1 or NaN.

    Raises:
        ValueError: if a value is no probability.
    """
    values = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    if np.any((values[tested] < 0) | (values[tested] > 1)):
        raise ValueError("a p-value lies within 0..1")
    order = tested[np.argsort(values[tested], kind="stable")]
    steps = values[order] * np.arange(order.size, 0, -1)
    adjusted = np.full(values.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
