"""Defects of a sensor and of its link: dead, stuck and hot elements, lost samples and packets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench.backend import TensorSpec
from hwbench.scenario import parameter
from hwbench_scenarios.layout import Layout, layout_of
from hwbench_scenarios.ranged import Floats, RangedInput, check_share


@dataclass(frozen=True)
class Defects(RangedInput):
    """Elements of a sensor that always read the same: dead, stuck or hot, alike in all samples.

    ``dead`` reads the lower end of the range, ``hot`` the upper one, ``stuck`` a level of its own.
    ``of: elements`` hits pixels (all colours at once), or elements of a series or vector;
    ``of: channels`` hits whole colours or audio tracks. A pattern is one sensor. With the same
    seed the defects at a lower share are a subset of those at a higher one.
    """

    name: ClassVar[str] = "defects"
    severities: ClassVar[tuple[str, ...]] = ("share",)
    example: ClassVar[str] = "{defects: {kind: [dead, hot], share: [0.001, 0.01]}, patterns: 10}"

    share: float | None = parameter(None, "share of the elements (or channels) that is defective")
    kind: Literal["dead", "stuck", "hot"] = parameter("dead", "dead, stuck or hot")
    of: Literal["elements", "channels"] = parameter("elements", "elements or channels")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        check_share("share", self.share)

    @property
    def variant(self) -> str:
        """The kind, and what it befalls where that is not elements."""
        return self.kind if self.of == "elements" else f"{self.kind}-{self.of}"

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """One sensor takes all samples."""
        return "pattern"

    def refuses(self, tensor: TensorSpec) -> str:
        """As for every input, and channels must exist to be defective."""
        reason = super().refuses(tensor)
        if reason or self.of == "elements":
            return reason
        layout = layout_of(tensor.shape[1:])
        if layout is None or layout.channel is None:
            return f"{tensor.name!r} has no channels that could be defective; use of: elements"
        return ""

    def change(
        self, signal: Floats, layout: Layout, stream: np.random.Generator
    ) -> tuple[Floats, float]:
        """Overwrite the defective ones; achieved is their share."""
        shape = _sites(signal.shape, layout, self.of)
        size = int(np.prod(shape))
        hit = np.zeros(size, dtype=np.bool_)
        hit[stream.permutation(size)[: round(float(self.share or 0.0) * size)]] = True
        low, high = self.range
        levels = {
            "dead": np.full(size, low),
            "hot": np.full(size, high),
            "stuck": stream.uniform(low, high, size),
        }[self.kind]
        new = np.where(hit.reshape(shape), levels.reshape(shape), signal)
        return new, float(hit.mean()) if size else float("nan")


def _sites(shape: tuple[int, ...], layout: Layout, of: str) -> tuple[int, ...]:
    """Shape of what can be defective, to be broadcast against a sample."""
    if of == "channels":
        return tuple(size if axis == layout.channel else 1 for axis, size in enumerate(shape))
    # A pixel is defective in all its colours; an audio track has a converter of its own.
    joined = layout.channel if layout.kind == "image" else None
    return tuple(1 if axis == joined else size for axis, size in enumerate(shape))


@dataclass(frozen=True)
class Loss(RangedInput):
    """Samples, frames or packets that never arrive.

    Time (an image's rows, the frames of a spectrogram, the samples of audio) is cut into packets
    of ``packet`` steps. Losses come in bursts of geometric length, ``burst`` packets on average;
    bursts are added in a fixed order until the share is reached, so with the same seed a smaller
    loss is part of a larger one. A lost packet reads ``zero`` or holds the last value received.
    """

    name: ClassVar[str] = "loss"
    severities: ClassVar[tuple[str, ...]] = ("share",)
    example: ClassVar[str] = "{loss: {share: [0.05, 0.2], packet: 4, burst: 2, fill: hold}}"

    share: float | None = parameter(None, "share of the packets that is lost")
    packet: int = parameter(1, "length of a packet", "time steps")
    burst: float = parameter(1.0, "mean length of a burst of losses", "packets")
    fill: Literal["zero", "hold"] = parameter("zero", "what is read instead: zero or hold")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        check_share("share", self.share)
        if self.packet < 1 or not 1 <= self.burst <= 1e6:
            raise ValueError("packet and burst are 1 or more")

    @property
    def variant(self) -> str:
        """The filling, where it is not zero."""
        return "" if self.fill == "zero" else self.fill

    def change(
        self, signal: Floats, layout: Layout, stream: np.random.Generator
    ) -> tuple[Floats, float]:
        """Take packets away; achieved is their share."""
        steps = signal.shape[layout.time]
        packets = -(-steps // self.packet)
        lost = _lost(packets, round(float(self.share or 0.0) * packets), self.burst, stream)
        gone = np.repeat(lost, self.packet)[:steps]
        last = np.moveaxis(signal, layout.time, -1)
        new = last[..., _held(gone)] if self.fill == "hold" else last.copy()
        # Nothing was received yet that could be held, or nothing is held at all.
        new[..., gone if self.fill == "zero" else gone & (np.cumsum(~gone) == 0)] = 0.0
        return np.moveaxis(new, -1, layout.time), float(lost.mean()) if packets else float("nan")


def _lost(
    packets: int, wanted: int, burst: float, stream: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Exactly ``wanted`` lost packets, burst after burst; the last one may be cut short."""
    starts = stream.permutation(packets)
    lengths = stream.geometric(1 / burst, packets)
    lost = np.zeros(packets, dtype=np.bool_)
    left = wanted
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        if left <= 0:
            break
        fresh = np.flatnonzero(~lost[start : start + length])[:left] + start
        lost[fresh] = True
        left -= fresh.size
    return lost


def _held(gone: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For each step, the last one that was received (itself where it was)."""
    received = np.where(gone, 0, np.arange(gone.size))
    held: npt.NDArray[np.int64] = np.maximum.accumulate(received)
    return held
