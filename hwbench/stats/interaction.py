"""Does one environment lose more under a scenario than another? Difference in differences.

Both environments see the same samples and the same perturbed bytes, so everything is paired: per
pattern and sample there is one number, (right under the scenario - right clean) of the first minus
the same of the second, and its mean is the interaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from hwbench.stats.bounded import minimum_patterns, sums
from hwbench.stats.interval import Interval, check_confidence
from hwbench.stats.intervals import mcnemar

RESAMPLES = 2000
_BLOCK = 100  # resamples at a time: 100 x 10,000 samples of weights are 8 MiB

_KEPT_BYTES = 128 << 20  # of draws
_EXACT = 1 << 24  # float32 holds every whole number up to here
_SPARSE = 0.05  # share of a matrix from which on all of it is multiplied faster

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int8]
Counts = npt.NDArray[np.uint16]
Correct = npt.NDArray[np.generic]  # 0 or 1


@dataclass(frozen=True)
class Interaction:
    """How much more accuracy the first environment loses than the second.

    Attributes:
        difference: (first under the scenario - first clean) - (second ... - second clean), as a
            share; below 0 the first loses more.
        interval: paired bootstrap percentiles, or ``None`` for too few patterns.
        p_value: McNemar's exact test over samples, of the scenario harming either as often: each
            sample counts for the environment that it speaks against, by the sign of its sum over
            patterns. For patterns shared by all samples (chips) it holds for these patterns only.
        only_first: samples that lose more in the first environment.
        only_second: samples that lose more in the second.
    """

    difference: float
    interval: Interval | None
    p_value: float
    only_first: int
    only_second: int

    @property
    def named(self) -> bool:
        """Whether the interval exists and leaves 0 out: the decision at its confidence."""
        return self.interval is not None and not self.interval.covers(0.0)


def interaction(
    first: tuple[Correct, Correct],
    second: tuple[Correct, Correct],
    *,
    shared_patterns: bool,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interaction:
    """Difference in differences of two environments under one scenario.

    Args:
        first: correctness of the environment, clean of shape (samples,) and under the scenario of
            shape (patterns, samples), in dataset order.
        second: the same for the baseline; same samples, same patterns.
        shared_patterns: a draw is shared by all samples (a chip), so patterns and samples are both
            resampled; otherwise samples alone are the units, averaged over their draws.
        confidence: nominal coverage of the interval.
        resamples: bootstrap resamples.

    Raises:
        ValueError: the shapes do not belong together.
    """
    check_confidence(confidence)
    _check_paired(*first, *second)
    # Clean and perturbed apart: of a large matrix there are two passes, not four.
    losses = _difference(first[1], second[1]) - _difference(first[0], second[0])
    by_sample = sums(losses, axis=0)
    only_first, only_second = int((by_sample < 0).sum()), int((by_sample > 0).sum())
    few = shared_patterns and len(losses) < minimum_patterns(confidence)
    means = None if few else _resampled(losses, by_sample, resamples, shared_patterns)
    return Interaction(
        int(by_sample.sum()) / losses.size,
        None if means is None else _percentiles(means, confidence),
        mcnemar(only_first, only_second),
        only_first,
        only_second,
    )


def _check_paired(clean: Correct, perturbed: Correct, other: Correct, theirs: Correct) -> None:
    one, two = (clean.shape, perturbed.shape), (other.shape, theirs.shape)
    fits = clean.ndim == 1 and clean.size > 0 and perturbed.shape[1:] == clean.shape
    if not fits or perturbed.ndim != 2 or one != two:
        raise ValueError(f"clean and perturbed {one} and {two} are not paired")


def _difference(one: Correct, two: Correct) -> Whole:
    return np.asarray(one.astype(np.int8, copy=False) - two.astype(np.int8, copy=False))


def _resampled(
    losses: Whole, by_sample: npt.NDArray[np.int64], resamples: int, shared_patterns: bool
) -> Floats:
    """Bootstrap means, shape (resamples,); the same data give the same ones.

    Sums of whole numbers are divided once, at the end: a mean of 0 must be 0, not 1e-19. And they
    are exact in any order, also in float32 while they are below 2^24: so what lost nothing, most
    of a matrix where faults are rare, is left out, and what is left may be multiplied as a sparse
    matrix.
    """
    patterns, samples = losses.shape
    kept_samples = np.flatnonzero(losses.any(axis=0))
    kept_patterns = np.flatnonzero(losses.any(axis=1))
    kind = np.float32 if 2 * samples < _EXACT else np.float64
    left: Any = losses[np.ix_(kept_patterns, kept_samples)].T.astype(kind)
    if np.count_nonzero(left) < _SPARSE * left.size:
        left = sparse.csr_array(left)
    sums = []
    for drawn, rows in _draws(resamples, samples, patterns if shared_patterns else 0):
        chosen = drawn[:, kept_samples]
        if shared_patterns:
            by_pattern = (chosen.astype(kind) @ left).astype(np.float64)
            sums.append(np.einsum("bp,bp->b", rows[:, kept_patterns], by_pattern))
        else:
            sums.append(chosen @ by_sample[kept_samples].astype(np.float64))
    return np.asarray(np.concatenate(sums) / (patterns * samples))


def _draws(resamples: int, samples: int, patterns: int) -> Iterable[tuple[Counts, Counts]]:
    """How often each sample and each pattern is drawn, resamples in blocks.

    They depend on nothing but the sizes, which a run's comparisons share: small ones are kept.
    """
    small = 2 * resamples * (samples + patterns) <= _KEPT_BYTES
    make = _held_draws if small else _new_draws
    return make(resamples, samples, patterns)


@lru_cache(maxsize=2)  # with and without patterns
def _held_draws(resamples: int, samples: int, patterns: int) -> list[tuple[Counts, Counts]]:
    return list(_new_draws(resamples, samples, patterns))


def _new_draws(resamples: int, samples: int, patterns: int) -> Iterator[tuple[Counts, Counts]]:
    stream = np.random.default_rng(0)
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        yield _counts(count, samples, stream), _counts(count, patterns, stream)


def _counts(count: int, units: int, stream: np.random.Generator) -> Counts:
    """How often each unit was drawn, shape (count, units)."""
    if not units:
        return np.zeros((count, 0), np.uint16)
    made = np.empty((count, units), np.uint16)
    for row in made:  # one by one they stay in the cache
        row[:] = np.bincount(stream.integers(units, size=units), minlength=units)
    return made


def _percentiles(means: Floats, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence, "paired-bootstrap")
