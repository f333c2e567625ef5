"""Calls to one board through the scheduler, and the files that travel by them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench import files
from hwbench.errors import RequestError
from hwbench.execute import board as remote
from hwbench.execute.blobs import CHUNK, Tree, tree_from
from hwbench.execute.parcel import Parcel

_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class Lost(Exception):
    """A board went away with a job; ``began`` tells whether the job had been started."""

    def __init__(self, began: bool) -> None:
        super().__init__(began)
        self.began = began


@dataclass(frozen=True)
class Link:
    """A way to one board.

    Attributes:
        client: of dask.
        address: of the board's dask worker.
        name: of the board.
    """

    client: Any
    address: str
    name: str

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one of the functions of ``hwbench.execute.board`` there.

        Raises:
            Lost: it does not answer.
            RequestError: it cannot write its files.
        """
        try:
            return self.client.run(function, *arguments, workers=[self.address])[self.address]
        except (OSError, TimeoutError, KeyError) as error:
            if isinstance(error, OSError) and error.errno in _STORAGE:
                hint = "free space there, or set HWBENCH_CACHE where it is started."
                what = f"cannot keep files ({error.strerror})."
                raise RequestError(what, where=f"board {self.name}", hint=hint) from None
            raise Lost(began=False) from error

    def send(self, parcel: Parcel) -> None:
        """What the board has never had, in pieces."""
        for digest in self.call(remote.lacking, list(parcel.sources)):
            sending, path = uuid.uuid4().hex, parcel.sources[digest]
            with path.open("rb") as file:
                size, last = path.stat().st_size, False
                while not last:
                    chunk = file.read(CHUNK)
                    last = file.tell() >= size or not chunk
                    self.call(remote.receive, digest, sending, chunk, last)

    def fetch(self, made: Mapping[str, Any]) -> None:
        """What a job made: every file whole, with its hash checked, under its final name.

        Args:
            made: trees as JSON, by final path.
        """
        for path, content in made.items():
            tree, target = tree_from(content), Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
            try:
                for name, digest in tree.files.items():
                    (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                    self._fetch_file(digest, scratch / name)
                _put(scratch, tree, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _fetch_file(self, digest: str, target: Path) -> None:
        with target.open("wb") as file:
            while chunk := self.call(remote.read, digest, file.tell()):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if files.digest(target) != digest:
            raise Lost(began=True)


def _put(scratch: Path, tree: Tree, target: Path) -> None:
    """Give what was fetched its name; a folder that is there was made of the same."""
    if tree.main:
        os.replace(scratch / tree.main, target)
        return
    try:
        os.rename(scratch, target)
    except OSError:
        if not target.is_dir():
            raise
