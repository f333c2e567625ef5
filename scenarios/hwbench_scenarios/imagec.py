"""The 15 corruptions of ImageNet-C as functions of an image, a severity's constants and a stream.

Definitions and constants: Hendrycks and Dietterich, "Benchmarking neural network robustness to
common corruptions and perturbations", ICLR 2019, for 224 pixels (ImageNet-C) and 32 (CIFAR-10-C).
Filters and resampling are SciPy's, JPEG and box resizing Pillow's; every draw comes from the
stream given. Two deliberate differences: ``frost`` is synthetic (the published photographs carry
no licence), and ``elastic_transform`` resamples once instead of twice.

Images are float64, rows x columns x channels, 0..1; results may leave that range by a little.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

Image = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Stream = np.random.Generator
Scale = Literal["imagenet", "cifar"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]


@dataclass(frozen=True)
class Corruption:
    """One kind: its function, and the constants of severities 1 to 5 for either size of image."""

    function: Callable[[Image, Any, Stream], Image]
    imagenet: Sequence[Any]
    cifar: Sequence[Any]


def gaussian_noise(image: Image, scale: float, stream: Stream) -> Image:
    """Additive noise of deviation ``scale``."""
    return image + scale * stream.standard_normal(image.shape)


def shot_noise(image: Image, photons: float, stream: Stream) -> Image:
    """Poisson noise at ``photons`` per unit of brightness."""
    counts: Image = stream.poisson(image * photons).astype(np.float64)
    return counts / photons


def impulse_noise(image: Image, amount: float, stream: Stream) -> Image:
    """Salt and pepper on a share of the elements; more severe ones hit a superset."""
    hit = stream.random(image.shape) < amount
    return np.where(hit, stream.integers(0, 2, image.shape).astype(np.float64), image)


def defocus_blur(image: Image, lens: tuple[float, float], stream: Stream) -> Image:
    """A disk of ``(radius, blur of its edge)`` pixels."""
    radius, edge = lens
    reach = max(8, int(radius))
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    taps = np.arange(-2, 3) if radius > 8 else np.arange(-1, 2)
    weights = np.exp(-(taps**2) / (2 * edge**2))
    for along in (0, 1):
        disk = ndimage.correlate1d(disk, weights / weights.sum(), axis=along, mode="mirror")
    return _convolved(image, disk)


def _convolved(image: Image, kernel: Image) -> Image:
    reach = kernel.shape[0] // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return np.asarray(signal.fftconvolve(padded, kernel[:, :, None], mode="valid", axes=(0, 1)))


def glass_blur(image: Image, glass: tuple[float, int, int], stream: Stream) -> Image:
    """Blur, then scatter pixels: ``(sigma, largest distance, passes)``; then blur again."""
    sigma, reach, passes = glass
    blurred = _blurred(image, sigma)
    rows, columns = image.shape[:2]
    if min(rows, columns) <= 2 * reach:
        return blurred
    source = _scattered(rows, columns, reach, passes, stream)
    shuffled = blurred.reshape(rows * columns, -1)[source].reshape(image.shape)
    return _blurred(shuffled, sigma)


def _scattered(
    rows: int, columns: int, reach: int, passes: int, stream: Stream
) -> npt.NDArray[np.int64]:
    """Which pixel comes to lie where: from the lower right corner up, each takes a neighbour's.

    The paper speaks of swaps; the published images come from copies (the script swaps two views of
    one array), which move a pixel less far, and it is those that models were measured on.
    """
    source = list(range(rows * columns))
    # Python integers: a copy depends on the ones before it, so there is nothing to vectorise.
    shape = (passes, rows - 2 * reach, columns - 2 * reach)
    moves = stream.integers(-reach, reach, (*shape, 2))
    targets = (moves[..., 0] * columns + moves[..., 1]).tolist()
    for each in targets:
        for row, line in enumerate(each):
            start = (rows - 1 - reach - row) * columns + columns - 1 - reach
            for column, move in enumerate(line):
                source[start - column] = source[start - column + move]
    return np.asarray(source, dtype=np.int64)


def _blurred(image: Image, sigma: float) -> Image:
    return np.asarray(ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest"))


def motion_blur(image: Image, motion: tuple[int, float], stream: Stream) -> Image:
    """A smear of ``(radius, sigma)`` pixels in a direction within 45 degrees of the rows."""
    return _smeared(image, *motion, stream.uniform(-45.0, 45.0))


def _smeared(image: Image, radius: int, sigma: float, degrees: float) -> Image:
    """One-sided Gaussian weights along a line, sampled at whole pixels; edges are repeated."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)
    rows = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    columns = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    height, width = image.shape[:2]
    result = np.zeros_like(image)
    for weight, down, right in zip(weights, rows, columns, strict=True):
        row = np.clip(np.arange(height) + down, 0, height - 1)
        column = np.clip(np.arange(width) + right, 0, width - 1)
        result += weight * image[row[:, None], column[None, :]]
    return result


