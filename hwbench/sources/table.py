"""Columns of a CSV or Parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hwbench.backend import Array
from hwbench.errors import RequestError
from hwbench.files import regular
from hwbench.registry import nearest
from hwbench.spec.models import DataSpec


def read(spec: DataSpec, place: str, limit: int | None) -> dict[str, Array]:
    """Every column by name; columns of lists of one length become matrices.

    Raises:
        RequestError: no such file, no table, or a missing value.
    """
    path = regular(Path(place))
    try:
        table = _csv(path) if path.suffix.lower() in (".csv", ".tsv") else _parquet(path)
    except FileNotFoundError:
        raise RequestError("no such file.", where=place, hint="check data.table.") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"cannot be read as a table ({str(error).splitlines()[0]})."
        hint = ".csv and .tsv have a line of column names; anything else is Parquet."
        raise RequestError(what, where=place, hint=hint) from None
    return columns(table.slice(0, limit), place)


def _csv(path: Path) -> Any:
    from pyarrow import csv

    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter))


def _parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path, memory_map=True)


def columns(table: Any, where: str) -> dict[str, Array]:
    """An Arrow table's columns as arrays."""
    return {name: array(table[name], f"{where}: {name}") for name in table.column_names}


def joined(arrays: Mapping[str, Array], names: Sequence[str], where: str) -> Array:
    """Columns side by side, shape (rows, columns).

    Raises:
        RequestError: one is not there, or holds something else than numbers.
    """
    for name in names:
        if name not in arrays:
            raise RequestError(f"no column {name!r}.", where=where, hint=nearest(name, arrays))
        if arrays[name].dtype.kind not in "biuf" or arrays[name].ndim not in (1, 2):
            hint = "name the columns of numbers: data.inputs: {INPUT: [COLUMN, ...]}."
            raise RequestError(f"column {name!r} is no column of numbers.", where=where, hint=hint)
    if not names:
        raise RequestError("has no columns.", where=where, hint="check data.table.")
    wide = [arrays[name].reshape(len(arrays[name]), -1) for name in names]
    return np.concatenate(wide, axis=1)


def array(column: Any, where: str) -> Array:
    """One Arrow column: numbers, text, or lists (of lists) of numbers, all of one shape.

    Raises:
        RequestError: values are missing, or lists differ in length.
    """
    if column.null_count:
        what = f"{column.null_count} values are missing."
        raise RequestError(what, where=where, hint="fill them in, or remove these rows.")
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if _is_list(column.type):
        return _matrix(column, where)
    found: Array = column.to_numpy(zero_copy_only=False)
    return found.astype(np.str_) if found.dtype.kind == "O" and len(found) else found


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _matrix(column: Any, where: str) -> Array:
    flat = column.flatten()
    length, rest = divmod(len(flat), max(1, len(column)))
    lengths = set(column.value_lengths().to_pylist())
    if rest or lengths - {length}:
        told = f"{min(lengths)} to {max(lengths)}"
        hint = "pad them to one length beforehand."
        raise RequestError(f"lists have {told} elements.", where=where, hint=hint)
    inner = array(flat, where)
    return inner.reshape(len(column), length, *inner.shape[1:])
