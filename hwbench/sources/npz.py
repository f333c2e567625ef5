"""Arrays from an npz archive, which may be damaged or hostile."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import psutil
from numpy.lib import format as npy

from hwbench.backend import Array
from hwbench.errors import RequestError
from hwbench.files import regular

# Reading, preprocessing and storing need an array more than once.
SHARE_OF_MEMORY = 0.5

# What NumPy and zipfile raise on a damaged archive.
_DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read(place: str) -> dict[str, Array]:
    """Every array of an archive, by name.

    Raises:
        RequestError: no such file, no archive of arrays, Python objects in it, or more than fits
            this machine's memory.
    """
    path = Path(place)
    try:
        with regular(path).open("rb") as file:
            return _arrays(file, path)
    except FileNotFoundError:
        raise RequestError("no such file.", where=place, hint="check data.npz.") from None
    except _DAMAGE as error:
        if "Object arrays" in str(error):
            what = "holds Python objects (pickle), which are never loaded."
        elif "pickle" in str(error):  # what NumPy takes anything for that it does not know
            what = "cannot be read as npz (it is no archive of arrays)."
        else:
            what = f"cannot be read as npz ({error})."
        raise RequestError(what, where=place, hint="write it again with np.savez.") from None


def _arrays(file: BinaryIO, path: Path) -> dict[str, Array]:
    if zipfile.is_zipfile(file):
        _check_declared(file, path)
    file.seek(0)
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise RequestError("holds a single array.", where=str(path), hint="save with np.savez.")
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy hands out the bytes of what is no array
            raise ValueError(f"{name!r} is no array")
    return arrays


def _check_declared(file: BinaryIO, path: Path) -> None:
    """Refuse what would unpack to more than there is, before anything is unpacked."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(each.file_size for each in members)
        available = psutil.virtual_memory().available
        if total > SHARE_OF_MEMORY * available:
            what = f"unpacks to {total / 2**30:.1f} GiB; {available / 2**30:.1f} GiB are free."
            raise RequestError(what, where=str(path), hint="store fewer samples.")
        for each in members:
            with archive.open(each) as member:
                _check_shape(member, each)


def _check_shape(member: IO[bytes], info: zipfile.ZipInfo) -> None:
    """Refuse a header that declares more numbers than the file holds.

    Raises:
        ValueError: it does, or it is no header.
    """
    version = npy.read_magic(member)
    reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if reader is None:
        return  # NumPy judges
    shape, _, dtype = reader(member)
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size > info.file_size and not dtype.hasobject:
        raise ValueError(f"{info.filename!r} declares {size} bytes and holds {info.file_size}")