def zoom_blur(image: Image, zoom: tuple[float, float], stream: Stream) -> Image:
    """The mean of the image and of itself enlarged from 1 by steps: ``(largest, step)``."""
    largest, step = zoom
    factors = 1 + step * np.arange(round((largest - 1) / step) + 1)
    total = image + sum(_enlarged(image, float(factor)) for factor in factors)
    return np.asarray(total / (len(factors) + 1))


def _enlarged(image: Image, factor: float) -> Image:
    """The middle of an image, enlarged to its size, bilinear."""
    height, width = image.shape[:2]
    kept = [int(np.ceil(size / factor)) for size in (height, width)]
    top, left = ((size - keep) // 2 for size, keep in zip((height, width), kept, strict=True))
    middle = image[top : top + kept[0], left : left + kept[1]]
    large = ndimage.zoom(middle, (factor, factor, 1), order=1)
    down, right = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return np.asarray(large[down : down + height, right : right + width])


def snow(image: Image, weather: tuple[float, ...], stream: Stream) -> Image:
    """Flakes of ``(mean, deviation, zoom, threshold, radius, sigma, share of the scene)``."""
    mean, deviation, zoom, threshold, radius, sigma, share = weather
    flakes = mean + deviation * stream.standard_normal((*image.shape[:2], 1))
    flakes = _enlarged(flakes, zoom)
    flakes[flakes < threshold] = 0.0
    layer = _smeared(np.clip(flakes, 0.0, 1.0), int(radius), sigma, stream.uniform(-135.0, -45.0))
    bright = np.maximum(image, _grey(image) * 1.5 + 0.5)
    return share * image + (1 - share) * bright + layer + np.rot90(layer, 2)


def _grey(image: Image) -> Image:
    if image.shape[2] == 1:
        return image
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))[..., None]


def frost(image: Image, cover: tuple[float, float], stream: Stream) -> Image:
    """Ice ``(share of the scene, share of the ice)``: ridges of a fractal, synthetic."""
    height, width = image.shape[:2]
    ridges = 1 - np.abs(2 * _plasma(max(height, width), 1.6, stream)[:height, :width] - 1)
    crystals = ridges**2
    tint = np.array([0.85, 0.93, 1.0]) if image.shape[2] == 3 else np.ones(image.shape[2])
    return cover[0] * image + cover[1] * crystals[..., None] * tint


def fog(image: Image, mist: tuple[float, float], stream: Stream) -> Image:
    """Mist of ``(density, roughness decay)``, a fractal; the brightest value stays."""
    height, width = image.shape[:2]
    density, decay = mist
    brightest = float(image.max())
    layer = _plasma(max(height, width), decay, stream)[:height, :width, None]
    return (image + density * layer) * brightest / (brightest + density)


def _plasma(size: int, decay: float, stream: Stream) -> Image:
    """A wrapped height map by diamond-square, 0..1, side the next power of two.

    From one octave to the next the displacement shrinks by ``decay`` squared, as in the published
    maps, whose amplitude is multiplied in twice.
    """
    side = 1 << max(1, int(np.ceil(np.log2(size))))
    heights = np.zeros((side, side))
    step, wobble = side, 1.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        middles = _mean4(corners, np.roll(corners, -1, 0), np.roll(corners, -1, 1),
                         np.roll(corners, (-1, -1), (0, 1)))  # fmt: skip
        middles = middles + wobble * stream.uniform(-1, 1, corners.shape)
        heights[half::step, half::step] = middles
        for axis, place in ((0, (slice(0, None, step), slice(half, None, step))),
                            (1, (slice(half, None, step), slice(0, None, step)))):  # fmt: skip
            around = _mean4(corners, np.roll(corners, -1, 1 - axis),
                            middles, np.roll(middles, 1, axis))  # fmt: skip
            heights[place] = around + wobble * stream.uniform(-1, 1, corners.shape)
        step, wobble = half, wobble / decay**2
    heights -= heights.min()
    return np.asarray(heights / heights.max())


def _mean4(a: Image, b: Image, c: Image, d: Image) -> Image:
    return (a + b + c + d) / 4


def brightness(image: Image, more: float, stream: Stream) -> Image:
    """A higher value in HSV: hue and saturation stay, so all channels scale alike."""
    value = image.max(axis=2, keepdims=True)
    raised = np.clip(value + more, 0.0, 1.0)
    scaled = image * raised / np.where(value > 0, value, 1.0)
    return np.asarray(np.where(value > 0, scaled, raised))


