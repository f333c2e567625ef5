"""What the latency statistics promise, by simulation with this project's measured variances.

coverage   share of 99 % percentile intervals that hold the truth: independent calls, and calls
           with autocorrelation 0.46 in processes that differ by 1 %; beside it the interval that
           takes pooled calls for independent
families   share of A/A families of 20 comparisons with any flag after Holm; and how many of 20
           slowdowns of 10 % are found in one family
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import signal
from scipy import stats as distributions

from hwbench import stats
from hwbench.samples import percentiles

PROCESSES, COMPARISONS = 5, 20
LEVEL = 0.05

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """How calls vary.

    Attributes:
        between: standard deviation of log latency between processes.
        within: the same within a process.
        correlation: of consecutive calls of a process.
        spikes: share of calls that take two to twenty times as long.
    """

    between: float
    within: float
    correlation: float
    spikes: float = 0.0

    def calls(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Latencies around 1; the last axis counts calls, the one before it processes."""
        noise = rng.standard_normal(shape)
        if self.correlation:
            noise[..., 1:] *= np.sqrt(1 - self.correlation**2)
            noise = signal.lfilter([1.0], [1.0, -self.correlation], noise, axis=-1)
        logs = self.within * noise + self.between * rng.standard_normal((*shape[:-1], 1))
        made: Floats = np.exp(logs)
        if self.spikes:
            hit = rng.random(shape) < self.spikes
            made[hit] *= rng.uniform(2, 20, int(hit.sum()))
        return made

    def percentile(self, asked: float) -> float:
        """The typical process's, without spikes."""
        return float(np.exp(self.within * distributions.norm.ppf(asked)))


INDEPENDENT = World(between=0.0, within=0.003, correlation=0.0)
MACHINE = World(between=0.01, within=0.003, correlation=0.46)
SPIKY = World(between=0.01, within=0.003, correlation=0.46, spikes=0.01)


def coverage(world: World, asked: float, calls: int, repeats: int, seed: int) -> float:
    """Share of percentile intervals, each of ``PROCESSES`` processes, that hold the truth."""
    rng, truth, held = np.random.default_rng(seed), world.percentile(asked), 0
    for _ in range(repeats):
        samples = world.calls(rng, (PROCESSES, calls))
        each = [percentiles(row, [asked])[0] for row in samples]
        found, _ = stats.percentile_interval(each, [calls] * PROCESSES, asked)
        assert found is not None
        held += found.covers(truth)
    return held / repeats


def pooled_coverage(world: World, asked: float, calls: int, repeats: int, seed: int) -> float:
    """The same of an interval of order statistics that takes every call for independent."""
    rng, truth, held = np.random.default_rng(seed), world.percentile(asked), 0
    n = PROCESSES * calls
    low, high = np.asarray(distributions.binom.ppf([0.005, 0.995], n, asked)).astype(int)
    for _ in range(repeats):
        ordered = np.sort(world.calls(rng, (PROCESSES, calls)).ravel())
        held += bool(ordered[max(low - 1, 0)] <= truth <= ordered[min(high, n - 1)])
    return held / repeats


def flags(world: World, calls: int, seed: int, planted: float = 0.0) -> int:
    """Comparisons of one family that are found different, each slower by ``planted``."""
    rng = np.random.default_rng(seed)
    medians = np.median(world.calls(rng, (2, COMPARISONS, PROCESSES, calls)), axis=-1)
    pairs = zip(medians[0] * (1 + planted), medians[1], strict=True)
    found = [stats.ratio_of_medians(one, other) for one, other in pairs]
    corrected = stats.holm([each.p_value for each in found if each is not None])
    return int((np.asarray(corrected) < LEVEL).sum())


def main(repeats: int, families: int) -> None:
    """Print it all."""
    for name, world in (("independent", INDEPENDENT), ("this machine", MACHINE)):
        for asked in (0.5, 0.9, 0.95, 0.97, 0.99, 0.999):
            calls = max(30, stats.minimum_count(asked))
            found = coverage(world, asked, calls, repeats, 1)
            pooled = pooled_coverage(world, asked, calls, max(1, repeats // 5), 1)
            print(
                f"coverage   {name:<12} p{100 * asked:g} of {calls} calls x {PROCESSES}:"
                f" {found:.2%} (pooled calls {pooled:.2%}), nominal 99 %"
            )
    alarms = np.mean([flags(SPIKY, 200, seed) > 0 for seed in range(families)])
    print(f"families   A/A: {alarms:.1%} of {families} families of {COMPARISONS} with any flag")
    power = [flags(SPIKY, 200, seed, 0.1) for seed in range(100)]
    print(f"families   +10 %: {np.mean(power):.1f} of {COMPARISONS} found (least {min(power)})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3] or ("2000", "1000")))
