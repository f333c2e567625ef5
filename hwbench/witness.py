"""What the machine did while a process was measured: read before and after, never in between.

Counters that a system does not have are ``None``, and so is what would be made of them.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench import nvml

_STAT, _VMSTAT = Path("/proc/stat"), Path("/proc/vmstat")
_CPUS = Path("/sys/devices/system/cpu")
_RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Reading:
    """Counters at one moment.

    Attributes:
        wall_s: monotonic time.
        own_s: CPU time of this process, all threads.
        switches: times this process had to leave a core involuntarily.
        busy_s: CPU time of everything on the machine.
        steal_s: time that the hypervisor gave to other guests.
        swapped: pages swapped in or out by anybody.
        throttles: times that cores were slowed down for heat.
        frequencies_mhz: of the cores this process may use.
        energy_j: consumed by the processor packages, or by the device that runs.
        gpu: sensors and error counters of the device that runs.
    """

    wall_s: float
    own_s: float
    switches: int | None
    busy_s: float | None
    steal_s: float | None
    swapped: int | None
    throttles: int | None
    frequencies_mhz: tuple[float, ...]
    energy_j: float | None
    gpu: nvml.Gpu = nvml.NOTHING


def read(device: str = "cpu") -> Reading:
    """All counters now; ``device`` chooses the energy counter (``cpu``, ``cuda:0``)."""
    busy, steal = _cpu_times()
    return Reading(
        time.monotonic(),
        time.process_time(),
        _switches(),
        busy,
        steal,
        _swapped(),
        _throttles(),
        _frequencies(),
        _device_energy(device) if device.startswith("cuda") else _package_energy(),
        nvml.read(device),
    )


def between(before: Reading, after: Reading, cpus: int) -> dict[str, Any]:
    """Columns of ``processes`` that say what happened from one reading to the other.

    Args:
        before: the earlier one.
        after: the later one.
        cpus: of the machine, which stolen time is shared by.
    """
    wall = max(after.wall_s - before.wall_s, 1e-9)
    busy, steal = _gone(before.busy_s, after.busy_s), _gone(before.steal_s, after.steal_s)
    switches, energy = (
        _gone(before.switches, after.switches),
        _gone(before.energy_j, after.energy_j),
    )
    seen = before.frequencies_mhz + after.frequencies_mhz
    own = after.own_s - before.own_s
    return {
        "others_cpu": None if busy is None else max(0.0, busy - own) / wall,
        "steal_share": None if steal is None else steal / (wall * cpus),
        "switches_per_s": None if switches is None else switches / wall,
        "swapped_pages": _gone(before.swapped, after.swapped),
        "cpu_throttles": _gone(before.throttles, after.throttles),
        "frequency_min_mhz": min(seen, default=None),
        "frequency_max_mhz": max(seen, default=None),
        # A counter that wrapped round gives nothing; the next process gives a number again.
        "energy_j": energy if energy is not None and energy >= 0 else None,
        **nvml.between(before.gpu, after.gpu),
    }


def _gone(before: float | None, after: float | None) -> Any:
    return None if before is None or after is None else after - before


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _cpu_times() -> tuple[float | None, float | None]:
    """Busy and stolen seconds of all cores together."""
    text = _text(_STAT)
    if text is None:
        return None, None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, text.split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _switches() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _swapped() -> int | None:
    text = _text(_VMSTAT)
    if text is None:
        return None
    counts = [line.split() for line in text.splitlines() if line.startswith(("pswpin", "pswpout"))]
    return sum(int(count) for _, count in counts)


def _throttles() -> int | None:
    files = _CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [int(text) for text in map(_text, files) if text]
    return sum(counts) if counts else None


def _frequencies() -> tuple[float, ...]:
    allowed: Iterable[int] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    found = [_text(_CPUS / f"cpu{each}" / "cpufreq" / "scaling_cur_freq") for each in allowed]
    return tuple(int(text) / 1000 for text in found if text)


def _package_energy() -> float | None:
    """Sum over processor packages of Intel's and AMD's running average power limit counters."""
    files = [each / "energy_uj" for each in _RAPL.glob("*-rapl:*") if each.name.count(":") == 1]
    texts = [_text(file) for file in files]
    if not texts or None in texts:
        return None
    return sum(int(text) for text in texts if text) / 1e6


def _device_energy(device: str) -> float | None:
    """Joules since the driver was loaded, by NVIDIA's management library."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    index = int(device.partition(":")[2] or 0)
    refused = (
        library.nvmlInit_v2()
        or library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        or library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    )
    return None if refused else millijoules.value / 1e3