def contrast(image: Image, kept: float, stream: Stream) -> Image:
    """Deviations from each channel's mean, reduced."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return np.asarray((image - mean) * kept + mean)


def elastic_transform(image: Image, rubber: tuple[float, float, float], stream: Stream) -> Image:
    """A random affine map and a smooth field: ``(strength, smoothness, shift of 3 points)``."""
    strength, smoothness, shift = rubber
    height, width = image.shape[:2]
    inverse = np.linalg.inv(_affine(height, width, shift, stream))
    field = [
        strength * ndimage.gaussian_filter(
            stream.uniform(-1, 1, (height, width)), smoothness, mode="reflect", truncate=3
        )
        for _ in range(2)
    ]  # fmt: skip
    rows, columns = np.mgrid[:height, :width]
    # The point that comes to lie here: first the field, then the map, taken back.
    there = inverse @ np.stack(
        [(columns + field[0]).ravel(), (rows + field[1]).ravel(), np.ones(rows.size)]
    )
    places = [there[1].reshape(rows.shape), there[0].reshape(rows.shape)]
    channels = [
        ndimage.map_coordinates(image[..., each], places, order=1, mode="mirror")
        for each in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1)


def _affine(height: int, width: int, shift: float, stream: Stream) -> Image:
    """The map that moves three corners of a square in the middle by up to ``shift`` pixels."""
    middle, reach = np.array([width // 2, height // 2], float), min(height, width) // 3
    before = middle + reach * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    after = before + stream.uniform(-shift, shift, before.shape)
    ones = np.ones((3, 1))
    return np.asarray(np.linalg.solve(np.hstack([before, ones]), np.hstack([after, ones])).T)


def pixelate(image: Image, share: float, stream: Stream) -> Image:
    """Shrunk to a share of its sides by box means, and enlarged again."""
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    opened = _to_pillow(image)
    shrunk = opened.resize(small, Pillow.Resampling.BOX)
    return _from_pillow(shrunk.resize((width, height), Pillow.Resampling.BOX), image.shape)


def jpeg_compression(
    image: Image,
    quality: int,
    stream: Stream,
    subsampling: Subsampling = "4:2:0",
    decoder: Literal["pillow", "opencv"] = "pillow",
) -> Image:
    """Through a JPEG file of a quality (1..95) and chroma subsampling, by Pillow's encoder."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    # A grey image has no chroma; the encoder would still look at the option.
    options = {"subsampling": subsampling} if image.shape[2] == 3 else {}
    _to_pillow(image).save(file, "JPEG", quality=int(quality), **options)
    if decoder == "opencv":
        return _from_opencv(file.getvalue(), image.shape)
    return _from_pillow(Pillow.open(file), image.shape)


def _from_opencv(content: bytes, shape: tuple[int, ...]) -> Image:
    import cv2

    colours = cv2.IMREAD_COLOR if shape[2] == 3 else cv2.IMREAD_GRAYSCALE
    found = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), colours), np.float64)
    return found.reshape(shape)[:, :, ::-1] / 255  # OpenCV's colours are blue, green, red


def _to_pillow(image: Image) -> Any:
    from PIL import Image as Pillow

    stored = to_bytes(image)
    return Pillow.fromarray(stored[..., 0] if stored.shape[2] == 1 else stored)


def _from_pillow(opened: Any, shape: tuple[int, ...]) -> Image:
    return np.asarray(opened, dtype=np.float64).reshape(shape) / 255


def to_bytes(image: Image) -> Bytes:
    """0..1 to 0..255, to the nearest; what lies outside saturates."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)


def _elastic(size: int, *parts: tuple[float, float, float]) -> list[tuple[float, ...]]:
    """Published as multiples of the image's side."""
    return [tuple(size * each for each in part) for part in parts]


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(
        gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.06, 0.08, 0.09, 0.10)
    ),
    "shot_noise": Corruption(shot_noise, (60, 25, 12, 5, 3), (500, 250, 100, 75, 50)),
    "impulse_noise": Corruption(
        impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), (0.01, 0.02, 0.03, 0.05, 0.07)
    ),
    "defocus_blur": Corruption(
        defocus_blur,
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    "glass_blur": Corruption(
        glass_blur,
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ),
    "motion_blur": Corruption(
        motion_blur,
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ),
    "zoom_blur": Corruption(
        zoom_blur,
        ((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03)),
        ((1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
    ),
    "snow": Corruption(
        snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": Corruption(
        frost,
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ),
    "fog": Corruption(
        fog,
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ),
    "brightness": Corruption(
        brightness, (0.1, 0.2, 0.3, 0.4, 0.5), (0.05, 0.1, 0.15, 0.2, 0.3)
    ),
    "contrast": Corruption(contrast, (0.4, 0.3, 0.2, 0.1, 0.05), (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": Corruption(
        elastic_transform,
        _elastic(  # 244, sic: the published side, for images of 224
            244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02), (0.12, 0.01, 0.02),
        ),
        _elastic(
            32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05), (0.1, 0.03, 0.03),
        ),
    ),
    "pixelate": Corruption(pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Corruption(jpeg_compression, (25, 18, 15, 10, 7), (80, 65, 58, 50, 40)),
}  # fmt: skip
