"""A Hugging Face dataset on disk (``save_to_disk``), read as the Arrow files that it is.

The ``datasets`` package is not needed: a folder has ``state.json``, which names files in Arrow's
stream format, and ``dataset_info.json``; a ``DatasetDict`` has one such folder a split.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hwbench.backend import Array
from hwbench.errors import RequestError
from hwbench.registry import nearest
from hwbench.sources import images, table
from hwbench.spec.models import DataSpec

STATE, SPLITS = "state.json", "dataset_dict.json"


def read(spec: DataSpec, place: str, limit: int | None) -> dict[str, Array]:
    """Columns by name; images decoded as an image folder's are.

    Raises:
        RequestError: no such folder, no dataset in it, a damaged file, an unknown split.
    """
    folder = _split(Path(place), spec.split)
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        parts = [_stream(_beside(folder, each["filename"])) for each in state["_data_files"]]
        found = pa.concat_tables(parts)
        if state.get("_indices_data_files"):
            places = [_beside(folder, e["filename"]) for e in state["_indices_data_files"]]
            found = found.take(pa.concat_tables([_stream(each) for each in places]).column(0))
    except FileNotFoundError as error:
        what = f"holds no dataset ({error.filename} is missing)."
        hint = "data.dataset is what Dataset.save_to_disk wrote."
        raise RequestError(what, where=str(folder), hint=hint) from None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"cannot be read as a dataset ({str(error).splitlines()[0]})."
        raise RequestError(what, where=str(folder), hint="save it again.") from None
    found = found.slice(0, limit)
    return {name: _column(spec, found[name], f"{folder}: {name}") for name in found.column_names}


def _split(folder: Path, split: str | None) -> Path:
    """The folder of the split, where there are splits."""
    if not folder.is_dir():
        raise RequestError("no such folder.", where=str(folder), hint="check data.dataset.")
    if not (folder / SPLITS).exists():
        if split is not None:
            hint = "remove data.split."
            raise RequestError("has no splits.", where=str(folder), hint=hint)
        return folder
    known = [each.name for each in folder.iterdir() if (each / STATE).exists()]
    if split is None or split not in known:
        what = "has splits." if split is None else f"has no split {split!r}."
        hint = nearest(split or "", known) if split else f"data.split: {' or '.join(sorted(known))}"
        raise RequestError(what, where=str(folder), hint=hint)
    return folder / split


def _beside(folder: Path, name: str) -> Path:
    """A file of the dataset, which lies in its folder.

    Raises:
        ValueError: the name leads elsewhere.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} lies outside the folder")
    return path


def _stream(path: Path) -> Any:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


def _column(spec: DataSpec, column: Any, where: str) -> Array:
    kind = column.type
    if pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}:
        return np.stack([_image(spec, each, where) for each in column.to_pylist()])
    return table.array(column, where)


def _image(spec: DataSpec, value: Any, where: str) -> Array:
    if not value or value["bytes"] is None:
        hint = "save the dataset with its images in it (Dataset.cast_column, embed)."
        raise RequestError("names an image file instead of holding it.", where=where, hint=hint)
    return images.decoded(value["bytes"], spec.transform, where)
