"""Does one environment lose more under a scenario than another? Difference in differences.

Both environments see the same samples and the same perturbed bytes, so everything is paired: per
pattern and sample there is one number, (right under the scenario - right clean) of the first minus
the same of the second, and its mean is the interaction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwbench.stats.bounded import minimum_patterns
from hwbench.stats.interval import Interval, check_confidence
from hwbench.stats.intervals import mcnemar

RESAMPLES = 2000
_BLOCK = 100  # resamples at a time: 100 x 10,000 samples of weights are 8 MiB

Floats = npt.NDArray[np.float64]
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
    losses = _losses(*first) - _losses(*second)
    by_sample = losses.sum(axis=0)
    only_first, only_second = int((by_sample < 0).sum()), int((by_sample > 0).sum())
    few = shared_patterns and len(losses) < minimum_patterns(confidence)
    means = None if few else _resampled(losses, resamples, shared_patterns)
    return Interaction(
        float(losses.mean()),
        None if means is None else _percentiles(means, confidence),
        mcnemar(only_first, only_second),
        only_first,
        only_second,
    )


def _losses(clean: Correct, perturbed: Correct) -> Floats:
    if clean.ndim != 1 or perturbed.ndim != 2 or perturbed.shape[1] != clean.size or not clean.size:
        raise ValueError(f"clean {clean.shape} and perturbed {perturbed.shape} are not paired")
    return perturbed.astype(np.float64) - clean.astype(np.float64)


def _resampled(losses: Floats, resamples: int, shared_patterns: bool) -> Floats:
    """Bootstrap means, shape (resamples,); the same data give the same ones.

    Sums of whole numbers are divided once, at the end: a mean of 0 must be 0, not 1e-19.
    """
    patterns, samples = losses.shape
    stream = np.random.default_rng(0)
    by_sample = losses.sum(axis=0)
    sums = []
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        drawn = _counts(count, samples, stream)
        if shared_patterns:
            rows = _counts(count, patterns, stream)
            sums.append(np.einsum("bp,bp->b", rows, drawn @ losses.T))
        else:
            sums.append(drawn @ by_sample)
    return np.asarray(np.concatenate(sums) / (patterns * samples))


def _counts(count: int, units: int, stream: np.random.Generator) -> Floats:
    """How often each unit was drawn, shape (count, units)."""
    drawn = stream.integers(units, size=(count, units)) + np.arange(count)[:, None] * units
    flat = np.bincount(drawn.ravel(), minlength=count * units)
    return flat.reshape(count, units).astype(np.float64)


def _percentiles(means: Floats, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence, "paired-bootstrap")
