"""A fault campaign that stops when it knows enough: what to inject next, from the counts so far.

Pure. Faults are shared out over strata (site x bit field); rounds have a fixed number of patterns,
one fault each. The first round is spread in proportion to size, later ones go where the weighted
estimate gains most (Neyman, from the counts of complete rounds only, so resuming changes nothing).
After each round the interval of the whole population is looked at; the campaign stops at the first
whose half-width is at most the margin. ``hwbench.stats.sequential`` says why that is valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hwbench.stats.interval import Interval, check_confidence
from hwbench.stats.sampling import (
    PUBLISHED_QUANTILE_99,
    layer_bit_sample_sizes,
    layer_sample_sizes,
    normal_quantile,
    sample_size,
)
from hwbench.stats.sequential import calibrated_confidence, spent_confidence
from hwbench.stats.stratified import shares, stratified_estimate, stratified_interval

Estimand = Literal["sdc_per_sample", "any_sdc", "critical"]

CRITICAL_SHARE = 0.1  # of the samples whose decision changes, from which on a fault is critical
ANY_SITE = "*"

# Trials of either outcome that a stratum is believed to have had before its first: without them a
# stratum that happened to show nothing would never be looked at again.
_BELIEVED = 1.0
# A stratum's deviation counts as at least this share of the whole population's: Neyman's rule alone
# starves strata that look empty, whose possible contents then widen the interval most.
_DEFENCE = 0.85
_FLOOR = 20.0  # hits there would be, were the rate as large as the margin, before a first look
_FIRST = 2  # trials of each stratum, at least, in the first round
_FULL = 0.25  # share of the first round that these may take; strata are pooled until they do

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stratum:
    """Faults that resemble each other.

    Attributes:
        site: tensor, or ``*`` where the sites of a field are pooled.
        field: bit field, such as ``exponent``.
        size: number of possible faults.
    """

    site: str
    field: str
    size: int


@dataclass(frozen=True)
class Counts:
    """What complete rounds found, by stratum.

    Attributes:
        trials: faults injected.
        hits: sum of their ``outcome``.
    """

    trials: tuple[int, ...]
    hits: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """What to do next.

    Attributes:
        allocation: faults to inject per stratum, drawn without replacement; empty to stop.
        estimate: of the whole population; ``None`` before the first round.
        interval: valid if the campaign stops because its rule says so.
        interim: valid if somebody stops here for whatever reason.
    """

    allocation: tuple[int, ...]
    estimate: float | None
    interval: Interval
    interim: Interval

    @property
    def stops(self) -> bool:
        """Whether the margin is reached (or every fault was injected)."""
        return not self.allocation


@dataclass(frozen=True)
class Report:
    """Cost of a campaign beside that of a fixed sample of the same margin.

    Attributes:
        trials: faults injected.
        formula: faults by the finite-population formula at p = 0.5 (Leveugle 2009).
        interval: of the estimand.
    """

    trials: int
    formula: int
    interval: Interval

    @property
    def saved(self) -> float:
        """Share of the formula's trials that were not needed; negative if more were."""
        return 1 - self.trials / self.formula

    @property
    def text(self) -> str:
        """One line."""
        if self.trials > self.formula:
            verdict = f"{self.trials - self.formula} more than"
        else:
            verdict = f"{self.formula - self.trials} ({self.saved:.0%}) fewer than"
        low, high = self.interval.low, self.interval.high
        return (
            f"{low:.4f} to {high:.4f} at {self.interval.confidence:g} confidence after "
            f"{self.trials} faults, {verdict} the {self.formula} of the fixed-size formula"
        )


@dataclass(frozen=True)
class Progress:
    """Where a campaign stands.

    Attributes:
        faults: by pattern, the next round's included: (stratum, n), the fault being the n-th of a
            random order of that stratum's faults.
        counts: of the complete rounds.
        step: what to do next; once it stops, later patterns do not count.
    """

    faults: tuple[tuple[int, int], ...]
    counts: Counts
    step: Step


