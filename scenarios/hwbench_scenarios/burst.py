"""Contiguous runs of inverted bits or bytes, across words where they are long enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hwbench.backend import Site
from hwbench.scenario import parameter
from hwbench.seeds import Key
from hwbench_scenarios.places import Places
from hwbench_scenarios.stored import Drawn, Hits, bit_mask, merged

_MOST = 1 << 20


@dataclass(frozen=True)
class Burst(Drawn):
    """Every bit of a contiguous run of the stored tensor is inverted.

    Bits are numbered as they lie in memory, little-endian: bit 0 of an element follows the highest
    bit of the one before. The rate is per place at which a run can begin; a run lies whole in its
    tensor, and where two overlap, a bit is inverted once.
    """

    name: ClassVar[str] = "burst"
    noun: ClassVar[str] = "bursts"
    per: ClassVar[str] = "place"
    example: ClassVar[str] = "{burst: {count: [1, 4], length: 4, grain: bytes}, patterns: 50}"

    length: int = parameter(8, "bits (or bytes) of a run")
    grain: Literal["bits", "bytes"] = parameter("bits", "what a run is made of and begins at")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if not 1 <= self.length <= _MOST:
            raise ValueError(f"length is 1 to {_MOST}, not {self.length}")

    @property
    def variant(self) -> str:
        """Length and grain."""
        return f"{self.length}{self.grain}"

    @property
    def _step(self) -> int:
        return 8 if self.grain == "bytes" else 1

    def places(self, site: Site) -> int:
        """Bits or bytes at which a run can begin and still end within the tensor."""
        return max(0, site.size * site.bits // self._step - self.length + 1)

    def hit(self, site: Site, at: Places, key: Key) -> Hits:
        """The words that the runs touch, with their bits."""
        run = np.arange(self.length * self._step)
        bits = (at[:, None] * self._step + run).reshape(-1)
        return merged(bits // site.bits, bit_mask(bits % site.bits))
