"""What the axes of an input mean, as far as its shape tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shape = tuple[int | None, ...]

_MOST_CHANNELS = 4  # grey, grey and alpha, RGB, RGBA
_MOST_TRACKS = 8  # of audio


@dataclass(frozen=True)
class Layout:
    """Axes of one sample (the batch axis is not counted).

    Attributes:
        kind: ``image`` has rows and columns, ``series`` has time alone.
        time: axis along which the signal is read out: an image's rows, a series' samples.
        across: the columns of an image; ``None`` for a series.
        channel: axis of colours or audio tracks; ``None`` where there is none.
    """

    kind: Literal["image", "series"]
    time: int
    across: int | None = None
    channel: int | None = None


def layout_of(sample: Shape) -> Layout | None:
    """The axes of one sample of this shape; ``None`` where the shape does not tell.

    One axis is a series (audio, or a plain vector in its given order); two are a series of up to
    8 tracks, or a single-channel image; three are an image of 1 to 4 channels, channels first
    where both ends could be them.
    """
    if len(sample) == 1:
        return Layout("series", 0)
    if len(sample) == 2:
        few = _within(sample[0], _MOST_TRACKS)
        return Layout("series", 1, channel=0) if few else Layout("image", 0, 1)
    if len(sample) == 3 and _within(sample[0], _MOST_CHANNELS):
        return Layout("image", 1, 2, 0)
    if len(sample) == 3 and _within(sample[2], _MOST_CHANNELS):
        return Layout("image", 0, 1, 2)
    return None


def _within(size: int | None, most: int) -> bool:
    return size is not None and size <= most


def unreadable(name: str, shape: Shape) -> str:
    """The refusal of an input whose axes are not known. ``shape`` includes the batch axis."""
    dims = ", ".join("?" if each is None else str(each) for each in shape)
    return (
        f"{name!r} has shape ({dims}), which is neither (N, T), (N, tracks, T), (N, H, W),"
        f" (N, C, H, W) nor (N, H, W, C) with 1 to {_MOST_CHANNELS} channels"
    )
