"""A user's own metrics: functions of a batch's outputs and labels, one value per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array

Function = Callable[[Array, "npt.NDArray[np.generic] | None"], Array]


def load(names: Sequence[str]) -> list[Function]:
    """The functions behind ``package.module:function`` names.

    Raises:
        RuntimeError: there is no such function.
    """
    found: list[Function] = []
    for name in names:
        module, _, function = name.partition(":")
        try:
            found.append(getattr(import_module(module), function))
        except (ImportError, AttributeError) as error:
            raise RuntimeError(f"metric {name!r} is not to be had: {error}") from error
    return found


def sums(
    names: Sequence[str],
    functions: Sequence[Function],
    outputs: Array,
    labels: npt.NDArray[np.generic] | None,
) -> list[float]:
    """Sum and number of the finite values of each metric over a batch, in the order of the names.

    Args:
        names: for messages.
        functions: by ``load``.
        outputs: of the scored output, shape (rows, ...).
        labels: of these rows, shape (rows,), or ``None``.

    Raises:
        RuntimeError: a metric does not give one number per row.
    """
    told: list[float] = []
    for name, function in zip(names, functions, strict=True):
        values = np.asarray(function(outputs, labels), dtype=np.float64)
        if values.shape != (len(outputs),):
            raise RuntimeError(
                f"metric {name!r} gives shape {values.shape} for {len(outputs)} rows:"
                " one number per row is asked for"
            )
        good = values[np.isfinite(values)]
        told += [float(good.sum()), float(good.size)]
    return told
