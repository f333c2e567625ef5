"""Corrupted images: the 15 kinds of ImageNet-C at severities 1 to 5, and JPEG by its quality."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import numpy as np

from hwbench.backend import TensorSpec
from hwbench.scenario import parameter
from hwbench_scenarios.layout import Layout, layout_of
from hwbench_scenarios.ranged import Floats, RangedInput

_SMALLEST = 16  # pixels: below that the published constants describe nothing
_SMALL = 100  # pixels: below that CIFAR-10-C's constants are meant, above ImageNet-C's
OPENCV_HINT = 'needs OpenCV, which is not installed. Hint: pip install "hwbench[opencv]"'
PILLOW_HINT = 'needs Pillow, which is not installed. Hint: pip install "hwbench[images]"'


@dataclass(frozen=True)
class ImageInput(RangedInput):
    """A change of 8-bit images.

    The input is mapped from ``low``..``high`` (black to white; the dataset's extremes where they
    are not given) to 0..255 and rounded, changed, rounded again and mapped back. What was achieved
    is the peak signal-to-noise ratio in dB.
    """

    def refuses(self, tensor: TensorSpec) -> str:
        """Anything but grey or RGB images of at least 16 x 16 pixels."""
        reason = super().refuses(tensor) or self._missing()
        layout = layout_of(tensor.shape[1:])
        if reason or layout is None:
            return reason
        if layout.kind != "image" or layout.across is None:
            return f"{self.name} is for images, and {tensor.name!r} is a series"
        sample = tensor.shape[1:]
        if layout.channel is not None and sample[layout.channel] not in (1, 3):
            count = sample[layout.channel]
            return (
                f"{self.name} is for grey or RGB images, and {tensor.name!r} has {count} channels"
            )
        sides = (sample[layout.time], sample[layout.across])
        if any(side is not None and side < _SMALLEST for side in sides):
            return (
                f"{self.name} is defined for images of {_SMALLEST} pixels or more a side,"
                f" and {tensor.name!r} has {sides[0]} x {sides[1]}"
            )
        return ""

    def _missing(self) -> str:
        return ""

    def change(
        self, signal: Floats, layout: Layout, stream: np.random.Generator
    ) -> tuple[Floats, float]:
        """From the model's numbers to pixels, through ``corrupt``, and back."""
        from hwbench_scenarios.imagec import to_bytes

        assert layout.across is not None
        low, high = self.range
        axes = (layout.time, layout.across, *(() if layout.channel is None else (layout.channel,)))
        ordered = np.moveaxis(signal, axes, range(len(axes)))
        pixels = to_bytes((ordered - low) / (high - low)) / 255
        image = pixels.reshape(*pixels.shape[:2], -1)
        changed = to_bytes(self.corrupt(image, stream)).astype(np.float64) / 255
        error = float(np.mean(np.square(changed - image)))
        back = np.moveaxis(changed.reshape(pixels.shape), range(len(axes)), axes)
        psnr = float(-10 * np.log10(error)) if error else float("nan")
        return low + (high - low) * back, psnr

    @abstractmethod
    def corrupt(self, image: Floats, stream: np.random.Generator) -> Floats:
        """An image of rows x columns x channels, 0..1, changed."""


@dataclass(frozen=True)
class Corruption(ImageInput):
    """A corruption of ImageNet-C at one of its five severities.

    Images below 100 pixels take CIFAR-10-C's constants, larger ones ImageNet-C's, unless ``scale``
    says. The draw of a sample is the same at every level. ``frost`` is synthetic; see
    ``hwbench_scenarios.imagec`` for this and for the source.
    """

    name: ClassVar[str] = "corruption"
    severities: ClassVar[tuple[str, ...]] = ("level",)
    example: ClassVar[str] = "{corruption: {kind: [fog, motion_blur], level: [1, 3, 5]}}"

    level: int | None = parameter(None, "severity of ImageNet-C, 1 to 5")
    kind: Literal[
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "snow",
        "frost",
        "fog",
        "brightness",
        "contrast",
        "elastic_transform",
        "pixelate",
        "jpeg_compression",
    ] = parameter(
        "gaussian_noise",
        "one of the 15: gaussian_noise, shot_noise, impulse_noise, "
        "defocus_blur, glass_blur, motion_blur, zoom_blur, snow, frost, fog, brightness, contrast, "
        "elastic_transform, pixelate, jpeg_compression",
    )
    scale: Literal["auto", "imagenet", "cifar"] = parameter(
        "auto", "whose constants: auto (by size), imagenet or cifar"
    )
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = parameter(
        "4:2:0", "chroma subsampling of jpeg_compression"
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.level is not None and self.level not in range(1, 6):
            raise ValueError(f"level is 1, 2, 3, 4 or 5, not {self.level}")

    @property
    def variant(self) -> str:
        """The kind."""
        return self.kind

    @property
    def identity(self) -> dict[str, Any]:
        """Subsampling matters to JPEG alone, and draws nothing."""
        found = dict(super().identity)
        del found["subsampling"]
        return found

    def _missing(self) -> str:
        needs = self.kind in ("pixelate", "jpeg_compression") and find_spec("PIL") is None
        return f"{self.kind} {PILLOW_HINT}" if needs else ""

    def corrupt(self, image: Floats, stream: np.random.Generator) -> Floats:
        """By the table of ``imagec``."""
        from hwbench_scenarios.imagec import CORRUPTIONS, jpeg_compression

        found = CORRUPTIONS[self.kind]
        small = min(image.shape[:2]) < _SMALL if self.scale == "auto" else self.scale == "cifar"
        constant = (found.cifar if small else found.imagenet)[int(self.level or 1) - 1]
        if self.kind == "jpeg_compression":
            return jpeg_compression(image, constant, stream, self.subsampling)
        return found.function(image, constant, stream)


@dataclass(frozen=True)
class Jpeg(ImageInput):
    """The input as it comes out of a JPEG file of a given quality and chroma subsampling."""

    name: ClassVar[str] = "jpeg"
    severities: ClassVar[tuple[str, ...]] = ("quality",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "{jpeg: {quality: [95, 75, 50], subsampling: ['4:2:0', '4:4:4']}}"

    quality: int | None = parameter(None, "quality of libjpeg, 1 to 95")
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = parameter("4:2:0", "chroma subsampling")
    decoder: Literal["pillow", "opencv"] = parameter("pillow", "who decodes: pillow or opencv")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.quality is not None and not 1 <= self.quality <= 95:
            raise ValueError(f"quality lies between 1 and 95, not {self.quality}")

    @property
    def identity(self) -> dict[str, Any]:
        """A decoder draws nothing."""
        return {key: value for key, value in super().identity.items() if key != "decoder"}

    @property
    def variant(self) -> str:
        """The subsampling, and the decoder where it is not the usual one."""
        other = "" if self.decoder == "pillow" else self.decoder
        return "-".join(filter(None, (self.subsampling.replace(":", ""), other)))

    def _missing(self) -> str:
        if find_spec("PIL") is None:
            return f"jpeg {PILLOW_HINT}"
        absent = self.decoder == "opencv" and find_spec("cv2") is None
        return f"jpeg decoded by opencv {OPENCV_HINT}" if absent else ""

    def corrupt(self, image: Floats, stream: np.random.Generator) -> Floats:
        """Encode and decode."""
        from hwbench_scenarios.imagec import jpeg_compression

        quality = int(self.quality or 75)
        return jpeg_compression(image, quality, stream, self.subsampling, self.decoder)
