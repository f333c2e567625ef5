"""Random bit flips in stored tensors: at a rate per bit, or a count per pattern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hwbench.backend import Site
from hwbench.scenario import parameter
from hwbench.seeds import Key
from hwbench_scenarios.places import Places
from hwbench_scenarios.stored import Channelled, Drawn, Hits, InBits, bit_mask, merged


@dataclass(frozen=True)
class BitFault(InBits, Channelled, Drawn):
    """Faults that begin at a bit and may concern its neighbours too (multi-bit upsets)."""

    adjacent: int | None = parameter(
        None, "adjacent bits of a word that one fault concerns; one if absent", "bits"
    )
    words: int | None = parameter(
        None, "neighbouring words in storage that one fault concerns; one if absent", "words"
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        for name in ("adjacent", "words"):
            value = getattr(self, name)
            if value is not None and not 2 <= value <= 64:
                raise ValueError(f"{name} is 2 to 64, not {value}; leave it out for one")
        if self.words is not None and self.channels is not None:
            raise ValueError("words and channels do not go together: neighbours leave a channel")

    @property
    def variant(self) -> str:
        """The bits asked for, and the size of an upset."""
        bits = f"{self.adjacent}bits" if self.adjacent else ""
        words = f"{self.words}words" if self.words else ""
        return "-".join(filter(None, (super().variant, bits, words)))

    def starts(self, site: Site) -> tuple[int, ...]:
        """Bits at which an upset can begin so that all of it lies in the bits asked for."""
        bits = set(self.eligible(site))
        reach = range(self.adjacent or 1)
        return tuple(bit for bit in sorted(bits) if all(bit + each in bits for each in reach))

    def places(self, site: Site) -> int:
        """Bits at which a fault can begin."""
        size = self.elements(site).size - (self.words or 1) + 1
        return max(0, size) * len(self.starts(site))

    def hit(self, site: Site, at: Places, key: Key) -> Hits:
        """The bits at these places and their neighbours."""
        starts = np.asarray(self.starts(site), dtype=np.int64)
        if not at.size:
            return at, bit_mask(at)
        element, bit = self.elements(site).at(at // starts.size), starts[at % starts.size]
        if self.adjacent is None and self.words is None:
            return element, bit_mask(bit)
        word, reach = (np.arange(each or 1) for each in (self.words, self.adjacent))
        wide = np.bitwise_or.reduce(bit_mask(bit[:, None] + reach), axis=1)
        neighbours = element[:, None] + word
        return merged(neighbours.reshape(-1), np.repeat(wide, word.size))


@dataclass(frozen=True)
class BitFlip(BitFault):
    """Flip stored bits, each with the same probability (``rate``), or a fixed number (``count``).

    Patterns are nested: with the same seed, the flips at a lower rate (or count) are a subset of
    those at a higher one, so that severity curves are compared pattern by pattern. Weights flip
    in their stored form: an int8 environment flips int8 bytes. Input flips are drawn per dataset
    sample. With ``adjacent`` or ``words`` the rate and count are those of upsets, each of which
    lies whole in the tensor and in the bits asked for; where two overlap, a bit flips once.
    """

    name: ClassVar[str] = "bitflip"
    example: ClassVar[str] = "{bitflip: {target: weights, rate: [1.0e-6, 1.0e-5]}, patterns: 20}"
