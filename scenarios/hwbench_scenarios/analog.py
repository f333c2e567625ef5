"""Weights held in analog memory: phase-change noise and drift, and coarse conductances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench.backend import Site
from hwbench.scenario import ValuePerturbation, parameter
from hwbench.seeds import Key

Floats = npt.NDArray[np.float64]

G_MAX_US = 25.0  # conductance of the largest weight, microsiemens
T_READ_S = 250e-9  # width of a read pulse
_SMALLEST = 1e-7  # a conductance of 0 has no logarithm


def programming_sigma(g: Floats) -> Floats:
    """Deviation of a conductance after programming, as a fraction of the largest.

    ``max(-1.1731 g^2 + 1.9650 g + 0.2635, 0)`` microsiemens of 25: the fit to measured devices of
    Nandakumar et al., ICECS 2019, as the IBM aihwkit documents it ("PCM inference model").

    Args:
        g: target conductances as fractions of the largest, any shape.
    """
    sigma: Floats = np.maximum(-1.1731 * g**2 + 1.9650 * g + 0.2635, 0.0) / G_MAX_US
    return sigma


def drift_exponent(g: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of the drift exponent nu in ``g(t) = g (t / t_c)^-nu``; same source."""
    log = np.log(np.maximum(g, _SMALLEST))
    mean = np.clip(-0.0155 * log + 0.0244, 0.049, 0.1)
    deviation = np.clip(-0.0125 * log - 0.0059, 0.008, 0.045)
    return mean, deviation


def read_sigma(g: Floats, time_s: float) -> Floats:
    """Deviation of a read at ``time_s`` as a fraction of the drifted conductance; same source.

    ``Q_s sqrt(ln((t + t_read) / (2 t_read)))`` with ``Q_s = min(0.0088 / g^0.65, 0.2)``: 1/f noise
    accumulated since programming.
    """
    q = np.minimum(0.0088 / np.maximum(g, _SMALLEST) ** 0.65, 0.2)
    return np.asarray(q * np.sqrt(np.log((time_s + T_READ_S) / (2 * T_READ_S))))


@dataclass(frozen=True)
class PcmDraw:
    """What is random about the devices of one tensor; the same at every time."""

    programming: Floats
    drift: Floats
    read: Floats

    @classmethod
    def of(cls, shape: tuple[int, ...], key: Key) -> PcmDraw:
        """Standard normal numbers of three streams of their own."""
        return cls(*(key.generator(each).standard_normal(shape) for each in ("p", "d", "r")))


def conductance_at(g: Floats, time_s: float, start_s: float, draw: PcmDraw) -> Floats:
    """What is read at ``time_s`` where ``g`` was to be programmed, both as fractions.

    Args:
        g: target conductances, 0..1, any shape.
        time_s: time since programming.
        start_s: ``t_c``, the time at which the programming was verified; nothing drifts before.
        draw: standard normal numbers in the shape of ``g``.
    """
    programmed = np.maximum(g + programming_sigma(g) * draw.programming, 0.0)
    mean, deviation = drift_exponent(g)
    # The exponent's spread reaches below zero at small conductances; the source folds it back.
    exponent = np.abs(mean + deviation * draw.drift)
    drifted = programmed * (max(time_s, start_s) / start_s) ** -exponent
    return np.maximum(drifted * (1 + read_sigma(g, time_s) * draw.read), 0.0)


@dataclass(frozen=True)
class _Conductances(ValuePerturbation):
    """Weights as pairs of conductances: one for the positive part, one for the negative."""

    target: Literal["weights"] = parameter("weights", "what is stored in analog memory")
    per: Literal["tensor", "channel"] = parameter(
        "tensor", "whose largest weight has the largest conductance: the tensor's or each channel's"
    )

    @property
    def variant(self) -> str:
        """Whose largest weight counts, where it is not the tensor's."""
        return "" if self.per == "tensor" else "channel"

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """One chip computes all samples."""
        return "pattern"

    def largest(self, site: Site, values: Floats) -> Floats:
        """The weight of the largest conductance, of a shape that broadcasts."""
        # Output channels come first in convolutions and Gemm, last in a plain product.
        axis = values.ndim - 1 if site.op_type == "MatMul" else 0
        others = None if self.per == "tensor" else tuple({*range(values.ndim)} - {axis})
        return np.asarray(np.abs(values).max(axis=others, keepdims=True, initial=0.0))

    def achieved(self, before: Floats, after: Floats) -> float:
        """SNR of the weights in dB, after rounding to their dtype."""
        error = float(np.square(after - before).sum())
        signal = float(np.square(before).sum())
        return float(10 * np.log10(signal / error)) if signal and error else float("nan")


