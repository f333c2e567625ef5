"""What is told of one process's latencies. Lean, because workers import it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench.histogram import Histogram

PERCENTILES = {  # by column of ``processes``
    "latency_p50_ms": 0.5,
    "latency_p90_ms": 0.9,
    "latency_p95_ms": 0.95,
    "latency_p97_ms": 0.97,
    "latency_p99_ms": 0.99,
    "latency_p999_ms": 0.999,
}
FAR = 3.0  # interquartile ranges, Tukey's "far out"
NORMAL_IQR = 1.349  # interquartile range of a normal distribution over its standard deviation

Floats = npt.NDArray[np.float64]


def percentiles(samples: npt.ArrayLike, asked: Sequence[float]) -> list[float]:
    """Percentiles of one process's calls, in their unit.

    By the median-unbiased order statistic (Hyndman and Fan's definition 8): the plain one is biased
    inwards by up to one call, which an interval over processes would not average out.
    """
    values = np.asarray(samples, dtype=np.float64)
    return [float(each) for each in np.quantile(values, asked, method="median_unbiased")]


def outliers(samples: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Calls far above the others. They are flagged, never dropped: users wait for them too."""
    values = np.asarray(samples, dtype=np.float64)
    lower, upper = np.quantile(values, [0.25, 0.75])
    flagged: npt.NDArray[np.bool_] = values > upper + FAR * (upper - lower)
    return flagged


def autocorrelation(samples: npt.ArrayLike) -> float | None:
    """Of log latencies, from one call to the next; ``None`` where they do not vary."""
    logs = np.log(np.maximum(np.asarray(samples, dtype=np.float64), 1.0))
    if logs.size < 3:
        return None
    centred = logs - logs.mean()
    total = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / total if total > 0 else None


def summary(latencies_ns: npt.NDArray[np.int64], folded: Histogram | None) -> dict[str, Any]:
    """Columns of ``processes`` that are made of one process's latencies.

    Args:
        latencies_ns: in order; of a soak, the last ones.
        folded: all of them, of a soak.
    """
    asked = [0.25, 0.75, *PERCENTILES.values()]
    found = percentiles(latencies_ns, asked) if folded is None else folded.quantiles(asked)
    lower, upper, *wanted = found
    fence = upper + FAR * (upper - lower)
    return {
        **{name: value / 1e6 for name, value in zip(PERCENTILES, wanted, strict=True)},
        "latency_mean_ms": (float(latencies_ns.mean()) if folded is None else folded.mean) / 1e6,
        "relative_sd": (upper - lower) / NORMAL_IQR / wanted[0] if wanted[0] else None,
        "autocorrelation": autocorrelation(latencies_ns),
        "n_outliers": int(outliers(latencies_ns).sum()) if folded is None else folded.above(fence),
    }
