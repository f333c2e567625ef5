"""Files by the hash of their bytes: equal on both ends of a wire, and sent at most once."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hwbench import files

CHUNK = 4 << 20

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Tree:
    """A file or a folder, in hashes.

    Attributes:
        files: SHA-256 of each file, by its path within.
        main: the file that is meant, beside others it needs; empty for the whole folder.
    """

    files: Mapping[str, str]
    main: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, read back by ``tree_from``."""
        return {"files": dict(self.files), "main": self.main}


def tree_from(content: Mapping[str, Any]) -> Tree:
    """A tree from its JSON form, which came over the wire.

    Raises:
        ValueError: a path leaves the tree, or a digest is none.
    """
    files = {_inside(name): _digest(digest) for name, digest in content["files"].items()}
    return Tree(files, _inside(content["main"]) if content["main"] else "")


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is no path within a folder")
    return name


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{text!r} is no SHA-256")
    return text


def files_of(path: Path) -> dict[str, Path]:
    """The files of a folder by their paths within, or the one file by its name."""
    if path.is_file():
        return {path.name: path}
    found = sorted(each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): each for each in found}


class Hashes:
    """Digests of files, each computed again only where size or time of change differ."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file."""
        stat = path.stat()
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known = self._known.get(path)
        if known is None or known[0] != state:
            known = (state, files.digest(path))
            self._known[path] = known
        return known[1]


class Blobs:
    """A folder of files that are named by their hash: what a board holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where a blob lies, or would lie."""
        return self.folder / _digest(digest)

    def lacking(self, digests: Iterable[str]) -> list[str]:
        """Those that are not here."""
        return [each for each in digests if not self.path(each).exists()]

    def receive(self, digest: str, sending: str, chunk: bytes, last: bool) -> None:
        """Take the next piece of a blob; it appears whole, and with the right hash, or not at all.

        Raises:
            ValueError: what arrived has another hash.
        """
        scratch = self.folder / f".{_digest(digest)}.{sending}"
        with scratch.open("ab") as file:
            file.write(chunk)
            if last:
                file.flush()
                os.fsync(file.fileno())
        if not last:
            return
        if files.digest(scratch) != digest:
            scratch.unlink()
            raise ValueError(f"what arrived is not {digest}")
        scratch.rename(self.path(digest))

    def read(self, digest: str, offset: int) -> bytes:
        """A piece of a blob of at most ``CHUNK`` bytes; empty at its end."""
        with self.path(digest).open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK)

    def keep(self, path: Path) -> Tree:
        """Take a file or folder in, and say what it is made of."""
        found = {}
        for name, file in files_of(path).items():
            digest = found[name] = files.digest(file)
            if not self.path(digest).exists():
                scratch = self.folder / f".{digest}.{os.getpid()}"
                scratch.unlink(missing_ok=True)
                _link(file, scratch)
                scratch.rename(self.path(digest))
        return Tree(found, path.name if path.is_file() else "")

    def lay(self, tree: Tree, folder: Path) -> Path:
        """Put a tree into ``folder``, and give the path that is meant."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, digest in tree.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(self.path(digest), target)
        return folder / tree.main if tree.main else folder


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
