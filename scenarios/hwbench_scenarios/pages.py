"""Files that the page cache already holds are charged to whoever read them first: drop them."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hwbench.backend import Backend

CACHESTAT = 451  # the system call's number on every architecture, since Linux 6.5
COMMON = ("numpy",)  # what every worker imports beside its runtime


def worker_files(backend: Backend) -> tuple[Path, ...]:
    """The files of the interpreter's library and of a runtime with all that it requires."""
    return _files((*COMMON, *backend.requires))


@cache
def _files(names: tuple[str, ...]) -> tuple[Path, ...]:
    """Listed once: a runtime has thousands, and they do not change while it is measured."""
    closure: set[str] = set()
    for name in names:
        _collect(name, closure)
    found = {path for name in closure for path in _of_distribution(name)}
    return tuple(sorted(found | set(_standard_library()) | {Path(sys.executable).resolve()}))


def _collect(name: str, known: set[str]) -> None:
    """A distribution and what it requires without extras; what is not installed is left out."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in known:
        return
    try:
        required = distribution(key).requires or []
    except PackageNotFoundError:
        return
    known.add(key)
    for each in required:
        wanted = re.match(r"[A-Za-z0-9._-]+", each)
        if wanted and "extra ==" not in each:
            _collect(wanted[0], known)


def _of_distribution(name: str) -> Iterator[Path]:
    for each in distribution(name).files or ():
        path = Path(str(each.locate()))
        yield path
        if path.suffix == ".py":  # records do not always list what was compiled later
            yield from (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")


def _standard_library() -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in ("site-packages", "dist-packages")]
        yield from (Path(folder) / name for name in files)


def below(folders: Iterable[Path]) -> list[Path]:
    """Every file in some folders."""
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def drop(paths: Iterable[Path], *, written: bool = False) -> float | None:
    """Have the next reader of some files read them anew; needs no privilege.

    Pages that a running process has mapped stay: they are charged to whoever read them first.

    Args:
        paths: files; those that cannot be read are left out.
        written: they may have been written just now; only what is on the disk can be dropped.

    Returns:
        MiB that stayed, or ``None`` where the system does not tell.
    """
    stayed: list[int | None] = []
    for path in paths:
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if written:
                    os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                stayed.append(_cached(handle))
            finally:
                os.close(handle)
    known = [each for each in stayed if each is not None]
    return sum(known) / 2**20 if len(known) == len(stayed) else None


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Statistics(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def _cached(handle: int) -> int | None:
    """Bytes of a file in the page cache, by ``cachestat``: not on others' files for everybody."""
    if not sys.platform.startswith("linux"):
        return None
    found = _Statistics()
    whole = _Range(0, 0)
    call = ctypes.CDLL(None).syscall
    if call(CACHESTAT, handle, ctypes.byref(whole), ctypes.byref(found), 0) != 0:
        return None
    return int(found.cached) * os.sysconf("SC_PAGESIZE")
