"""Additive Gaussian noise at a signal-to-noise ratio in decibels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array, TensorSpec
from hwbench.scenario import TransformPerturbation, parameter
from hwbench.seeds import Key


@dataclass(frozen=True)
class Noise(TransformPerturbation):
    """Gaussian noise on the model's inputs, scaled to each sample's own mean power.

    Convention: SNR = 10 log10(mean(x^2) / mean(noise^2)) per sample, on the preprocessed tensor
    that enters the model. The direction of the noise does not depend on the severity, so a
    sample's noise at 20 dB is its noise at 40 dB times ten. A sample of zero power takes no
    noise, and its achieved SNR is undefined.
    """

    name: ClassVar[str] = "noise"
    severities: ClassVar[tuple[str, ...]] = ("snr_db",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "{noise: {target: inputs, snr_db: [40, 20, 10]}, patterns: 3}"

    snr_db: float | None = parameter(None, "signal-to-noise ratio of each sample", "dB")
    target: Literal["inputs"] = parameter("inputs", "what is disturbed")  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.snr_db is not None and not -100 <= self.snr_db <= 200:
            raise ValueError(f"snr_db lies between -100 and 200 dB, not {self.snr_db:g}")

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """Each sample has noise of its own."""
        return "sample"

    def refuses(self, tensor: TensorSpec) -> str:
        """Integers (token ids, indices) have no signal power."""
        if np.issubdtype(np.dtype(tensor.dtype), np.floating):
            return ""
        return f"noise needs a real-valued input, and {tensor.name!r} is {tensor.dtype}"

    def transform(
        self, array: Array, samples: npt.NDArray[np.int64], key: Key
    ) -> tuple[Array, npt.NDArray[np.float64]]:
        """The noisy array, and the SNR that was achieved after rounding to the array's dtype."""
        noisy = np.empty_like(array)
        achieved = np.empty(len(array))
        for position, sample in enumerate(samples):
            signal = array[position].astype(np.float64)
            noise = key.generator(int(sample)).standard_normal(signal.shape)
            scale = _scale(signal, noise, float(self.snr_db or 0.0))
            noisy[position] = signal + scale * noise
            achieved[position] = _snr_db(signal, noisy[position].astype(np.float64) - signal)
        return noisy, achieved


def _power(values: npt.NDArray[np.float64]) -> float:
    return float(np.mean(np.square(values))) if values.size else 0.0


def _scale(signal: npt.NDArray[np.float64], noise: npt.NDArray[np.float64], snr_db: float) -> float:
    """The factor that gives this very draw the asked power, not only its expectation."""
    power = _power(noise)
    return float(np.sqrt(_power(signal) / power * 10 ** (-snr_db / 10))) if power else 0.0


def _snr_db(signal: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> float:
    signal_power, noise_power = _power(signal), _power(noise)
    if signal_power == 0 or noise_power == 0:
        return float("nan")
    return float(10 * np.log10(signal_power / noise_power))
