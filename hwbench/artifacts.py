"""The cache of artifacts and prepared data: one builder of each, a bound on all, none in use lost.

Entries are folders named by the hash of all that they are made of, so an entry never changes and
can be made again. Locks are ``flock``s: the system drops them when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hwbench.errors import RequestError

BOUND = "HWBENCH_CACHE_GIB"
DEFAULT_GIB = 20.0
_PARTS = ("artifacts", "data")
_WAIT_S = 0.2
_ABANDONED_S = 24 * 3600.0  # a build that ended without cleaning up


def bound_bytes() -> int:
    """What the cache may take: ``$HWBENCH_CACHE_GIB``, 20 GiB if that is not set.

    Raises:
        RequestError: it is no number above 0.
    """
    asked = os.environ.get(BOUND, "")
    try:
        gib = float(asked) if asked else DEFAULT_GIB
    except ValueError:
        gib = -1.0
    if not gib > 0:
        raise RequestError(f"is {asked!r}.", where=BOUND, hint="give GiB, such as 20.")
    return int(gib * 2**30)


@contextmanager
def building(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only process that makes an entry; ``waiting`` is called now and then before that."""
    locks = folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(locks / folder.name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while not _locked(descriptor, fcntl.LOCK_EX):
            waiting()
            time.sleep(_WAIT_S)
        yield
    finally:
        os.close(descriptor)


class Hold:
    """Entries that are in use: they are not evicted as long as this is open."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(dict.fromkeys(folders))
        self._descriptors: dict[Path, int] = {}

    def take(self) -> None:
        """Hold those that exist by now, and mark them as just used."""
        for folder in self._folders:
            if folder not in self._descriptors and folder.is_dir():
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                _locked(descriptor, fcntl.LOCK_SH)  # refused only to what is being removed
                self._descriptors[folder] = descriptor
                with suppress(OSError):  # somebody else's, or read-only: it is used all the same
                    os.utime(folder)

    def __enter__(self) -> Hold:
        """Take what exists."""
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let everything go."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


@dataclass(frozen=True)
class Entry:
    """A folder of the cache, its room in bytes and when it was last used (seconds, Unix time)."""

    folder: Path
    size: int
    used: float


def entries(cache: Path) -> list[Entry]:
    """What the cache holds, longest unused first."""
    found = []
    for part in _PARTS:
        for folder in (cache / part).glob("[!.]*"):
            with suppress(FileNotFoundError):  # removed by another process meanwhile
                found.append(Entry(folder, _room(folder), folder.stat().st_mtime))
    return sorted(found, key=lambda each: each.used)


def evict(cache: Path, bound: int) -> list[Path]:
    """Remove what was not used for longest until the rest fits, and abandoned builds.

    Args:
        cache: the cache's folder.
        bound: bytes that may stay. Entries in use stay in any case.

    Returns:
        The folders that were removed.
    """
    _sweep_abandoned(cache)
    held = entries(cache)
    total, removed = sum(each.size for each in held), []
    for each in held:
        if total <= bound:
            break
        if _remove(each.folder):
            total -= each.size
            removed.append(each.folder)
    return removed


def _remove(folder: Path) -> bool:
    """Remove an entry unless it is in use: it vanishes at once, and is deleted then."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        if not _locked(descriptor, fcntl.LOCK_EX):
            return False
        doomed = folder.with_name(f".evicted-{os.getpid()}-{folder.name}")
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        return True
    except OSError:  # another user's
        return False
    finally:
        os.close(descriptor)


def _sweep_abandoned(cache: Path) -> None:
    limit = time.time() - _ABANDONED_S
    for part in _PARTS:
        for folder in [*(cache / part).glob(".build-*"), *(cache / part).glob(".evicted-*")]:
            with suppress(OSError):
                if folder.stat().st_mtime < limit:
                    shutil.rmtree(folder, ignore_errors=True)


def _room(folder: Path) -> int:
    """Bytes on storage; what is shared or sparse counts as what it takes there."""
    return sum(512 * each.lstat().st_blocks for each in folder.rglob("*"))


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
