"""What the rows of one cell say about one metric: limits at any error rate, and what they lack.

Everything is *harm* (``hwbench.qualify.scale``). Limits hold at all looks together, however often
somebody looks: patterns by betting on each of them in turn, processes and repeated draws by planned
looks (``hwbench.stats.looks``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hwbench import stats
from hwbench.stats import followup
from hwbench.stats.bounded import CrossedMean, crossed_mean
from hwbench.stats.looks import Look, last_look

# Five processes that agree may all have missed what slows down one in five. So where the machine's
# own spread is not known, processes are believed to differ by what ``trust`` still calls steady.
USUAL_SPREAD = 0.05

FIRST_PROCESSES, PROCESSES_RATIO = 5, math.sqrt(2)
FIRST_DRAWS, DRAWS_RATIO = 1, 3.0

# Of the zone, that the samples may take: patterns are to decide the rest.
_SAMPLES_SHARE = 0.5
# Of the zone, that the patterns' bets are tuned to; the samples take some of it.
_RESOLUTION = 0.75

Matrix = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """What is to be told apart, as harm.

    Attributes:
        limit: that must be kept.
        good: of a device that is to pass, below the limit.
        alpha: error of passing one at the limit.
    """

    limit: float
    good: float
    alpha: float

    @property
    def zone(self) -> float:
        """Distance of the two."""
        return self.limit - self.good


@dataclass(frozen=True)
class Needs:
    """What more data would decide.

    Attributes:
        bottleneck: patterns, samples, processes, or what else stands in the way.
        more: how many more of each; empty where no number of them helps.
        note: what else to know.
    """

    bottleneck: str
    more: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


class Evidence(Protocol):
    """Data on one metric in one cell."""

    @property
    def value(self) -> float:
        """Estimate."""

    @property
    def unit(self) -> str:
        """Sampling unit."""

    @property
    def n(self) -> int:
        """Units that are judged."""

    @property
    def available(self) -> int:
        """Units that there are: those behind the last planned look are not judged yet."""

    @property
    def method(self) -> str:
        """How limits are made."""

    def bounds(self, below: float, above: float) -> tuple[float, float] | str:
        """Lower limit with error ``below`` and upper one with error ``above``, or why not."""

    def needs(self, target: Target) -> Needs:
        """What would decide."""


@dataclass(frozen=True)
class Crossed:
    """Patterns shared by all samples: chips crossed with images.

    Attributes:
        values: harm, shape (patterns, samples), in the order drawn.
        low: smallest value possible.
        high: largest value possible.
        pattern_bounds: closer bounds of a pattern's mean.
        zone: of the gate, which the bets are tuned to.
        fixed_samples: whether the gate is about these samples only.
    """

    values: Matrix
    low: float
    high: float
    pattern_bounds: tuple[float, float]
    zone: float
    fixed_samples: bool = False

    @property
    def unit(self) -> str:
        """See ``Evidence``."""
        return "pattern" if self.fixed_samples else "pattern x sample"

    @property
    def n(self) -> int:
        """Patterns."""
        return len(self.values)

    @property
    def available(self) -> int:
        """The same: every pattern is judged."""
        return self.n

    @property
    def method(self) -> str:
        """See ``Evidence``."""
        return "crossed-betting-anytime"

    @property
    def value(self) -> float:
        """Mean over patterns and samples."""
        return float(self.values.mean())

    @property
    def by_pattern(self) -> Floats:
        """Means over samples, shape (patterns,), clipped to their bounds against rounding."""
        means = self.values.mean(axis=1, dtype=np.float64)
        return np.asarray(np.clip(means, *self.pattern_bounds))

    @property
    def resolution(self) -> float:
        """What the patterns' bets are tuned to."""
        return self.zone if self.fixed_samples else _RESOLUTION * self.zone

    def bounds(self, below: float, above: float) -> tuple[float, float] | str:
        """See ``Evidence``."""
        if self.fixed_samples:
            low = self._patterns(below).low
            return low, self._patterns(above).high
        if self.n < stats.minimum_patterns(1 - 2 * max(below, above)):
            return stats.TOO_FEW_PATTERNS
        one = self._crossed(above)
        other = one if below == above else self._crossed(below)
        return max(self.low, other.low), min(self.high, one.high)

    def _patterns(self, alpha: float) -> stats.Interval:
        return stats.betting_interval(
            self.by_pattern,
            *self.pattern_bounds,
            1 - 2 * alpha,
            anytime=True,
            resolution=self.resolution,
        )

    def _crossed(self, alpha: float) -> CrossedMean:
        return crossed_mean(
            self.values,
            self.low,
            self.high,
            1 - 2 * alpha,
            pattern_bounds=self.pattern_bounds,
            anytime=True,
            resolution=self.resolution,
        )

    def needs(self, target: Target) -> Needs:
        """Patterns, and samples where these alone would take too much of the zone."""
        samples, taken, alpha = self.values.shape[1], 0.0, target.alpha
        if not self.fixed_samples:
            alpha = target.alpha / 2
            found = self._samples(target, alpha)
            if found is None:
                return Needs("samples", note="no number of samples within reach decides")
            samples, taken = found
        low, high = self.pattern_bounds
        limit = target.limit - taken
        count = followup.anytime_count(
            self.by_pattern, low, high, limit, target.good, alpha, self.resolution
        )
        if count is None:
            return Needs("patterns", note=f"beyond {followup.MOST:,} patterns")
        more = {
            "samples": samples - self.values.shape[1],
            "patterns": max(0, count - self.n),
        }
        kept = {name: number for name, number in more.items() if number > 0}
        if not kept:  # at this count a good device would have passed: it is a bad one, or unlucky
            kept = {"patterns": max(1, self.n)}
        return Needs(next(iter(kept)), kept)

    def _samples(self, target: Target, alpha: float) -> tuple[int, float] | None:
        """Samples in all, and how much of the zone they take."""
        room, count = _SAMPLES_SHARE * target.zone, self.values.shape[1]
        while count <= followup.MOST:
            taken = self._reach(target.good, count, alpha)
            if taken <= room:
                return count, taken
            count = math.ceil(1.1 * count)
        return None

    def _reach(self, good: float, count: int, alpha: float) -> float:
        """How far the samples' upper limit lies above the mean of a good device.

        Samples are taken to differ in how easily they are harmed as exponential variables do, each
        seen through the patterns so far.
        """
        stream = np.random.default_rng(count)
        chance = np.clip(stream.exponential(max(good, 1e-9), size=count), 0.0, 1.0)
        means = stream.binomial(max(self.n, 30), chance) / max(self.n, 30)
        found = stats.betting_interval(means, self.low, self.high, 1 - 2 * alpha)
        return max(0.0, found.high - float(means.mean()))


