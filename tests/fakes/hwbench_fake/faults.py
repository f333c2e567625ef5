"""Deaths on request: what a runtime does to a worker on a bad day."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.backend import Array
from hwbench.errors import Unsupported

FOR_EVER_S = 600
ROOM = 256 * 2**20


def digest(array: Array) -> str:
    """Names the numbers on which a fault strikes."""
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()


def strike(options: Mapping[str, Any], at: str, array: Array | None = None) -> None:
    """Carry out ``options["die"]`` if this is the place (``at``) and these the numbers (``on``).

    With ``grouped``, it strikes only in a control group of ours. With ``once``, a path, only while
    that file does not exist; it then holds the worker's process id.
    """
    if options.get("die") is None or options.get("at", "run") != at:
        return
    if "on" in options and (array is None or digest(array) != options["on"]):
        return
    if options.get("grouped") and "hwbench-" not in Path("/proc/self/cgroup").read_text():
        return
    once = options.get("once")
    if once is not None:
        if Path(once).exists():
            return
        scratch = Path(f"{once}.{os.getpid()}")
        scratch.write_text(str(os.getpid()))
        scratch.rename(once)
    _die(options["die"])


def _die(how: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "abort":
        os.abort()
    elif how == "null":
        ctypes.string_at(0)
    elif how == "illegal":
        os.kill(os.getpid(), signal.SIGILL)
    elif how in ("killed", "terminated"):  # by somebody else
        name = {"killed": "KILL", "terminated": "TERM"}[how]
        subprocess.run(["sh", "-c", f"kill -{name} {os.getpid()}"], check=False)
        time.sleep(FOR_EVER_S)
    elif how == "refused":
        raise RuntimeError("Failed to allocate memory for requested buffer of size 1024")
    elif how == "exit 1":
        os._exit(1)
    elif how == "exit":
        os._exit(3)
    elif how == "quiet":
        os._exit(0)
    elif how == "hang":
        time.sleep(FOR_EVER_S)
    elif how == "slow":
        time.sleep(0.3)
    elif how == "memory":
        raise MemoryError("no room for a tensor")
    elif how == "allocate":  # lives where there is room for it
        bytearray(ROOM)
    elif how == "share":  # memory that no limit on data counts
        shared = mmap.mmap(-1, ROOM)
        for _ in range(ROOM // mmap.PAGESIZE):
            shared.write(b"1" * mmap.PAGESIZE)
    elif how == "thrash":  # more pages of a file than there is room for, again and again
        with tempfile.TemporaryFile(dir="/var/tmp") as file:
            file.truncate(ROOM)
            held = np.memmap(file, np.uint8, "r")
            end = time.monotonic() + FOR_EVER_S
            while time.monotonic() < end:
                held[:: mmap.PAGESIZE].sum()
    elif how == "bad_alloc":
        ctypes.CDLL("libstdc++.so.6")._Znwm(ctypes.c_size_t(2**60))
    elif how == "busy":
        begin = time.process_time()
        while time.process_time() < begin + 0.05:
            pass
    elif how == "unsupported":
        raise Unsupported("this operator is not to be had here")
    else:
        raise RuntimeError(f"the runtime\nsays {how}")
