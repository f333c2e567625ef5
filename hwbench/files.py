"""Files that a user names, which may be anything."""

from __future__ import annotations

from pathlib import Path

from hwbench.errors import RequestError


def regular(path: Path) -> Path:
    """The path, unless it is a device, pipe or socket, which may have no end.

    Raises:
        RequestError: it is one.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RequestError("is no file.", where=str(path), hint="give a regular file.")
    return path
