"""Files that are either whole or absent, also after a crash: write, fsync, rename, fsync."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hwbench import failpoint
from hwbench.errors import RequestError


@contextmanager
def replacing(path: Path, label: str = "") -> Iterator[BinaryIO]:
    """A file that takes its name, and the place of what had it, once it is on disk.

    Args:
        path: its name.
        label: what failpoints call it; default: the name.

    Raises:
        RequestError: it cannot be written; nothing has changed then.
    """
    scratch, label = path.with_name(f".{path.name}.{uuid.uuid4().hex}"), label or path.name
    try:
        with scratch.open("wb") as file:
            yield file
            failpoint.hit(f"{label}:written")
            file.flush()
            os.fsync(file.fileno())
        failpoint.hit(f"{label}:synced")
        scratch.rename(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise refused(path, error) from error
    failpoint.hit(f"{label}:renamed")
    sync_folder(path.parent)
    failpoint.hit(f"{label}:committed")


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent, also after a crash.

    Raises:
        RequestError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refused(path: Path, error: OSError) -> RequestError:
    """What to tell of a file that cannot be written."""
    return RequestError(
        f"cannot be written ({error.strerror or error}).",
        where=str(path),
        hint="free space or give another --output; what was written is kept, and --resume goes on.",
    )