@dataclass(frozen=True)
class Pcm(_Conductances):
    """Phase-change memory: programming noise, drift over time and read noise on weights.

    Each weight is a pair of conductances, one for its positive and one for its negative part, the
    largest magnitude at 25 microsiemens. Formulas: see ``programming_sigma``,
    ``drift_exponent`` and ``read_sigma``. A pattern is one chip: with the same seed it is the same
    chip at every time. int8 weights go through their codes (dequantise, disturb, requantise),
    so that noise below half a code vanishes; where each channel has a scale of its own its largest
    code is large, so compare with a real-valued environment under ``per: channel``.

    ``compensate`` multiplies each tensor by the ratio of its summed magnitudes when programming
    was verified and now, as a calibration of the output gain would (global drift compensation).
    """

    name: ClassVar[str] = "pcm"
    severities: ClassVar[tuple[str, ...]] = ("time_s",)
    example: ClassVar[str] = "{pcm: {time_s: [20, 3600, 86400, 3.2e7]}, patterns: 20}"

    time_s: float | None = parameter(None, "time since programming", "s")
    start_s: float = parameter(20.0, "time at which programming was verified", "s")
    levels: int | None = parameter(None, "conductance levels to program to; any value if absent")
    compensate: bool = parameter(False, "calibrate the gain of each tensor away")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not self.start_s > 0:
            raise ValueError(f"start_s is above 0, not {self.start_s:g}")
        if self.time_s is not None and not self.start_s <= self.time_s <= 1e12:
            raise ValueError(
                f"time_s lies between start_s ({self.start_s:g}) and 1e12, not {self.time_s:g}"
            )
        _check_levels(self.levels)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes a chip: how it is written and calibrated does not, so chips are compared."""
        return {"name": self.name, "target": self.target, "time_s": None}

    @property
    def variant(self) -> str:
        """Whether drift is compensated, and whose largest weight counts."""
        return "-".join(filter(None, ("compensated" if self.compensate else "", super().variant)))

    def rewrite(self, site: Site, values: Floats, key: Key) -> Floats:
        """The weights that this chip computes with at this time."""
        largest = self.largest(site, values)
        target = values / np.where(largest > 0, largest, 1.0)
        now = largest * self._fractions(target, key, float(self.time_s or self.start_s))
        if not self.compensate:
            return now
        verified = largest * self._fractions(target, key, self.start_s)
        first = float(np.abs(verified).sum())
        total = float(np.abs(now).sum())
        return now * (first / total) if total else now

    def _fractions(self, values: Floats, key: Key, time_s: float) -> Floats:
        """Weights as fractions of the largest, read at a time."""
        read = []
        for polarity, sign in (("plus", 1.0), ("minus", -1.0)):
            g = np.maximum(sign * values, 0.0)
            g = g if self.levels is None else _levelled(g, self.levels)
            draw = PcmDraw.of(values.shape, key.child(polarity))
            read.append(conductance_at(g, time_s, self.start_s, draw))
        return np.asarray(read[0] - read[1])


@dataclass(frozen=True)
class Conductance(_Conductances):
    """Coarse conductances: each weight is rounded to the nearest of a few equally spaced levels.

    ``levels`` counts those of one polarity, zero included, up to the largest magnitude:
    16 levels of each sign are weights of 5 bits. Nothing is random.
    """

    name: ClassVar[str] = "conductance"
    severities: ClassVar[tuple[str, ...]] = ("levels",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "{conductance: {levels: [64, 16, 8]}}"

    levels: int | None = parameter(None, "conductance levels of one polarity, zero included")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        _check_levels(self.levels)

    def rewrite(self, site: Site, values: Floats, key: Key) -> Floats:
        """The nearest levels."""
        largest = self.largest(site, values)
        target = np.abs(values) / np.where(largest > 0, largest, 1.0)
        levelled = _levelled(target, int(self.levels or 2))
        return np.asarray(np.sign(values) * largest * levelled)


def _check_levels(levels: int | None) -> None:
    if levels is not None and levels < 2:
        raise ValueError(f"levels are 2 or more, not {levels}")


def _levelled(g: Floats, levels: int) -> Floats:
    """Fractions rounded to ``levels`` equally spaced ones, 0 and 1 included."""
    levelled: Floats = np.rint(g * (levels - 1)) / (levels - 1)
    return levelled
