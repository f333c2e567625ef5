"""Change points of a series of nights: E-divisive, with a permutation null that allows for memory.

Matteson and James, "A nonparametric approach for multiple change point analysis of multivariate
data", JASA 109 (2014) 334-345: where a series is cut in two, the energy distance of the parts is
largest at a change of any kind; its null distribution is what permutations of the series give.
Nights that follow one another are alike, though, and permuting them as if they were not calls half
of such series changed. So what is permuted are the innovations of a first-order autoregression:
with no autocorrelation these are the values themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import signal

MINIMUM = 4  # nights on either side of a change
PERMUTATIONS = 199
ALPHA = 0.01
_LOOKS = (9, 39)  # permutations after which a hopeless test stops
_MEMORY = 0.9  # largest autocorrelation allowed for

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChangePoint:
    """Where a series changed.

    Attributes:
        index: of the first value behind the change.
        p_value: share of permuted series with as large a statistic, this one included.
        statistic: scaled energy distance of the two sides.
    """

    index: int
    p_value: float
    statistic: float


def energy(values: Floats) -> Floats:
    """Scaled energy distance of the two parts at every cut, shape (..., n - 1).

    Equation 5 of Matteson and James with exponent 1, up to the end of the series:
    ``mn / (m + n) (2 E|X - Y| - E|X - X'| - E|Y - Y'|)`` for parts of m and n values. A part of one
    value has no spread of its own and counts with 0.

    Args:
        values: shape (..., n), n at least 2; leading axes are series of their own.
    """
    n = values.shape[-1]
    distances = np.abs(values[..., :, None] - values[..., None, :])
    earlier = np.tril(distances).sum(axis=-1)
    later = distances.sum(axis=-1) - earlier
    left = np.cumsum(earlier, axis=-1)[..., :-1]  # sums over pairs within the first m values
    right = np.cumsum(later[..., ::-1], axis=-1)[..., ::-1][..., 1:]
    between = earlier.sum(axis=-1)[..., None] - left - right
    m = np.arange(1, n, dtype=np.float64)
    first, second = (k * np.maximum(k - 1, 1) / 2 for k in (m, n - m))
    spread = between / (m * (n - m)) * 2 - left / first - right / second
    return np.asarray(m * (n - m) / n * spread)


def change_point(
    values: npt.ArrayLike,
    *,
    minimum: int = MINIMUM,
    alpha: float = ALPHA,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> ChangePoint | None:
    """The most likely change point, or ``None`` where chance explains it.

    Args:
        values: shape (n,), in order of time.
        minimum: fewest values on either side.
        alpha: probability of a change point in a series without one.
        permutations: how many permuted series it is compared with.
        seed: of the permutations: the same values give the same answer.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.size < 2 * minimum or np.ptp(series) == 0:
        return None
    inner = slice(minimum - 1, series.size - minimum)
    found = energy(series)[inner]
    best = int(found.argmax())
    allowed = int(alpha * (permutations + 1)) - 1  # permuted series that may be as extreme
    above, done = 0, 0
    draw = np.random.default_rng(seed)
    for upto in (*(each for each in _LOOKS if each < permutations), permutations):
        drawn = energy(_permuted(series, upto - done, draw))[:, inner].max(axis=1)
        above, done = above + int((drawn >= found[best]).sum()), upto
        if above > allowed:
            return None
    return ChangePoint(best + minimum, (above + 1) / (done + 1), float(found[best]))


def change_points(
    values: npt.ArrayLike, *, minimum: int = MINIMUM, alpha: float = ALPHA, seed: int = 0
) -> list[ChangePoint]:
    """All change points in order, by cutting again each part that a cut leaves."""
    series = np.asarray(values, dtype=np.float64)
    found = change_point(series, minimum=minimum, alpha=alpha, seed=seed)
    if found is None:
        return []
    sides = (series[: found.index], 0), (series[found.index :], found.index)
    before, after = (
        [
            ChangePoint(each.index + start, each.p_value, each.statistic)
            for each in change_points(side, minimum=minimum, alpha=alpha, seed=seed)
        ]
        for side, start in sides
    )
    return [*before, found, *after]


def memory(values: Floats) -> float:
    """Autocorrelation from one value to the next, within 0..0.9, as far as it is beyond chance.

    The estimate is biased by ``-1 / n``, which is added, and half of its standard error of
    ``1 / sqrt(n)`` is taken off: what independent values show by chance would else hide changes.
    """
    centred, n = values - values.mean(), values.size
    power = float(centred @ centred)
    if power == 0:
        return 0.0
    estimate = float(centred[:-1] @ centred[1:]) / power + 1 / n - 0.5 / np.sqrt(n)
    return float(np.clip(estimate, 0.0, _MEMORY))


def _permuted(series: Floats, count: int, draw: np.random.Generator) -> Floats:
    """Series without a change but with the same memory, shape (count, n)."""
    rho, centred = memory(series), series - series.mean()
    innovations = np.concatenate(
        [centred[:1] * np.sqrt(1 - rho**2), centred[1:] - rho * centred[:-1]]
    )
    shuffled = draw.permuted(np.broadcast_to(innovations, (count, series.size)), axis=1)
    if rho == 0:
        return shuffled
    shuffled[:, 0] /= np.sqrt(1 - rho**2)  # stationary from the start
    return np.asarray(signal.lfilter([1.0], [1.0, -rho], shuffled, axis=1))