@dataclass(frozen=True)
class Samples:
    """Every sample has draws of its own, or nothing is drawn: samples are the units.

    Attributes:
        values: harm, shape (draws, samples).
        low: smallest value possible.
        high: largest value possible.
        drawn: whether there could be more draws, so that draws have looks.
    """

    values: Matrix
    low: float
    high: float
    drawn: bool

    @property
    def look(self) -> Look:
        """The planned look that the draws have reached."""
        found = last_look(len(self.values), FIRST_DRAWS, DRAWS_RATIO)
        assert found is not None, "there is at least one draw"
        return found

    @property
    def judged(self) -> Floats:
        """Mean over draws of each sample, shuffled: datasets come sorted by class."""
        rows = self.values[: self.look.count] if self.drawn else self.values
        means = rows.mean(axis=0, dtype=np.float64)
        return np.asarray(means[np.random.default_rng(0).permutation(means.size)])

    @property
    def value(self) -> float:
        """Mean over samples and draws."""
        return float(self.judged.mean())

    @property
    def unit(self) -> str:
        """See ``Evidence``."""
        return "sample"

    @property
    def n(self) -> int:
        """Samples."""
        return int(self.values.shape[1])

    @property
    def available(self) -> int:
        """The same: looks are at draws."""
        return self.n

    @property
    def method(self) -> str:
        """See ``Evidence``."""
        return "betting-looks" if self.drawn else "betting"

    def _spent(self, alpha: float) -> float:
        return self.look.spend(alpha) if self.drawn else alpha

    def bounds(self, below: float, above: float) -> tuple[float, float] | str:
        """See ``Evidence``."""
        limits = [
            stats.betting_interval(self.judged, self.low, self.high, 1 - 2 * self._spent(alpha))
            for alpha in (below, above)
        ]
        return limits[0].low, limits[1].high

    def needs(self, target: Target) -> Needs:
        """More samples; more draws of the same ones are not new samples."""
        count = followup.fixed_count(
            self.judged,
            self.low,
            self.high,
            target.limit,
            target.good,
            self._spent(target.alpha),
        )
        if count is None:
            return Needs("samples", note=f"beyond {followup.MOST:,} samples")
        more = count - self.n
        return Needs("samples", {"samples": more if more > 0 else self.n})


