"""Whole words lost: read as zero, or as anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hwbench import edits
from hwbench.backend import Site
from hwbench.seeds import Key
from hwbench_scenarios.places import Places
from hwbench_scenarios.stored import Channelled, Drawn, Hits


@dataclass(frozen=True)
class _Words(Channelled, Drawn):
    """Elements that are overwritten; the rate is per element."""

    noun: ClassVar[str] = "words"
    per: ClassVar[str] = "word"

    @property
    def op(self) -> edits.Op:
        """The element becomes the mask."""
        return edits.Op.WRITE

    def places(self, site: Site) -> int:
        """Elements."""
        return self.elements(site).size

    def share(self, drawn: edits.Edits, sites: Sequence[Site]) -> float:
        """Share of the words that were overwritten."""
        return len(drawn) / sum(site.size for site in sites)


@dataclass(frozen=True)
class Zero(_Words):
    """Stored words become zero: a failed row, or a memory that answers nothing."""

    name: ClassVar[str] = "zero"
    example: ClassVar[str] = "{zero: {rate: [1.0e-4, 1.0e-3]}, patterns: 20}"

    def hit(self, site: Site, at: Places, key: Key) -> Hits:
        """All bits 0."""
        return self.elements(site).at(at), np.zeros(at.size, dtype=np.uint64)


@dataclass(frozen=True)
class RandomWord(_Words):
    """Stored words become random bits, each word its own; a word may keep its value by chance."""

    name: ClassVar[str] = "randomword"
    example: ClassVar[str] = "{randomword: {count: [1, 10]}, patterns: 50}"

    def hit(self, site: Site, at: Places, key: Key) -> Hits:
        """Words drawn in the order of their places, so that a longer list begins alike."""
        words = key.generator("words").integers(2**64, size=at.size, dtype=np.uint64)
        return self.elements(site).at(at), words >> np.uint64(64 - site.bits)
