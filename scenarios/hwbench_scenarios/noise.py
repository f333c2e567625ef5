"""Noise at a signal-to-noise ratio in decibels, on inputs, activations or stored weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array, Site, TensorSpec
from hwbench.scenario import TransformPerturbation, ValuePerturbation, parameter
from hwbench.seeds import Key
from hwbench_scenarios.layout import layout_of, unreadable

Floats = npt.NDArray[np.float64]
# Kinds that need to know which axis is time, and so mean nothing to a weight.
_DIRECTED = ("line", "hum", "drift")


@dataclass(frozen=True)
class Noise(TransformPerturbation, ValuePerturbation):
    """Noise of ten kinds, each draw scaled to exactly the asked signal-to-noise ratio.

    SNR = 10 log10(mean(x^2) / mean(noise^2)), on the preprocessed tensor that enters the model, on
    one between its operators, or on a stored weight tensor. ``convention: sample`` takes each
    sample's own power, ``convention: tensor`` that of the whole dataset (a noise floor that does
    not follow the signal); weights always take their tensor's. The direction of the noise does not
    depend on the severity: a sample's noise at 20 dB is its noise at 40 dB times ten (impulses: a
    superset). A sample of zero power takes no noise, and its achieved SNR is undefined.

    Kinds: ``gaussian``, ``uniform``; ``shot`` has a variance proportional to the magnitude (the
    limit of many photons), ``speckle`` a deviation proportional to the value; ``impulse`` replaces
    elements by the sample's extremes; ``line`` is one value per image row, in all channels; ``hum``
    a sine along time (image: rows) of random phase; ``offset`` a constant and ``drift`` a ramp of
    random sign; ``gain`` multiplies the sample.
    """

    name: ClassVar[str] = "noise"
    severities: ClassVar[tuple[str, ...]] = ("snr_db",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "{noise: {kind: [gaussian, line], snr_db: [40, 20, 10]}, patterns: 3}"

    snr_db: float | None = parameter(None, "signal-to-noise ratio", "dB")
    target: Literal["inputs", "weights", "activations"] = parameter(
        "inputs", "what is disturbed: inputs, weights or activations (one tensor: give its site)"
    )
    kind: Literal[
        "gaussian",
        "uniform",
        "shot",
        "impulse",
        "speckle",
        "line",
        "hum",
        "offset",
        "drift",
        "gain",
    ] = parameter(
        "gaussian", "gaussian, uniform, shot, impulse, speckle, line, hum, offset, drift or gain"
    )
    convention: Literal["sample", "tensor"] = parameter(
        "sample", "whose power the ratio refers to: each sample's, or the whole tensor's"
    )
    period: float = parameter(16.0, "period of hum", "elements")
    power: float | None = parameter(
        None, "for convention tensor: the mean square, where it shall not be the dataset's"
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.snr_db is not None and not -100 <= self.snr_db <= 200:
            raise ValueError(f"snr_db lies between -100 and 200 dB, not {self.snr_db:g}")
        if self.period <= 1:
            raise ValueError(f"period is more than 1 element, not {self.period:g}")
        if self.power is not None and (self.convention != "tensor" or not self.power > 0):
            raise ValueError("power is above 0 and needs convention: tensor")
        if self.target != "inputs" and self.kind in _DIRECTED:
            raise ValueError(
                f"{self.kind} noise needs rows or time, which {self.target} do not have"
            )
        if self.target == "activations" and self.convention == "tensor" and self.power is None:
            raise ValueError("convention tensor needs power for activations")

    @property
    def identity(self) -> dict[str, Any]:
        """What shapes the noise. The convention only scales it, so both share their draws."""
        found = {"name": self.name, "target": self.target, "snr_db": None}
        if self.kind == "hum":
            return {**found, "kind": self.kind, "period": self.period}
        # Gaussian noise is keyed as it was when it was the only kind.
        return found if self.kind == "gaussian" else {**found, "kind": self.kind}

    @property
    def variant(self) -> str:
        """The kind, where it is not the usual one, and the convention likewise."""
        kind = "" if self.kind == "gaussian" else self.kind
        return "-".join(filter(None, (kind, "" if self.convention == "sample" else "tensor")))

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """Each sample has noise of its own; noisy weights are one chip for all samples."""
        return "pattern" if self.target == "weights" else "sample"

    def refuses(self, tensor: TensorSpec) -> str:
        """Integers (token ids, indices) have no signal power; line noise needs lines."""
        if not np.issubdtype(np.dtype(tensor.dtype), np.floating):
            return (
                f"noise needs a real-valued input, and {tensor.name!r} is {tensor.dtype}:"
                f" the distance between two token ids or indices means nothing."
                f" Hint: target: weights"
            )
        if self.kind not in _DIRECTED:
            return ""
        layout = layout_of(tensor.shape[1:])
        if layout is None:
            return unreadable(tensor.name, tensor.shape)
        if self.kind == "line" and layout.kind == "series":
            return f"line noise needs an image with rows, and {tensor.name!r} is a series"
        return ""

    def fit(self, whole: Array) -> Self:
        """The same with the power of the whole input, where the convention asks for it."""
        if self.convention == "sample" or self.power is not None:
            return self
        return replace(self, power=_power_of_rows(whole) or None)

    def transform(
        self, array: Array, samples: npt.NDArray[np.int64], key: Key
    ) -> tuple[Array, npt.NDArray[np.float64]]:
        """The noisy array, and the SNR that was achieved after rounding to the array's dtype."""
        if self.convention == "tensor" and self.power is None:
            raise ValueError("convention tensor needs the power of the whole input: call fit")
        noisy = np.empty_like(array)
        achieved = np.empty(len(array))
        for position, sample in enumerate(samples):
            signal = array[position].astype(np.float64)
            reference = _power(signal) if self.power is None else self.power
            noise = self._noise(signal, key.generator(int(sample)), reference)
            noisy[position] = signal + noise
            done = noisy[position].astype(np.float64) - signal
            achieved[position] = _ratio_db(reference, _power(done))
        return noisy, achieved

    def rewrite(self, site: Site, values: Floats, key: Key) -> Floats:
        """Noisy weights of one chip; int8 weights in units of their codes."""
        return values + self._noise(values, key.generator(), _power(values))

    def achieved(self, before: Floats, after: Floats) -> float:
        """The SNR of a weight tensor after rounding to its dtype."""
        return _ratio_db(_power(before), _power(after - before))

    def _noise(self, signal: Floats, stream: np.random.Generator, reference: float) -> Floats:
        """The noise whose mean square is ``reference`` lowered by the asked decibels."""
        wanted = reference * 10 ** (-float(self.snr_db or 0.0) / 10)
        if self.kind == "impulse":
            return _impulses(signal, stream, wanted)
        shape = _SHAPES[self.kind](signal, stream, self.period)
        power = _power(shape)
        # Scaled by this very draw's power, not only by its expectation.
        return shape * np.sqrt(wanted / power) if power else np.zeros_like(signal)


