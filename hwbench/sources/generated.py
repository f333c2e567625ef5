"""Rows from a Python function of the user's (only under --allow-code)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np

from hwbench.backend import Array
from hwbench.errors import RequestError
from hwbench.spec.models import DataSpec


def read(spec: DataSpec, place: str, limit: int | None) -> dict[str, Array]:
    """What ``package.module:function`` gives: arrays by name, or samples as they come.

    Args:
        spec: not looked at.
        place: the function, called without arguments. It returns a mapping of arrays whose first
            dimension counts samples, or yields a mapping of one sample each.
        limit: samples that are asked for; ``None``: until it ends.

    Raises:
        RequestError: there is no such function, it raises, or its samples do not fit together.
    """
    function = _function(place)
    try:
        made = function()
        if isinstance(made, Mapping):
            return {str(name): np.asarray(array)[:limit] for name, array in made.items()}
        return _stacked(islice(made, limit), place)
    except RequestError:
        raise
    except Exception as error:  # whatever the user's function raises is told in one line
        what = f"raised {type(error).__name__}: {error}."
        raise RequestError(what, where=place, hint="call it by itself to see where.") from error


def _function(place: str) -> Any:
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "data.python is package.module:function, found from the working directory."
        raise RequestError(f"cannot be imported ({error}).", where=place, hint=hint) from None


def _stacked(samples: Iterable[Mapping[str, Any]], place: str) -> dict[str, Array]:
    rows = list(samples)
    if not rows:
        raise RequestError("gives no samples.", where=place, hint="yield at least one.")
    names = list(rows[0])
    if any(list(row) != names for row in rows):
        raise RequestError("gives samples with different names.", where=place)
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in names}
