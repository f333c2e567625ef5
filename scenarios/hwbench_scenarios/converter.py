"""What a converter between the analog and the digital world does: few bits, clipping, jitter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hwbench.scenario import parameter
from hwbench_scenarios.layout import Layout
from hwbench_scenarios.ranged import Floats, RangedInput


@dataclass(frozen=True)
class Adc(RangedInput):
    """An analog-digital (or digital-analog) converter with few effective bits.

    The range is cut into steps of ``(high - low) / 2^enob``, which need not be a whole number, and
    each value is rounded to the nearest step; values outside saturate. What was achieved is the
    effective number of bits of the very error that was made, (SNR - 1.76 dB) / 6.02 dB against a
    sine of full scale (IEEE 1241).
    """

    name: ClassVar[str] = "adc"
    severities: ClassVar[tuple[str, ...]] = ("enob",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "{adc: {enob: [8, 6, 4, 2]}}"

    enob: float | None = parameter(None, "effective number of bits", "bits")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.enob is not None and not 0 < self.enob <= 32:
            raise ValueError(f"enob lies above 0 and up to 32 bits, not {self.enob:g}")

    def change(
        self, signal: Floats, layout: Layout, stream: np.random.Generator
    ) -> tuple[Floats, float]:
        """Round to the converter's steps."""
        low, high = self.range
        step = (high - low) / 2 ** float(self.enob or 0.0)
        coded = low + step * np.rint((np.clip(signal, low, high) - low) / step)
        coded = np.minimum(coded, high)
        error = float(np.mean(np.square(coded - signal)))
        if error == 0:
            return coded, float("nan")
        full_scale_sine = (high - low) ** 2 / 8
        return coded, float((10 * np.log10(full_scale_sine / error) - 1.76) / 6.02)


@dataclass(frozen=True)
class Clipping(RangedInput):
    """Saturation: a part of the range is cut away at its ends."""

    name: ClassVar[str] = "clipping"
    severities: ClassVar[tuple[str, ...]] = ("percent",)
    example: ClassVar[str] = "{clipping: {percent: [10, 30, 50], side: top}}"

    percent: float | None = parameter(None, "share of the range that is cut away", "% of range")
    side: Literal["both", "top", "bottom"] = parameter("both", "where: both, top or bottom")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.percent is not None and not 0 <= self.percent <= 100:
            raise ValueError(f"percent lies between 0 and 100, not {self.percent:g}")

    @property
    def variant(self) -> str:
        """The side, where it is not both."""
        return "" if self.side == "both" else self.side

    def change(
        self, signal: Floats, layout: Layout, stream: np.random.Generator
    ) -> tuple[Floats, float]:
        """Clip; what was achieved is the share of the elements that were changed, in percent."""
        low, high = self.range
        cut = (high - low) * float(self.percent or 0.0) / 100
        ends = {"both": (cut / 2, cut / 2), "top": (0.0, cut), "bottom": (cut, 0.0)}[self.side]
        clipped = np.clip(signal, low + ends[0], high - ends[1])
        return clipped, float(100 * np.mean(clipped != signal))


@dataclass(frozen=True)
class Jitter(RangedInput):
    """An unsteady clock: each value is taken somewhat early or late.

    Gaussian time errors, linear interpolation. In a series every element has its own; an image is
    read out row by row, and each row is shifted as a whole along its columns. Beyond the ends the
    last value holds. The direction of the errors does not depend on the severity.
    """

    name: ClassVar[str] = "jitter"
    severities: ClassVar[tuple[str, ...]] = ("rms",)
    example: ClassVar[str] = "{jitter: {rms: [0.1, 0.5, 2]}}"

    rms: float | None = parameter(None, "standard deviation of the time error", "elements")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.rms is not None and not 0 <= self.rms <= 1e6:
            raise ValueError(f"rms is 0 or more, not {self.rms:g}")

    def change(
        self, signal: Floats, layout: Layout, stream: np.random.Generator
    ) -> tuple[Floats, float]:
        """Resample; what was achieved is the root mean square of the time errors drawn."""
        errors: Floats = stream.standard_normal((signal.shape[layout.time],))
        errors *= float(self.rms or 0.0)
        done = float(np.sqrt(np.mean(np.square(errors)))) if errors.size else float("nan")
        if layout.across is None:
            return _resampled(signal, layout.time, errors), done
        # Rows last but one, columns last, so that every row's shift reaches all its columns.
        ordered = np.moveaxis(signal, (layout.time, layout.across), (-2, -1))
        shifted = _resampled(ordered, ordered.ndim - 1, errors[:, None])
        return np.moveaxis(shifted, (-2, -1), (layout.time, layout.across)), done


def _resampled(signal: Floats, axis: int, errors: Floats) -> Floats:
    """Values at ``position + error`` along an axis, the last one in the order of ``errors``."""
    last = np.moveaxis(signal, axis, -1)
    size = last.shape[-1]
    places = np.broadcast_to(np.clip(np.arange(size) + errors, 0, size - 1), last.shape)
    before = np.floor(places).astype(np.int64)
    after = np.minimum(before + 1, size - 1)
    share = places - before
    left, right = (np.take_along_axis(last, each, -1) for each in (before, after))
    return np.moveaxis(left + share * (right - left), -1, axis)