def _power(values: Floats) -> float:
    return float(np.mean(np.square(values))) if values.size else 0.0


def _power_of_rows(whole: Array) -> float:
    """Mean square of a dataset that may be mapped from disk: row by row."""
    return float(np.mean([_power(row.astype(np.float64)) for row in whole]))


def _ratio_db(signal: float, noise: float) -> float:
    if signal == 0 or noise == 0:
        return float("nan")
    return float(10 * np.log10(signal / noise))


def _impulses(signal: Floats, stream: np.random.Generator, wanted: float) -> Floats:
    """Elements set to the sample's extremes, as many as give the wanted mean square.

    The order in which elements are hit is drawn once, so fewer decibels hit a superset. The last
    element moves only part of the way, so that the power is exact; where all elements together
    are not enough, every impulse is made larger.
    """
    order = stream.permutation(signal.size)
    white = stream.integers(0, 2, signal.size).astype(np.bool_)
    flat = signal.reshape(-1)
    moves = (np.where(white, flat.max(initial=0.0), flat.min(initial=0.0)) - flat)[order]
    total = np.cumsum(np.square(moves))
    budget = wanted * signal.size
    hit = int(np.searchsorted(total, budget))
    noise = np.zeros(signal.size)
    if hit >= signal.size:
        largest = float(total[-1]) if signal.size else 0.0
        noise[order] = moves * (np.sqrt(budget / largest) if largest else 0.0)
    else:
        noise[order[:hit]] = moves[:hit]
        left = budget - (float(total[hit - 1]) if hit else 0.0)
        noise[order[hit]] = np.copysign(np.sqrt(max(left, 0.0)), moves[hit])
    return noise.reshape(signal.shape)


def _gaussian(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    return stream.standard_normal(signal.shape)


def _uniform(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    return stream.uniform(-1.0, 1.0, signal.shape)


def _shot(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    return np.sqrt(np.abs(signal)) * stream.standard_normal(signal.shape)


def _speckle(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    return signal * stream.standard_normal(signal.shape)


def _line(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    return _along_time(signal, stream.standard_normal(_length(signal)))


def _hum(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    phase = stream.uniform(0.0, 2 * np.pi)
    return _along_time(signal, np.sin(2 * np.pi * np.arange(_length(signal)) / period + phase))


def _drift(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    ramp = np.arange(1, _length(signal) + 1, dtype=np.float64)
    return _along_time(signal, _sign(stream) * ramp)


def _offset(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    return np.full(signal.shape, _sign(stream))


def _gain(signal: Floats, stream: np.random.Generator, period: float) -> Floats:
    return signal * _sign(stream)


def _sign(stream: np.random.Generator) -> float:
    return float(2 * stream.integers(2) - 1)


def _time_axis(signal: Floats) -> int:
    layout = layout_of(signal.shape)
    if layout is None:
        raise ValueError(unreadable("input", (None, *signal.shape)))
    return layout.time


def _length(signal: Floats) -> int:
    return int(signal.shape[_time_axis(signal)])


def _along_time(signal: Floats, values: Floats) -> Floats:
    """One value per time step, repeated over the other axes."""
    shape = [1] * signal.ndim
    shape[_time_axis(signal)] = values.size
    return np.broadcast_to(values.reshape(shape), signal.shape).copy()


_SHAPES: Mapping[str, Callable[[Floats, np.random.Generator, float], Floats]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "shot": _shot,
    "speckle": _speckle,
    "line": _line,
    "hum": _hum,
    "offset": _offset,
    "drift": _drift,
    "gain": _gain,
}
