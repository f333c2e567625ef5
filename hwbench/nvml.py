"""What NVIDIA's management library says of a GPU: heat, clocks, power, memory errors.

By the optional package nvidia-ml-py; without it, or without a driver, everything is ``None``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

MODULE = "pynvml"


@dataclass(frozen=True)
class Gpu:
    """Sensors and counters of one GPU at one moment; ``None`` is what the card does not have.

    Attributes:
        temperature_c: of the chip, in degrees Celsius.
        clock_mhz: of the multiprocessors.
        power_w: drawn by the whole board.
        ecc_corrected: memory errors that ECC corrected since the driver was loaded.
        ecc_uncorrected: those that it could not.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    power_w: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None


NOTHING = Gpu()


def read(device: str, variables: Mapping[str, str] = os.environ) -> Gpu:
    """The sensors of ``cuda:0``, ``tensorrt:0``, ... ; nothing for other devices."""
    kind, _, number = device.partition(":")
    if kind not in ("cuda", "tensorrt") or find_spec(MODULE) is None:
        return NOTHING
    nvml: Any = import_module(MODULE)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return NOTHING
    try:
        return _read(nvml, _handle(nvml, int(number or 0), variables))
    except nvml.NVMLError:
        return NOTHING
    finally:
        nvml.nvmlShutdown()


def _handle(nvml: Any, number: int, variables: Mapping[str, str]) -> Any:
    """The card that the runtimes call by that number: they count what they are shown."""
    shown = [each for each in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    name = shown[number] if number < len(shown) else str(number)
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name)


def _read(nvml: Any, card: Any) -> Gpu:
    def asked(get: Callable[..., Any], *arguments: Any) -> Any:
        """A reading that this card may not have."""
        try:
            return get(card, *arguments)
        except nvml.NVMLError:
            return None

    power_mw = asked(nvml.nvmlDeviceGetPowerUsage)
    errors, since = nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_VOLATILE_ECC
    return Gpu(
        asked(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        None if power_mw is None else power_mw / 1000,
        asked(errors, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, since),
        asked(errors, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, since),
    )


def between(before: Gpu, after: Gpu) -> dict[str, float | int | None]:
    """Columns of ``processes`` that say what happened from one reading to the other."""
    return {
        "gpu_temperature_c": after.temperature_c,
        "gpu_clock_mhz": after.clock_mhz,
        "gpu_power_w": after.power_w,
        "gpu_ecc_corrected": _gone(before.ecc_corrected, after.ecc_corrected),
        "gpu_ecc_uncorrected": _gone(before.ecc_uncorrected, after.ecc_uncorrected),
    }


def _gone(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
