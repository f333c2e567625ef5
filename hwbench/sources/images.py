"""A folder of images, one folder a class, resized and cropped as timm and torchvision do it.

Needs Pillow (``hwbench[images]``). Preprocessing is named as in timm's ``data_config``:
``input_size``, ``interpolation``, ``crop_pct``, ``mean``, ``std``.
"""

from __future__ import annotations

import math
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.backend import Array
from hwbench.errors import RequestError
from hwbench.spec.models import DataSpec, Transform

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS, CLASSES = "x", "y"
SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
MOST_PIXELS = 100_000_000  # of one image: what unpacks to more is an attack or a mistake
_MODES = {1: "L", 3: "RGB"}


def read(spec: DataSpec, place: str, limit: int | None) -> dict[str, Array]:
    """Pixels as ``x``, uint8 (n, height, width, channels), and class indices as ``y``.

    Classes are the folders in natural order (``2`` before ``10``); images right in the folder have
    no class. With a limit, images are taken from all classes in turn.

    Raises:
        RequestError: no images there, one cannot be read, or Pillow is missing.
    """
    folder = Path(place)
    if not folder.is_dir():
        raise RequestError("no such folder.", where=place, hint="check data.images.")
    labelled = _found(folder)
    if not labelled:
        hint = "images lie in one folder a class, or right in it."
        raise RequestError("holds no images.", where=place, hint=hint)
    chosen = labelled[:limit]
    pixels = np.stack([from_file(path, spec.transform) for path, _ in chosen])
    if chosen[0][1] is None:
        return {PIXELS: pixels}
    return {PIXELS: pixels, CLASSES: np.array([label for _, label in chosen], dtype=np.int64)}


def _found(folder: Path) -> list[tuple[Path, int | None]]:
    """Images with their classes, the classes taking turns."""
    classes = sorted((each for each in folder.iterdir() if each.is_dir()), key=_natural)
    if not classes:
        return [(path, None) for path in _images(folder)]
    queues = [[(path, label) for path in _images(each)] for label, each in enumerate(classes)]
    longest = max(map(len, queues))
    return [queue[at] for at in range(longest) for queue in queues if at < len(queue)]


def _images(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[Any]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if part.isdecimal() else part for part in parts]


def from_file(path: Path, transform: Transform) -> Array:
    """Pixels of one file after ``transform``, uint8 (height, width, channels)."""
    try:
        return decoded(path.read_bytes(), transform, str(path))
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror}).", where=str(path)) from None


def decoded(content: bytes, transform: Transform, where: str) -> Array:
    """Pixels of an encoded image after ``transform``, uint8 (height, width, channels).

    Raises:
        RequestError: it is no image, or one of more than 100 megapixels.
    """
    image = _opened(content, transform.input_size[0], where)
    made = np.asarray(_fitted(image, transform))
    return made[..., np.newaxis] if made.ndim == 2 else made


def _opened(content: bytes, channels: int, where: str) -> Image:
    try:
        from PIL import Image as pillow
    except ImportError:
        hint = 'pip install "hwbench[images]".'
        raise RequestError("images need Pillow.", where="data.images", hint=hint) from None
    try:
        with pillow.open(BytesIO(content)) as image:
            if image.width * image.height > MOST_PIXELS:
                what = f"has {image.width}x{image.height} pixels, more than {MOST_PIXELS:,}."
                raise RequestError(what, where=where, hint="remove it, or make it smaller.")
            return image.convert(_MODES[channels])
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        what = f"cannot be read as an image ({error})."
        raise RequestError(what, where=where, hint="remove it, or write it again.") from None


def _fitted(image: Image, transform: Transform) -> Image:
    """The shorter side resized to the crop's over ``crop_pct``, then the middle cut out."""
    from PIL.Image import Resampling

    _, height, width = transform.input_size
    method = Resampling[transform.interpolation.upper()]
    if height != width:  # timm scales both sides where the crop is no square
        tall, wide = (math.floor(each / transform.crop_pct) for each in (height, width))
        return _middle(image.resize((wide, tall), method), height, width)
    shorter = math.floor(height / transform.crop_pct)
    scale = shorter / min(image.size)
    sides = [
        shorter if each == min(image.size) else int(shorter * each / min(image.size))
        for each in image.size
    ]
    resized = image if scale == 1 else image.resize((sides[0], sides[1]), method)
    return _middle(resized, height, width)


def _middle(image: Image, height: int, width: int) -> Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
