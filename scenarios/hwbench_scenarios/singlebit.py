"""One bit per pattern, no bit twice: sampling and exhaustive enumeration of single faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hwbench import edits
from hwbench.backend import Site
from hwbench.errors import Unsupported
from hwbench.scenario import parameter
from hwbench.seeds import Key
from hwbench_scenarios.places import permuted
from hwbench_scenarios.stored import Channelled, InBits, nowhere


@dataclass(frozen=True)
class _Stratum:
    """Bits among which nothing is preferred: some bits of each chosen element of a site."""

    site: int
    bits: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class SingleBit(InBits, Channelled):
    """Exactly one flipped bit per pattern, and no bit in two patterns.

    Pattern ``i`` is the ``i``-th bit of a random order of all of them, so that any number of
    patterns is a sample without replacement, a longer sweep goes on from a shorter one, and as
    many patterns as there are bits are exhaustive. ``balance`` gives every site, or every bit
    position of every site, equally many patterns as long as its bits last: then rates of the whole
    cell are those of that mixture, and rates by layer are in the table ``vulnerability``.
    """

    name: ClassVar[str] = "singlebit"
    severities: ClassVar[tuple[str, ...]] = ("count",)
    example: ClassVar[str] = "{singlebit: {balance: bit}, patterns: 1000}"

    target: Literal["weights"] = parameter("weights", "what is hit")
    count: Literal[1] = parameter(1, "bits per pattern: always one")
    balance: Literal["none", "site", "bit"] = parameter(
        "none", "what is hit equally often: any bit, any site, or any bit position of any site"
    )

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """One chip computes all samples."""
        return "pattern"

    @property
    def variant(self) -> str:
        """What is balanced, and the bits asked for."""
        by = "" if self.balance == "none" else f"by-{self.balance}"
        return "-".join(filter(None, (by, super().variant)))

    def draw(self, sites: Sequence[Site], key: Key, row: int = edits.NO_ROW) -> edits.Edits:
        """The one flip of this pattern."""
        strata = [each for index, site in enumerate(sites) for each in self._strata(index, site)]
        total = sum(each.size for each in strata)
        names = tuple(site.name for site in sites)
        if not total:
            raise nowhere(self.name, names)
        if key.pattern >= total:
            raise Unsupported(
                f"pattern {key.pattern} has no bit left: there are {total}."
                f" Hint: patterns: {total} is exhaustive"
            )
        shared = key.across_patterns
        stratum, index = self._turn(strata, key.pattern, shared)
        site = sites[stratum.site]
        place = permuted(index, stratum.size, self._order(stratum, site, shared))
        element, bit = divmod(place, len(stratum.bits))
        flat = self.elements(site).at(np.asarray([element], dtype=np.int64))
        mask = 1 << stratum.bits[bit]
        return edits.make(names, stratum.site, flat, [mask], row=row)

    def _strata(self, index: int, site: Site) -> list[_Stratum]:
        bits, size = self.eligible(site), self.elements(site).size
        groups = [(bit,) for bit in bits] if self.balance == "bit" else [bits]
        return [_Stratum(index, group, size * len(group)) for group in groups if size and group]

    def _order(self, stratum: _Stratum, site: Site, shared: Key) -> Key:
        """The key of the order of a stratum's bits: by site name, never by the site's position."""
        return shared.child(site.name, *(stratum.bits if self.balance == "bit" else ()))

    def _turn(self, strata: list[_Stratum], pattern: int, shared: Key) -> tuple[_Stratum, int]:
        """Whose turn it is, and how often it had one before."""
        sizes = np.asarray([each.size for each in strata], dtype=np.int64)
        if self.balance == "none":  # turns by size: a random order of all bits of all sites
            ends = np.cumsum(sizes)
            place = permuted(pattern, int(ends[-1]), shared.child("order"))
            which = int(np.searchsorted(ends, place, side="right"))
            return strata[which], place - int(ends[which] - sizes[which])
        turn = _round(sizes, pattern)
        left = shared.generator("turns").permutation(len(strata))
        left = left[sizes[left] > turn]
        return strata[int(left[pattern - int(np.minimum(sizes, turn).sum())])], turn


def _round(sizes: np.ndarray[tuple[int], np.dtype[np.int64]], pattern: int) -> int:
    """The round in which a pattern falls, when every stratum that has bits left gives one each."""
    low, high = 0, int(sizes.max())
    while low < high - 1:
        middle = (low + high) // 2
        if int(np.minimum(sizes, middle).sum()) <= pattern:
            low = middle
        else:
            high = middle
    return low
