"""Which machine, which versions: the provenance that every run carries."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from hwbench import __version__

PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "torch", "nncf", "torchao", "pyarrow")
_TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
)


@cache
def mark() -> str:
    """The hash over ``machine``, computed once in a process."""
    return str(machine()["fingerprint"])


def machine() -> dict[str, Any]:
    """What distinguishes this machine from another, with a hash over it."""
    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "isa": [flag for flag in _TELLING_FLAGS if flag in cpu_flags()],
        "cores": psutil.cpu_count(logical=False),
        "threads": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
    }
    text = repr(sorted(found.items()))
    return {**found, "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:12]}


def versions() -> dict[str, str]:
    """Versions of hwbench, Python and whatever runtime is installed."""
    found = {"hwbench": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of the first core; empty where the system does not tell."""
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def _cpu_name() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def cores() -> int:
    """Cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
