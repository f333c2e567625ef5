"""Sets of trials as runs of numbers: a million of them that follow one another take one pair.

A trial is a (pattern, batch) pair of a case; its number is ``pattern * n_batches + batch``. Lean,
because workers import it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pair = tuple[int, int]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trials(Collection[Pair]):
    """Some trials of a case, in order of patterns.

    Attributes:
        n_batches: batches of the dataset.
        runs: half-open ranges of numbers, ascending; neither overlapping nor touching.
    """

    n_batches: int
    runs: tuple[Pair, ...] = ()

    @classmethod
    def every(cls, n_patterns: int, n_batches: int) -> Trials:
        """All batches of the patterns below a number."""
        stop = n_patterns * n_batches
        return cls(n_batches, ((0, stop),) if stop else ())

    @classmethod
    def of(cls, pairs: Iterable[Pair], n_batches: int) -> Trials:
        """Some (pattern, batch) pairs, in any order."""
        numbers = [pattern * n_batches + batch for pattern, batch in pairs]
        return cls(n_batches).with_numbers(np.asarray(numbers, np.int64))

    def with_numbers(self, numbers: Integers) -> Trials:
        """These and some by number, in any order, repeated or not."""
        found = np.unique(numbers)
        starts = found[np.diff(found, prepend=found[:1] - 2) > 1]
        stops = found[np.diff(found, append=found[-1:] + 2) > 1] + 1
        new = list(zip(starts.tolist(), stops.tolist(), strict=True))
        return Trials(self.n_batches, _joined([*self.runs, *new]))

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.runs)

    def __iter__(self) -> Iterator[Pair]:
        for start, stop in self.runs:
            for number in range(start, stop):
                yield divmod(number, self.n_batches)

    def __contains__(self, pair: object) -> bool:
        if not isinstance(pair, tuple):
            return False
        pattern, batch = pair
        number = pattern * self.n_batches + batch
        at = bisect_right(self.runs, number, key=lambda run: run[0]) - 1
        return at >= 0 and number < self.runs[at][1]

    def __sub__(self, other: Trials) -> Trials:
        """Those that are not among ``other``."""
        return Trials(self.n_batches, tuple(_without(self.runs, other.runs)))

    @property
    def patterns(self) -> tuple[Pair, ...]:
        """Ranges of the patterns that have a trial."""
        n = self.n_batches
        return _joined([(start // n, (stop - 1) // n + 1) for start, stop in self.runs])

    @property
    def n_patterns(self) -> int:
        """How many patterns have a trial."""
        return sum(stop - start for start, stop in self.patterns)

    def share(self, piece: int, pieces: int) -> Trials:
        """One of ``pieces`` nearly equal shares, none of which splits a pattern."""
        patterns, total = self.patterns, self.n_patterns
        chosen = _slice(patterns, piece * total // pieces, (piece + 1) * total // pieces)
        kept = tuple((start * self.n_batches, stop * self.n_batches) for start, stop in chosen)
        return self - (self - Trials(self.n_batches, kept))


def _joined(runs: list[Pair]) -> tuple[Pair, ...]:
    """Ascending ranges that cover the same numbers and do not touch."""
    found: list[Pair] = []
    for start, stop in sorted(runs):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return tuple(found)


def _without(runs: Sequence[Pair], others: Sequence[Pair]) -> Iterator[Pair]:
    """What of ascending ranges lies in none of others, which ascend too."""
    at = 0
    for first, stop in runs:
        start = first
        while at < len(others) and others[at][0] < stop:
            low, high = others[at]
            if low > start:
                yield start, low
            start = max(start, high)
            if high > stop:  # it may reach into the next one
                break
            at += 1
        if start < stop:
            yield start, stop


def _slice(runs: Sequence[Pair], first: int, last: int) -> Iterator[Pair]:
    """The numbers from the ``first``-th up to the ``last``-th of ascending ranges."""
    passed = 0
    for start, stop in runs:
        low, high = max(first - passed, 0), min(last - passed, stop - start)
        if low < high:
            yield start + low, start + high
        passed += stop - start
