"""One bit per pattern, no bit twice: sampling and exhaustive enumeration of single faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from hwbench import edits, fields
from hwbench.backend import Site
from hwbench.errors import Unsupported
from hwbench.scenario import SingleFaultPerturbation, parameter
from hwbench.seeds import Key
from hwbench_scenarios.places import Places, permuted
from hwbench_scenarios.stored import Channelled, Exposed, InBits, nowhere


@dataclass(frozen=True)
class _Stratum:
    """Bits among which nothing is preferred: some bits of each chosen element of a site."""

    site: int
    bits: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class SingleBit(InBits, Channelled, Exposed, SingleFaultPerturbation):
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

    count: Literal[1] = parameter(1, "bits per pattern: always one")
    balance: Literal["none", "site", "bit"] = parameter(
        "none", "what is hit equally often: any bit, any site, or any bit position of any site"
    )

    @property
    def variant(self) -> str:
        """What is balanced, and the bits asked for."""
        by = "" if self.balance == "none" else f"by-{self.balance}"
        return "-".join(filter(None, (by, super().variant)))

    def draw(self, sites: Sequence[Site], key: Key, row: int = edits.NO_ROW) -> edits.Edits:
        """The one flip of this pattern."""
        names, strata, sizes = _laid_out(self, tuple(sites))
        total = int(sizes.sum())
        if not total:
            raise nowhere(self.name, names)
        if key.pattern >= total:
            raise Unsupported(
                f"pattern {key.pattern} has no bit left: there are {total}."
                f" Hint: patterns: {total} is exhaustive"
            )
        shared = key.across_patterns
        stratum, index = self._turn(strata, sizes, key.pattern, shared)
        site = sites[stratum.site]
        place = permuted(index, stratum.size, self._order(stratum, site, shared))
        element, bit = divmod(place, len(stratum.bits))
        flat = self.elements(site).at(np.asarray([element], dtype=np.int64))
        mask = 1 << stratum.bits[bit]
        return edits.make(names, stratum.site, flat, [mask], row=row)

    def strata(self, sites: Sequence[Site]) -> dict[tuple[str, str], int]:
        """Number of bits that can be hit, by site and bit field."""
        sizes = {
            (site.name, name): self.elements(site).size * len(self._in_field(site, name))
            for site in sites
            for name in fields.fields(site.dtype)
        }
        return {key: size for key, size in sizes.items() if size}

    def nth(
        self, sites: Sequence[Site], field: str, n: int, key: Key, row: int = edits.NO_ROW
    ) -> edits.Edits:
        """One flip: the ``n``-th of a random order of all bits of a field of some sites."""
        names = tuple(site.name for site in sites)
        bits = [self._in_field(site, field) for site in sites]
        sizes = [self.elements(site).size * len(own) for site, own in zip(sites, bits, strict=True)]
        ends = np.cumsum(sizes)
        place = permuted(n, int(ends[-1]), key.across_patterns.child("stratum", field, *names))
        which = int(np.searchsorted(ends, place, side="right"))
        element, bit = divmod(place - int(ends[which] - sizes[which]), len(bits[which]))
        flat = self.elements(sites[which]).at(np.asarray([element], dtype=np.int64))
        return edits.make(names, which, flat, [1 << bits[which][bit]], row=row)

    def _in_field(self, site: Site, field: str) -> tuple[int, ...]:
        chosen = set(fields.fields(site.dtype).get(field, ()))
        return tuple(bit for bit in self.eligible(site) if bit in chosen)

    def groups(self, index: int, site: Site) -> list[_Stratum]:
        """What takes turns within one site."""
        bits, size = self.eligible(site), self.elements(site).size
        groups = [(bit,) for bit in bits] if self.balance == "bit" else [bits]
        return [_Stratum(index, group, size * len(group)) for group in groups if size and group]

    def _order(self, stratum: _Stratum, site: Site, shared: Key) -> Key:
        """The key of the order of a stratum's bits: by site name, never by the site's position."""
        return shared.child(site.name, *(stratum.bits if self.balance == "bit" else ()))

    def _turn(
        self, strata: Sequence[_Stratum], sizes: Places, pattern: int, shared: Key
    ) -> tuple[_Stratum, int]:
        """Whose turn it is, and how often it had one before."""
        if self.balance == "none":  # turns by size: a random order of all bits of all sites
            ends = np.cumsum(sizes)
            place = permuted(pattern, int(ends[-1]), shared.child("order"))
            which = int(np.searchsorted(ends, place, side="right"))
            return strata[which], place - int(ends[which] - sizes[which])
        turn = _round(sizes, pattern)
        left = shared.generator("turns").permutation(len(strata))
        left = left[sizes[left] > turn]
        return strata[int(left[pattern - int(np.minimum(sizes, turn).sum())])], turn


@lru_cache(maxsize=64)  # drawn for every sample over the same sites
def _laid_out(
    scenario: SingleBit, sites: tuple[Site, ...]
) -> tuple[tuple[str, ...], tuple[_Stratum, ...], Places]:
    """Names of the sites, what takes turns, and the sizes of that."""
    strata = [each for index, site in enumerate(sites) for each in scenario.groups(index, site)]
    sizes = np.asarray([each.size for each in strata], dtype=np.int64)
    return tuple(site.name for site in sites), tuple(strata), sizes


def _round(sizes: Places, pattern: int) -> int:
    """The round in which a pattern falls, when every stratum that has bits left gives one each."""
    low, high = 0, int(sizes.max())
    while low < high - 1:
        middle = (low + high) // 2
        if int(np.minimum(sizes, middle).sum()) <= pattern:
            low = middle
        else:
            high = middle
    return low