@dataclass(frozen=True)
class Processes:
    """One value per fresh process, on the log scale; two arms where a reference is compared with.

    Attributes:
        values: harm of each process, shape (processes,), in the order of blocks.
        reference: the same of what it is compared with, or ``None``.
        floor: least standard deviation between processes that is believed.
    """

    values: Floats
    reference: Floats | None = None
    floor: float = USUAL_SPREAD

    @property
    def available(self) -> int:
        """Processes of the smaller arm."""
        arms = (self.values, self.reference)
        return min(int(arm.size) for arm in arms if arm is not None)

    @property
    def look(self) -> Look | None:
        """The planned look that they have reached."""
        return last_look(self.available, FIRST_PROCESSES, PROCESSES_RATIO)

    @property
    def arms(self) -> list[Floats]:
        """What is judged: the processes of the last planned look, or all before the first."""
        count = self.look.count if self.look else self.available
        return [arm[:count] for arm in (self.values, self.reference) if arm is not None]

    @property
    def value(self) -> float:
        """Mean log, or difference of the means."""
        means = [float(arm.mean()) for arm in self.arms]
        return means[0] - (means[1] if len(means) > 1 else 0.0)

    @property
    def unit(self) -> str:
        """See ``Evidence``."""
        return "process"

    @property
    def n(self) -> int:
        """Processes judged, of each arm."""
        return int(self.arms[0].size)

    @property
    def method(self) -> str:
        """See ``Evidence``."""
        return "t-log-looks" if self.reference is None else "welch-log-looks"

    def bounds(self, below: float, above: float) -> tuple[float, float] | str:
        """See ``Evidence``."""
        if self.look is None:
            return stats.TOO_FEW_PROCESSES
        reaches = [
            stats.t_reach(self.arms, self.look.spend(alpha), self.floor) for alpha in (below, above)
        ]
        return self.value - reaches[0], self.value + reaches[1]

    def needs(self, target: Target) -> Needs:
        """Processes until the next planned look that decides."""
        if self.available < 3:  # a spread of two says nothing
            return Needs("processes", {"processes": FIRST_PROCESSES - self.available})
        count = followup.process_count(
            self.arms,
            target.limit,
            target.good,
            target.alpha,
            FIRST_PROCESSES,
            PROCESSES_RATIO,
            self.floor,
        )
        if count is None:
            return Needs("processes", note=f"beyond {followup.MOST_PROCESSES} processes")
        if count <= self.available:  # a good device would have passed by now
            count = 2 * self.available
        return Needs("processes", {"processes": count - self.available})


@dataclass(frozen=True)
class Known:
    """An interval that somebody else made: a campaign's by its own stop rule, or a bracket.

    Attributes:
        value: estimate.
        low: lower limit.
        high: upper limit.
        error: of each limit, or 0 where it is certain.
        unit: of sampling.
        n: units.
        method: how it was made.
        wanting: what more would take.
    """

    value: float
    low: float
    high: float
    error: float
    unit: str
    n: int
    method: str
    wanting: str

    @property
    def available(self) -> int:
        """The same as ``n``."""
        return self.n

    def bounds(self, below: float, above: float) -> tuple[float, float] | str:
        """See ``Evidence``."""
        if min(below, above) < self.error * (1 - 1e-9):
            return f"known at {1 - 2 * self.error:g} confidence only: raise the campaign's"
        return self.low, self.high

    def needs(self, target: Target) -> Needs:
        """A narrower margin: half the zone at most, or what is left of it."""
        gap = max(target.limit - self.value, target.zone / 2)
        share = gap / max(self.high - self.value, 1e-12)
        more = max(1, math.ceil(self.n * (1 / share**2 - 1))) if share < 1 else self.n
        return Needs(self.wanting, {self.wanting: more})
