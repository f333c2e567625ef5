"""Where faults land: drawn per site at a rate or by count, or numbered one by one.

Every draw is nested: what is drawn at a lower rate or count is a prefix, per site, of what is
drawn at a higher one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from hwbench.seeds import Key

Places = npt.NDArray[np.int64]

_CHUNK = 1024
_ROUNDS = 8


def at_rate(sizes: Sequence[int], names: Sequence[str], rate: float, key: Key) -> list[Places]:
    """Per site the places that are hit, each of ``sizes[i]`` ones with probability ``rate``."""
    return [_below(size, rate, key.child(name)) for size, name in zip(sizes, names, strict=True)]


def counted(sizes: Sequence[int], count: int, key: Key, noun: str, per: str) -> list[Places]:
    """Per site its share of ``count`` distinct places, uniform over all places of all sites.

    Raises:
        ValueError: there are fewer places.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1]) if len(sizes) else 0
    if count > total:
        raise ValueError(f"count asks for {count} {noun}, but the sites have {total} {per}s")
    stream = _distinct(total, key.generator("count"))
    drawn = np.fromiter((next(stream) for _ in range(count)), dtype=np.int64, count=count)
    which = np.searchsorted(ends, drawn, side="right")
    return [drawn[which == site] - (ends[site] - size) for site, size in enumerate(sizes)]


def _below(n: int, rate: float, key: Key) -> Places:
    """The places whose own uniform number lies below ``rate``.

    Drawn as the order statistics of ``n`` uniforms (Renyi's representation), each given to a
    distinct place, stopping at ``rate``: exactly Bernoulli(rate) per place, nested in the rate, at
    a cost that grows with the number of hits and not with the number of places.
    """
    gaps, positions = key.generator("gaps"), _distinct(n, key.generator("bits"))
    found: list[int] = []
    log_survival = 0.0
    limit = np.log1p(-rate) if rate < 1 else -np.inf
    while len(found) < n:
        left = n - len(found) - np.arange(min(_CHUNK, n - len(found)))
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


def permuted(index: int, n: int, key: Key) -> int:
    """Where ``index`` goes in a random permutation of ``range(n)``, without making the others.

    A Feistel network over the next even number of bits, walked until it lands below ``n``: any
    number of patterns can ask for their own place and no two get the same.
    """
    if not 0 <= index < n:
        raise ValueError(f"{index} is not below {n}")
    half = max(1, -(-(n - 1).bit_length() // 2))
    secret = bytes.fromhex(key.hex())
    while True:
        index = _shuffled(index, half, secret)
        if index < n:
            return index


def _shuffled(value: int, half: int, secret: bytes) -> int:
    low = (1 << half) - 1
    left, right = value >> half, value & low
    for each in range(_ROUNDS):
        content = each.to_bytes(1, "little") + right.to_bytes(8, "little")
        digest = hashlib.blake2b(content, digest_size=8, key=secret).digest()
        left, right = right, left ^ (int.from_bytes(digest, "little") & low)
    return left << half | right


@dataclass(frozen=True)
class Elements:
    """Some elements of a tensor, numbered in the order in which they are stored.

    Attributes:
        outer: number of blocks that each hold every channel.
        channels: number of channels in the tensor.
        inner: elements of a channel within one block.
        chosen: the channels that count.
    """

    outer: int
    channels: int
    inner: int
    chosen: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many there are."""
        return self.outer * len(self.chosen) * self.inner

    def at(self, index: Places) -> Places:
        """Flat indices into the tensor."""
        block, within = np.divmod(index, self.inner)
        outer, channel = np.divmod(block, len(self.chosen))
        picked = np.asarray(self.chosen, dtype=np.int64)[channel]
        return np.asarray((outer * self.channels + picked) * self.inner + within)


def elements(shape: tuple[int, ...], channels: Sequence[int] | None, axis: int) -> Elements:
    """All elements, or those of some channels along ``axis``; channels that are not there drop."""
    size = prod(shape)
    if channels is None:
        return Elements(1, 1, size, (0,))
    if not -len(shape) <= axis < len(shape):
        return Elements(1, 1, size, ())
    axis %= len(shape)
    outer, inner = prod(shape[:axis]), prod(shape[axis + 1 :])
    chosen = tuple(sorted({each for each in channels if each < shape[axis]}))
    return Elements(outer, shape[axis], inner, chosen)