@dataclass(frozen=True)
class Campaign:
    """A population of faults and how well it is to be known.

    Attributes:
        strata: they must not overlap; together they are the population.
        estimand: what is asked; see ``outcome``.
        margin: half-width of the interval to reach.
        confidence: coverage of that interval.
        per_round: faults between looks.
        least: faults before which it does not stop; by default 20 / margin. Fewer would do where
            hits are rare, but such an interval is mostly about what was not seen: wide for its
            cost, and covering more than was asked.
    """

    strata: tuple[Stratum, ...]
    estimand: Estimand = "any_sdc"
    margin: float = 0.01
    confidence: float = 0.99
    per_round: int = 200
    least: int | None = None

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.estimand not in get_args(Estimand):
            raise ValueError(f"estimand is one of {', '.join(get_args(Estimand))}")
        if not 0 < self.margin < 0.5 or self.per_round < 1:
            raise ValueError("needs 0 < margin < 1/2 and at least one fault a round")
        if not self.strata or any(each.size < 1 for each in self.strata):
            raise ValueError("needs strata, each with at least one fault")
        if _FIRST * len(self.strata) > self.per_round:
            raise ValueError(f"{len(self.strata)} strata are too many for a round; pool them")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Possible faults per stratum."""
        return tuple(each.size for each in self.strata)

    @property
    def nominal(self) -> float:
        """Confidence of the single intervals that makes the stopped one hold what was asked."""
        return calibrated_confidence(self.margin, self.confidence, self.per_round, self.floor)

    @property
    def floor(self) -> int:
        """Faults before which the campaign does not stop."""
        return round(_FLOOR / self.margin) if self.least is None else self.least

    @property
    def formula(self) -> int:
        """Faults of a fixed sample of the same margin and confidence."""
        return max(1, sample_size(sum(self.sizes), self.margin, normal_quantile(self.confidence)))

    @property
    def nothing(self) -> Counts:
        """The counts before the first round."""
        return Counts((0,) * len(self.strata), (0.0,) * len(self.strata))

    def ends(self, width: Floats, trials: Integers) -> npt.NDArray[np.bool_]:
        """The stop rule, of many campaigns at once.

        Args:
            width: of the intervals at ``nominal`` confidence, shape (campaigns,).
            trials: shape (campaigns, strata).
        """
        enough = (trials.sum(axis=-1) >= self.floor) & (width <= 2 * self.margin)
        return np.asarray(enough | np.all(trials == np.asarray(self.sizes), axis=-1))

    def next_step(self, counts: Counts) -> Step:
        """The next round or the end, from the counts of all complete rounds.

        Raises:
            ValueError: if the counts are not those of samples of the strata.
        """
        found = self._interval(counts, self.nominal, "stopped-stratified-score")
        look = max(1, sum(counts.trials) // self.per_round)
        spent = spent_confidence(self.confidence, look)
        interim = self._interval(counts, spent, "spent-stratified-score")
        ends = bool(self.ends(np.asarray(found.width), np.asarray(counts.trials)))
        allocation = () if ends else self._allocation(counts)
        estimate = stratified_estimate(self.sizes, counts.hits, counts.trials)
        return Step(allocation, estimate, found, interim)

    def progress(self, outcomes: Sequence[float]) -> Progress:
        """Where a campaign stands, from the outcomes of its patterns in their order.

        Allocations are made again round by round, so nothing but outcomes need be stored, and an
        incomplete round changes nothing.

        Args:
            outcomes: of patterns 0, 1, ... as far as they are known without a gap.
        """
        counts, assigned = self.nothing, list[tuple[int, int]]()
        while True:
            step = self.next_step(counts)
            first = len(assigned)
            for stratum, n in enumerate(step.allocation):
                assigned += [(stratum, counts.trials[stratum] + i) for i in range(n)]
            if step.stops or len(outcomes) < len(assigned):
                return Progress(tuple(assigned), counts, step)
            strata = [stratum for stratum, _ in assigned[first:]]
            counts = _added(counts, strata, outcomes[first : len(assigned)])

    def report(self, counts: Counts) -> Report:
        """What a campaign that stopped has cost and found."""
        step = self.next_step(counts)
        return Report(
            sum(counts.trials), self.formula, step.interval if step.stops else step.interim
        )

    def _interval(self, counts: Counts, nominal: float, method: str) -> Interval:
        """At a nominal confidence, labelled with what it holds under its rule of stopping."""
        made = stratified_interval(self.sizes, counts.hits, counts.trials, nominal)
        return Interval(made.low, made.high, self.confidence, method)

    def _allocation(self, counts: Counts) -> tuple[int, ...]:
        sizes = np.asarray([self.sizes], np.int64)
        trials, hits = np.asarray([counts.trials], np.int64), np.asarray([counts.hits])
        return tuple(allocate(sizes, hits, trials, self.per_round)[0].tolist())


def _added(counts: Counts, strata: Sequence[int], outcomes: Sequence[float]) -> Counts:
    trials, hits = list(counts.trials), list(counts.hits)
    for stratum, hit in zip(strata, outcomes, strict=True):
        trials[stratum] += 1
        hits[stratum] += hit
    return Counts(tuple(trials), tuple(hits))


def allocate(sizes: Integers, hits: Floats, trials: Integers, n: int) -> Integers:
    """Faults of the next round for many campaigns at once; arrays of shape (campaigns, strata)."""
    first = np.minimum(sizes, _FIRST) - trials
    first = np.where(trials.sum(axis=-1, keepdims=True) == 0, first, 0)
    believed = (hits + _BELIEVED) / (trials + 2 * _BELIEVED)
    overall = (sizes * believed).sum(axis=-1, keepdims=True) / sizes.sum(axis=-1, keepdims=True)
    least = _DEFENCE * np.sqrt(overall * (1 - overall))
    deviations = np.maximum(np.sqrt(believed * (1 - believed)), least)
    left = n - first.sum(axis=-1)
    return first + shares(sizes, deviations, left, trials + first)


def outcome(estimand: Estimand, changed: int, n_samples: int) -> float:
    """What one fault counts, from the number of samples whose decision it changes.

    ``sdc_per_sample`` the share that changes; ``any_sdc`` 1 if any does; ``critical`` 1 if at least
    a tenth do.

    Raises:
        ValueError: if more samples changed than there are.
    """
    if not 0 <= changed <= n_samples or n_samples < 1:
        raise ValueError(f"{changed} of {n_samples} samples cannot have changed")
    if estimand == "sdc_per_sample":
        return changed / n_samples
    least = 1 if estimand == "any_sdc" else CRITICAL_SHARE * n_samples
    return float(changed >= max(1, least))


def pooled(strata: Iterable[Stratum], per_round: int = 200) -> tuple[Stratum, ...]:
    """Strata few enough for a round: the smallest of a field share one stratum, site ``*``.

    Small ones are merged first, within their bit field, as fields differ more than layers do.

    Raises:
        ValueError: if there are more fields than a round can hold.
    """
    found = sorted(strata, key=lambda each: each.size)
    most = max(1, int(_FULL * per_round / _FIRST))
    if len({each.field for each in found}) > most:
        raise ValueError(f"a round of {per_round} cannot hold that many bit fields")
    while len(found) > most:
        small = next(a for i, a in enumerate(found) if a.field in {b.field for b in found[i + 1 :]})
        other = next(each for each in found if each.field == small.field and each is not small)
        merged = Stratum(ANY_SITE, small.field, small.size + other.size)
        found = [each for each in found if each is not small and each is not other]
        found = sorted([*found, merged], key=lambda each: each.size)
    return tuple(found)


@dataclass(frozen=True)
class FixedPlan:
    """Sample sizes that are fixed in advance.

    Attributes:
        name: what each rate is known for: ``network-wise``, ``layer-wise``, ``layer x bit`` or
            ``data-aware`` (layer x bit with an expected rate for each bit).
        faults: one entry per unit of the plan: the whole, a layer, or a layer's bit positions.
    """

    name: str
    faults: tuple[tuple[int, ...], ...]

    @property
    def total(self) -> int:
        """Faults in all."""
        return sum(sum(each) for each in self.faults)


def fixed_plans(
    populations: Sequence[int],
    bits: int | Sequence[int] = 32,
    error: float = 0.01,
    quantile: float = PUBLISHED_QUANTILE_99,
    proportions: Sequence[float] | None = None,
) -> list[FixedPlan]:
    """The plans of Ruospo et al., DATE 2023 (doi 10.23919/DATE56975.2023.10136998), side by side.

    Args:
        populations: possible faults per layer, all bit positions together.
        bits: bit positions per element, of all layers or of each.
        error: half-width of the interval of each rate.
        quantile: normal quantile of the confidence.
        proportions: expected rate per bit position, for the data-aware plan; see
            ``data_aware_proportions``.

    Raises:
        ValueError: if a population cannot be shared out over the bit positions.
    """
    widths = [bits] * len(populations) if isinstance(bits, int) else list(bits)
    whole = sample_size(sum(populations), error, quantile)
    layers = layer_sample_sizes(populations, error, quantile)
    cells = [
        layer_bit_sample_sizes([each], width, error, quantile)[0]
        for each, width in zip(populations, widths, strict=True)
    ]
    plans = [
        FixedPlan("network-wise", ((whole,),)),
        FixedPlan("layer-wise", tuple((each,) for each in layers)),
        FixedPlan(
            "layer x bit",
            tuple((each,) * width for each, width in zip(cells, widths, strict=True)),
        ),
    ]
    if proportions is not None:
        aware = _data_aware(populations, widths, error, quantile, proportions)
        plans.append(FixedPlan("data-aware", aware))
    return plans


def _data_aware(
    populations: Sequence[int],
    widths: Sequence[int],
    error: float,
    quantile: float,
    proportions: Sequence[float],
) -> tuple[tuple[int, ...], ...]:
    if any(width != len(proportions) for width in widths):
        raise ValueError(f"needs an expected rate for each of {widths[0]} bit positions")
    return tuple(
        tuple(
            sample_size(each // len(proportions), error, quantile, rate) if rate > 0 else 0
            for rate in proportions
        )
        for each in populations
    )


def data_aware_proportions(weights: npt.NDArray[np.float32]) -> list[float]:
    """Expected rate of critical faults per bit position of fp32 weights, from the weights alone.

    The mean distance |w' - w| that flipping a bit makes, scaled to 0..0.5 between the smallest and
    the largest over the bit positions; outliers (above Tukey's fence, and what is not finite: the
    highest exponent bits) get 0.5 and do not stretch the scale. An estimate of where to look, not
    of a rate: a campaign checks it.

    Args:
        weights: any shape, at least one element.

    Returns:
        32 rates, the lowest bit first.

    Raises:
        ValueError: if there is no weight, or they are not float32.
    """
    if weights.dtype != np.float32 or weights.size == 0:
        raise ValueError("needs at least one float32 weight")
    plain = np.ascontiguousarray(weights).ravel()
    distances = np.asarray([_distance(plain, bit) for bit in range(32)])
    first, third = np.quantile(distances, [0.25, 0.75])
    outlier = ~np.isfinite(distances) | (distances > third + 1.5 * (third - first))
    low, high = distances[~outlier].min(), distances[~outlier].max()
    scaled = 0.5 * (distances - low) / (high - low) if high > low else np.zeros(32)
    rates: list[float] = np.where(outlier, 0.5, scaled).tolist()
    return rates


def _distance(weights: npt.NDArray[np.float32], bit: int) -> float:
    """Mean distance of a flip of one bit; a result that is no number counts as the largest."""
    flipped = (weights.view(np.uint32) ^ np.uint32(1 << bit)).view(np.float32)
    largest = float(np.finfo(np.float32).max)
    with np.errstate(invalid="ignore"):  # a signalling NaN among the flipped
        away = np.abs(flipped.astype(np.float64) - weights.astype(np.float64))
    return float(np.nan_to_num(away, nan=largest, posinf=largest).mean())
