"""How many faults to inject for a margin of error, when faults are drawn from a finite list.

Leveugle et al., "Statistical fault injection: quantified error and confidence", DATE 2009; the
layer-wise and layer-and-bit-wise forms are those of Ruospo et al., DATE 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from hwbench.stats.interval import check_confidence

# The 99 % quantile as the literature rounds it; published sample sizes depend on the rounding.
PUBLISHED_QUANTILE_99 = 2.58


def normal_quantile(confidence: float) -> float:
    """Two-sided standard normal quantile of a confidence level: 2.5758... for 0.99."""
    check_confidence(confidence)
    return float(stats.norm.ppf(0.5 + confidence / 2))


def sample_size(
    population: int,
    error: float = 0.01,
    quantile: float = PUBLISHED_QUANTILE_99,
    proportion: float = 0.5,
) -> int:
    """Faults to draw, without replacement, for a rate known to within ``error``.

    ``n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p)))``, to the nearest integer.

    Args:
        population: number of possible faults N.
        error: half-width of the interval of the rate, as a fraction.
        quantile: normal quantile t of the confidence.
        proportion: expected rate p; 0.5 is the worst case.

    Raises:
        ValueError: if an argument is out of range.
    """
    if population < 0 or error <= 0 or quantile <= 0 or not 0 < proportion < 1:
        raise ValueError("needs population >= 0, error > 0, quantile > 0 and 0 < proportion < 1")
    if population == 0:
        return 0
    spread = quantile**2 * proportion * (1 - proportion)
    return round(population / (1 + error**2 * (population - 1) / spread))


def layer_sample_sizes(
    populations: Sequence[int],
    error: float = 0.01,
    quantile: float = PUBLISHED_QUANTILE_99,
    proportion: float = 0.5,
) -> list[int]:
    """Faults to draw in each layer so that every *layer's* rate is known to within ``error``."""
    return [sample_size(each, error, quantile, proportion) for each in populations]


def layer_bit_sample_sizes(
    populations: Sequence[int],
    bits: int = 32,
    error: float = 0.01,
    quantile: float = PUBLISHED_QUANTILE_99,
    proportion: float = 0.5,
) -> list[int]:
    """Faults to draw *for each bit position* of each layer; a layer's total is ``bits`` times that.

    Args:
        populations: possible faults per layer, all bit positions together.
        bits: bit positions per element; every population must be a multiple of it.
        error: half-width of the interval of each layer's and bit's rate, as a fraction.
        quantile: normal quantile of the confidence.
        proportion: expected rate.

    Raises:
        ValueError: if a population cannot be shared out over the bit positions.
    """
    if any(each % bits for each in populations):
        raise ValueError(f"a layer's faults are no multiple of {bits} bit positions")
    return layer_sample_sizes([each // bits for each in populations], error, quantile, proportion)
