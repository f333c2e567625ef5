"""Files that a user names, which may be anything, and copies that share their blocks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hwbench.errors import RequestError

_FICLONE = 0x40049409  # linux/fs.h
# No such operation on this file system, not between these two, or not for this kind of file.
_NOT_HERE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)


def regular(path: Path) -> Path:
    """The path, unless it is a device, pipe or socket, which may have no end.

    Raises:
        RequestError: it is one.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RequestError("is no file.", where=str(path), hint="give a regular file.")
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named_in(content: Any, prefix: str = "") -> Iterator[str]:
    """Every absolute path in JSON content that exists here, without the prefix it may have."""
    if isinstance(content, str):
        path = content.removeprefix(prefix)
        if path.startswith("/") and len(path) < 4096 and Path(path).exists():
            yield path
    elif isinstance(content, Mapping):
        for each in content.values():
            yield from named_in(each, prefix)
    elif isinstance(content, list | tuple):
        for each in content:
            yield from named_in(each, prefix)


def clone(source: Path, target: Path) -> None:
    """Copy a file; on Btrfs, XFS and others of their kind, only what is changed later takes room.

    A hard link would not do: a fault written into it is one in the original.
    """
    try:
        with source.open("rb") as old, target.open("wb") as new:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        shutil.copyfile(source, target)
