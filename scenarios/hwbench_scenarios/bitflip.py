"""Random bit flips in stored tensors: at a rate per bit, or a count per pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench import edits
from hwbench.backend import Site
from hwbench.scenario import EditPerturbation, parameter
from hwbench.seeds import Key

_CHUNK = 1024


@dataclass(frozen=True)
class BitFlip(EditPerturbation):
    """Flip stored bits, each with the same probability (``rate``), or a fixed number (``count``).

    Patterns are nested: with the same seed, the flips at a lower rate (or count) are a subset of
    those at a higher one, so that severity curves are compared pattern by pattern. Weights flip
    in their stored form: an int8 environment flips int8 bytes. Input flips are drawn per dataset
    sample.
    """

    name: ClassVar[str] = "bitflip"
    severities: ClassVar[tuple[str, ...]] = ("rate", "count")
    example: ClassVar[str] = "{bitflip: {target: weights, rate: [1.0e-6, 1.0e-5]}, patterns: 20}"

    target: Literal["weights", "inputs"] = parameter("weights", "what is hit")
    rate: float | None = parameter(None, "probability that a bit is flipped", "per bit")
    count: int | None = parameter(None, "flips per pattern, distinct bits", "bits")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise ValueError(f"rate is a probability per bit, 0 to 1, not {self.rate:g}")
        if self.count is not None and self.count < 0:
            raise ValueError(f"count is a number of flips, 0 or more, not {self.count}")

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """Weight flips are one chip for all samples; input flips are each sample's own."""
        return "pattern" if self.target == "weights" else "sample"

    def draw(self, sites: Sequence[Site], key: Key, row: int = edits.NO_ROW) -> edits.Edits:
        """The flips of one pattern, over the sites in the order given."""
        if self.rate is not None:
            return _at_rate(sites, self.rate, key, row)
        return _counted(sites, int(self.count or 0), key, row)


def _at_rate(sites: Sequence[Site], rate: float, key: Key, row: int) -> edits.Edits:
    names = tuple(site.name for site in sites)
    parts = []
    for index, site in enumerate(sites):
        bits = _bits_below(site.size * site.bits, rate, key.child(site.name))
        parts.append(_flips(names, np.full(bits.shape, index), bits, site.bits, row))
    return edits.concatenate(parts) if parts else edits.none(names)


def _bits_below(n_bits: int, rate: float, key: Key) -> npt.NDArray[np.int64]:
    """The bits whose own uniform number lies below ``rate``.

    Drawn as the order statistics of ``n_bits`` uniforms (Renyi's representation), each given to a
    distinct bit, stopping at ``rate``: exactly Bernoulli(rate) per bit, nested in the rate, at a
    cost that grows with the number of hits and not with the number of bits.
    """
    gaps, positions = key.generator("gaps"), _distinct(n_bits, key.generator("bits"))
    found: list[int] = []
    log_survival = 0.0
    limit = np.log1p(-rate) if rate < 1 else -np.inf
    while len(found) < n_bits:
        left = n_bits - len(found) - np.arange(min(_CHUNK, n_bits - len(found)))
        # The whole chunk is drawn whatever the rate, so the stream is the same for every rate.
        levels = log_survival - np.cumsum(gaps.standard_exponential(_CHUNK)[: left.size] / left)
        hits = int(np.searchsorted(-levels, -limit))
        found.extend(next(positions) for _ in range(hits))
        if hits < left.size:
            break
        log_survival = float(levels[-1])
    return np.asarray(found, dtype=np.int64)


def _distinct(n: int, stream: np.random.Generator) -> Iterator[int]:
    """Numbers below ``n`` in random order without repetition, one by one."""
    if n <= 4 * _CHUNK:
        yield from stream.permutation(n).tolist()
        return
    seen: set[int] = set()
    while len(seen) < n // 2:
        for value in stream.integers(n, size=_CHUNK).tolist():
            if value not in seen:
                seen.add(value)
                yield value
    rest = np.setdiff1d(np.arange(n), np.fromiter(seen, dtype=np.int64))
    yield from stream.permutation(rest).tolist()


def _counted(sites: Sequence[Site], count: int, key: Key, row: int) -> edits.Edits:
    """``count`` distinct bits, uniform over all bits of all sites."""
    names = tuple(site.name for site in sites)
    ends = np.cumsum([site.size * site.bits for site in sites], dtype=np.int64)
    total = int(ends[-1]) if len(sites) else 0
    if count > total:
        raise ValueError(f"count asks for {count} flips, but the sites have {total} bits")
    positions = _distinct(total, key.generator("count"))
    bits = np.fromiter((next(positions) for _ in range(count)), dtype=np.int64, count=count)
    which = np.searchsorted(ends, bits, side="right")
    within = bits - np.where(which > 0, ends[which - 1], 0)
    widths = np.asarray([site.bits for site in sites], dtype=np.int64)
    return _flips(names, which, within, widths[which], row)


def _flips(
    names: tuple[str, ...],
    site: npt.NDArray[np.int64],
    bits: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64] | int,
    row: int,
) -> edits.Edits:
    mask = np.left_shift(np.uint64(1), (bits % width).astype(np.uint64))
    return edits.make(names, site, bits // width, mask, row=row)
