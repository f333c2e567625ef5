"""What the scenarios share that change real-valued inputs sample by sample within a range."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array, TensorSpec
from hwbench.scenario import TransformPerturbation, parameter
from hwbench.seeds import Key
from hwbench_scenarios.layout import Layout, layout_of, unreadable

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RangedInput(TransformPerturbation):
    """A change of one sample at a time that knows the range of the input.

    The range is ``low`` to ``high``; where they are not given, the whole dataset's extremes.
    """

    low: float | None = parameter(None, "lower end of the input's range; the dataset's if absent")
    high: float | None = parameter(None, "upper end of the input's range; the dataset's if absent")

    def __post_init__(self) -> None:
        """Refuse a range that is none."""
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) lies below high ({self.high:g})")

    @property
    def target(self) -> Literal["weights", "inputs", "activations"]:
        """Inputs alone."""
        return "inputs"

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """Each sample has a draw of its own."""
        return "sample"

    def refuses(self, tensor: TensorSpec) -> str:
        """Integers (token ids, indices) have no range; the shape must tell where time is."""
        if not np.issubdtype(np.dtype(tensor.dtype), np.floating):
            return (
                f"{self.name} needs a real-valued input, and {tensor.name!r} is {tensor.dtype}:"
                f" the distance between two token ids or indices means nothing."
                f" Hint: bitflip takes integers"
            )
        if layout_of(tensor.shape[1:]) is None:
            return unreadable(tensor.name, tensor.shape)
        return ""

    def fit(self, whole: Array) -> Self:
        """The same with the range of the whole input."""
        low = float(whole.min()) if self.low is None else self.low
        high = float(whole.max()) if self.high is None else self.high
        # A constant input has no range of its own; any will do, for nothing can be seen in it.
        return replace(self, low=low, high=high if high > low else low + 1.0)

    def transform(
        self, array: Array, samples: npt.NDArray[np.int64], key: Key
    ) -> tuple[Array, npt.NDArray[np.float64]]:
        """The changed samples, and what each of them got."""
        layout = layout_of(array.shape[1:])
        if layout is None:
            raise ValueError(unreadable("input", array.shape))
        if self.low is None or self.high is None:
            raise ValueError(f"{self.name} needs the range of the whole input: call fit")
        changed, achieved = np.empty_like(array), np.empty(len(array))
        for position, sample in enumerate(samples):
            place = () if self.unit == "pattern" else (int(sample),)
            signal = array[position].astype(np.float64)
            new, achieved[position] = self.change(signal, layout, key.generator(*place))
            changed[position] = new
        return changed, achieved

    @property
    def range(self) -> tuple[float, float]:
        """Lower and upper end, once they are known."""
        assert self.low is not None and self.high is not None
        return self.low, self.high

    @abstractmethod
    def change(
        self, signal: Floats, layout: Layout, stream: np.random.Generator
    ) -> tuple[Floats, float]:
        """One sample changed, and the severity it got (NaN where that is undefined)."""


def check_share(name: str, value: float | None) -> None:
    """Refuse what is no share."""
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{name} is a share, 0 to 1, not {value:g}")
