"""Where data comes from: each module reads one kind of source into arrays by name.

The first dimension of every array counts samples. What happens to them afterwards (which feeds
which input, preprocessing, labels) is the same for all kinds: see ``hwbench.data``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwbench.backend import Array
from hwbench.sources import arrow, generated, images, npz, table
from hwbench.spec.models import DataSpec

Reader = Callable[[DataSpec, str, int | None], dict[str, Array]]

# By the key of the spec's data that names the place.
READERS: Mapping[str, Reader] = {
    "npz": lambda spec, place, limit: npz.read(place),
    "images": images.read,
    "table": table.read,
    "dataset": arrow.read,
    "python": generated.read,
}


def read(spec: DataSpec, place: str, limit: int | None) -> dict[str, Array]:
    """Arrays by name of the spec's kind of source, at a place of that kind.

    Args:
        spec: whose kind and options hold.
        place: file, folder or function; that of the spec, or of its calibration.
        limit: rows that are used, so that no more need to be read; ``None``: all.

    Raises:
        RequestError: one line naming the place, what is wrong with it and what to do.
    """
    return READERS[spec.source](spec, place, limit)
