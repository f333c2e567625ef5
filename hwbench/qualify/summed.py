"""Evidence on numbers that are made of sums: calibration error, SQNR, corruption errors.

Nothing bounds what one more chip or image may add to them, so no limits can be exact. These are
the number and Student's t times its jackknife standard error, at planned looks. They are refused
where that means nothing: few units, or one that makes most of the spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import stats

from hwbench.qualify.evidence import DRAWS_RATIO, FIRST_DRAWS, Needs, Target
from hwbench.stats.followup import MOST, POWER
from hwbench.stats.jackknife import Jackknife, corrected, jackknife
from hwbench.stats.looks import Look, last_look, planned_counts

LEAST = 30  # units: t intervals of skewed numbers miss too often below
LARGEST_SHARE = 0.3  # of the variance that one unit may make
PATTERNS_RATIO = 2.0  # of the counts of looks, from LEAST on
_STEP = 1.2  # from one count of samples that is tried to the next
_SAMPLES_SHARE = 0.7  # of the samples that endless patterns would need: patterns take the rest

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summed:
    """A number of totals over patterns and samples.

    Attributes:
        sums: shape (patterns, blocks, width), patterns in the order drawn.
        number: of a total, as harm; how many units a total is over must not matter.
        unit_of: what is drawn anew by more patterns: ``pattern`` where samples share them,
            ``sample`` where each has draws of its own, empty where nothing is drawn.
        block: what a block is: a batch of samples, or a sample.
        block_size: its samples.
        fixed_samples: whether the gate is about these samples only.
    """

    sums: Floats
    number: Callable[[Floats], float]
    unit_of: str = ""
    block: str = "sample"
    block_size: int = 1
    fixed_samples: bool = False

    @property
    def look(self) -> Look | None:
        """The planned look that the patterns have reached."""
        if not self.unit_of:
            return Look(1, len(self.sums))
        return last_look(len(self.sums), *self._plan)

    @property
    def _plan(self) -> tuple[int, float]:
        return (LEAST, PATTERNS_RATIO) if self.unit_of == "pattern" else (FIRST_DRAWS, DRAWS_RATIO)

    @cached_property
    def judged(self) -> Floats:
        """Sums of the last planned look, or all before the first."""
        return self.sums[: self.look.count] if self.look else self.sums

    @cached_property
    def parts(self) -> dict[str, Jackknife]:
        """Influences of patterns, these samples fixed, and of samples, these patterns fixed."""
        units = {}
        if self.unit_of == "pattern":
            units["pattern"] = self.judged.sum(axis=1)
        if not self.fixed_samples:
            units[self.block] = self.judged.sum(axis=0)
        return {name: jackknife(sums, self.number) for name, sums in units.items()}

    @property
    def value(self) -> float:
        """The number of all that is judged."""
        return self.number(self.judged.sum(axis=(0, 1)))

    @property
    def unit(self) -> str:
        """See ``Evidence``."""
        patterns = ["pattern"] if self.unit_of == "pattern" else []
        return " x ".join([*patterns, *([] if self.fixed_samples else [self.block])])

    @property
    def n(self) -> int:
        """Units of the first kind."""
        return len(self.judged) if self.unit_of == "pattern" else self.sums.shape[1]

    @property
    def available(self) -> int:
        """See ``Evidence``."""
        return len(self.sums) if self.unit_of == "pattern" else self.n

    @property
    def method(self) -> str:
        """See ``Evidence``."""
        return "t-jackknife-looks" if self.unit_of else "t-jackknife"

    @property
    def few(self) -> dict[str, int]:
        """Units of each kind of which there are too few."""
        counts = {"pattern": len(self.sums)} if self.unit_of == "pattern" else {}
        if not self.fixed_samples:
            counts[self.block] = self.sums.shape[1]
        return {name: count for name, count in counts.items() if count < LEAST}

    def bounds(self, below: float, above: float) -> tuple[float, float] | str:
        """See ``Evidence``; the reason may also be that one unit makes most of the spread."""
        for name, count in self.few.items():
            return f"too few {_many(name)} ({count}, below {LEAST})"
        for name, part in self.parts.items():
            if part.largest > LARGEST_SHARE * self._moments[0]:
                share = f"one {name} makes {part.largest / self._moments[0]:.0%} of the spread"
                return f"{share}: nothing can be said of how often such happen"
            if name == "pattern" and part.variance == 0:
                return "no two patterns differ: nothing can be said of rarer ones"
        variance, third = self._moments
        lower, _ = corrected(self._critical(below), variance, third)
        _, upper = corrected(self._critical(above), variance, third)
        error = math.sqrt(variance)
        return self.value - lower * error, self.value + upper * error

    def needs(self, target: Target) -> Needs:
        """Units until the errors of all kinds together leave a good device room to pass."""
        if self.few:
            name, count = next(iter(self.few.items()))
            return self._more(name, LEAST - count)
        if "pattern" in self.parts and not self.parts["pattern"].variance:
            return Needs("patterns", {"patterns": max(len(self.sums), LEAST)})
        found = None if self._rare else self._samples(target)
        return found if found else self._patterns(target)

    @property
    def _rare(self) -> bool:
        """Whether one pattern makes too much of the spread."""
        part = self.parts.get("pattern")
        return part is not None and part.largest > LARGEST_SHARE * self._moments[0]

    @property
    def _moments(self) -> tuple[float, float]:
        """Variance and third cumulant of the number: patterns and samples are independent."""
        parts = self.parts.values()
        return sum(part.variance for part in parts), sum(part.third for part in parts)

    @property
    def _freedom(self) -> int:
        return min(part.units for part in self.parts.values()) - 1

    def _critical(self, alpha: float) -> float:
        look = self.look
        assert look is not None, "there are LEAST units"
        spent = look.spend(alpha) if self.unit_of else alpha
        return float(stats.t.isf(spent, self._freedom))

    def _passes(self, target: Target, critical: float, growth: Mapping[str, float]) -> bool:
        """Whether a good device passes often enough with so many times the units of each kind.

        At the upper limit of the spread that was seen: that of few units may be far too small.
        """
        grown = [(part, growth.get(name, 1.0)) for name, part in self.parts.items()]
        variance = sum(_spread(part) * part.variance / times for part, times in grown)
        third = sum(part.third / times**2 for part, times in grown)
        _, reach = corrected(critical, variance, third)
        return (reach + float(stats.norm.ppf(POWER))) * math.sqrt(variance) <= target.zone

    def _samples(self, target: Target) -> Needs | None:
        """More samples, where endless patterns would not do."""
        if self.fixed_samples:
            return None
        part, critical = self.parts[self.block], self._critical(target.alpha)
        endless = {"pattern": math.inf}
        if self.unit_of == "pattern" and self._passes(
            target, critical, {**endless, self.block: _SAMPLES_SHARE}
        ):
            return None
        times = _STEP
        while not self._passes(target, critical, {**endless, self.block: _SAMPLES_SHARE * times}):
            times *= _STEP
            if times * part.units * self.block_size > MOST:
                return Needs("samples", note=f"beyond {MOST:,} samples")
        return self._more(self.block, math.ceil((times - 1) * part.units))

    def _patterns(self, target: Target) -> Needs:
        part, n = self.parts["pattern"], len(self.judged)
        for number, count in enumerate(planned_counts(*self._plan, MOST), start=1):
            if count > len(self.sums):
                critical = float(stats.t.isf(Look(number, count).spend(target.alpha), count - 1))
                # Of skewed chips the share falls slowly: larger ones come with more of them.
                share = part.largest / part.variance * math.sqrt(n / count)
                told = share <= LARGEST_SHARE / 2
                if told and self._passes(target, critical, {"pattern": count / n}):
                    return self._more("pattern", count - len(self.sums))
        return Needs("patterns", note=f"beyond {MOST:,} patterns")

    def _more(self, name: str, count: int) -> Needs:
        if name == "pattern":
            return Needs("patterns", {"patterns": count})
        return Needs("samples", {"samples": count * self.block_size})


def _spread(part: Jackknife) -> float:
    """Upper limit of a variance to the variance, at about ``POWER``: by its own spread.

    Of ``n`` values with a kurtosis of ``k``, the variance has a relative one of ``(k - 1) / n``.
    """
    squares = part.influences**2
    kurtosis = float((squares**2).mean() / squares.mean() ** 2) if part.variance else 1.0
    return math.exp(float(stats.norm.ppf(POWER)) * math.sqrt((kurtosis - 1) / part.units))


def _many(name: str) -> str:
    return f"{name}es" if name.endswith("ch") else f"{name}s"
