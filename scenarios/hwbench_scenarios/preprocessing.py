"""Pre-processing drift: the same picture, read by another library than the one trained with.

The differences that Wang et al. measure in "SysNoise: exploring and benchmarking
training-deployment system inconsistency", MLSys 2023, as far as the data at hand allow: resize
kernels, colour modes, and (scenario ``jpeg``, parameter ``decoder``) decoders. The data are what
the trained-with pipeline gave, so the source picture is made from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench.backend import TensorSpec
from hwbench.scenario import parameter
from hwbench_scenarios.corruption import OPENCV_HINT, PILLOW_HINT, ImageInput
from hwbench_scenarios.layout import layout_of
from hwbench_scenarios.ranged import Floats

Bytes = npt.NDArray[np.uint8]

# Luma weights of red and blue: ITU-R BT.601 and BT.709.
_BT601, _BT709 = (0.299, 0.114), (0.2126, 0.0722)


@dataclass(frozen=True)
class Resize(ImageInput):
    """Resizing by another library or kernel than the model was trained with.

    The picture is enlarged ``scale`` times by Pillow's bicubic kernel, rounded to 8 bits (what a
    camera would give), and brought back to its size by the kernel in question. Compare kernels
    with each other, not with clean: the way there and back costs something by itself.
    """

    name: ClassVar[str] = "resize"
    severities: ClassVar[tuple[str, ...]] = ("scale",)
    example: ClassVar[str] = (
        "{resize: {scale: [1.5, 2.5], kernel: [pillow-bilinear, opencv-linear, pillow-nearest]}}"
    )

    scale: float | None = parameter(None, "size of the source picture by that of the input")
    kernel: Literal[
        "pillow-nearest",
        "pillow-box",
        "pillow-bilinear",
        "pillow-hamming",
        "pillow-bicubic",
        "pillow-lanczos",
        "opencv-nearest",
        "opencv-linear",
        "opencv-area",
        "opencv-cubic",
        "opencv-lanczos4",
    ] = parameter(
        "opencv-linear",
        "pillow-nearest, -box, -bilinear, -hamming, -bicubic, -lanczos; opencv-nearest, -linear,"
        " -area, -cubic, -lanczos4",
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.scale is not None and not 1 < self.scale <= 16:
            raise ValueError(f"scale lies between 1 (not included) and 16, not {self.scale:g}")

    @property
    def variant(self) -> str:
        """The kernel."""
        return self.kernel

    def _missing(self) -> str:
        if find_spec("PIL") is None:
            return f"resize {PILLOW_HINT}"
        absent = self.kernel.startswith("opencv") and find_spec("cv2") is None
        return f"{self.kernel} {OPENCV_HINT}" if absent else ""

    def corrupt(self, image: Floats, stream: np.random.Generator) -> Floats:
        """There and back."""
        pixels = np.rint(image * 255).astype(np.uint8)
        rows, columns = pixels.shape[:2]
        larger = (round(rows * float(self.scale or 1)), round(columns * float(self.scale or 1)))
        source = _resized(pixels, larger, "pillow-bicubic")
        return _resized(source, (rows, columns), self.kernel) / 255


def _resized(pixels: Bytes, size: tuple[int, int], kernel: str) -> Bytes:
    """8-bit pixels, rows x columns x channels, at another size."""
    library, _, name = kernel.partition("-")
    flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    if library == "pillow":
        from PIL import Image

        resampling = Image.Resampling[name.upper()]
        found = np.asarray(Image.fromarray(flat).resize(size[::-1], resampling))
    else:
        import cv2

        interpolation = getattr(cv2, f"INTER_{name.upper()}")
        found = cv2.resize(np.ascontiguousarray(flat), size[::-1], interpolation=interpolation)
    return np.asarray(found, dtype=np.uint8).reshape(*size, pixels.shape[2])


@dataclass(frozen=True)
class Colour(ImageInput):
    """Colours by another convention than the model was trained with.

    Modes: ``bgr`` swaps red and blue; ``expanded`` takes full-range pixels for limited ones (16 to
    235) and stretches them; ``compressed`` feeds limited-range pixels as they are; ``nv12`` goes
    through 8-bit YCbCr with one chroma value for 2 x 2 pixels, as video decoders give it, repeated;
    ``bt709`` decodes by BT.709 what was encoded by BT.601.
    """

    name: ClassVar[str] = "colour"
    severities: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[str] = "{colour: {mode: [bgr, expanded, compressed, nv12, bt709]}}"
    short: ClassVar[str] = "mode"

    mode: Literal["bgr", "expanded", "compressed", "nv12", "bt709"] = parameter(
        "nv12", "bgr, expanded, compressed, nv12 or bt709"
    )

    @property
    def variant(self) -> str:
        """The mode."""
        return self.mode

    def refuses(self, tensor: TensorSpec) -> str:
        """What has no colours has no colour drift, but for its range."""
        reason = super().refuses(tensor)
        if reason or self.mode in ("expanded", "compressed"):
            return reason
        layout = layout_of(tensor.shape[1:])
        channel = None if layout is None else layout.channel
        if channel is None or tensor.shape[1:][channel] != 3:
            return f"colour {self.mode} is for RGB images, and {tensor.name!r} has no three colours"
        return ""

    def corrupt(self, image: Floats, stream: np.random.Generator) -> Floats:
        """By the mode."""
        if self.mode == "bgr":
            return image[:, :, ::-1]
        if self.mode == "expanded":
            return (image * 255 - 16) / 219
        if self.mode == "compressed":
            return (16 + image * 219) / 255
        luma, blue, red = _encoded(image, _BT601)
        if self.mode == "bt709":
            return _decoded(luma, blue, red, _BT709)
        return _decoded(luma, _halved(blue), _halved(red), _BT601)


def _encoded(image: Floats, weights: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    """Full-range Y, Cb and Cr, rounded to 8 bits, of an RGB image of 0..1."""
    of_red, of_blue = weights
    pixels = image * 255
    luma = pixels @ np.array([of_red, 1 - of_red - of_blue, of_blue])
    blue = 128 + (pixels[:, :, 2] - luma) / (2 * (1 - of_blue))
    red = 128 + (pixels[:, :, 0] - luma) / (2 * (1 - of_red))
    first, second, third = (np.rint(each).clip(0, 255) for each in (luma, blue, red))
    return first, second, third


def _halved(chroma: Floats) -> Floats:
    """The mean of each 2 x 2 pixels, rounded, in all four of them; edges are repeated."""
    rows, columns = chroma.shape
    padded = np.pad(chroma, ((0, rows % 2), (0, columns % 2)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2)
    mean = np.rint(blocks.mean(axis=(1, 3)))
    return np.asarray(mean.repeat(2, axis=0).repeat(2, axis=1)[:rows, :columns])


def _decoded(luma: Floats, blue: Floats, red: Floats, weights: tuple[float, float]) -> Floats:
    """An RGB image of 0..1 (it may leave that range) of full-range Y, Cb and Cr."""
    of_red, of_blue = weights
    r = luma + 2 * (1 - of_red) * (red - 128)
    b = luma + 2 * (1 - of_blue) * (blue - 128)
    g = (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return np.stack([r, g, b], axis=-1) / 255
