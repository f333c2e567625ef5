"""Latencies of many calls: their density by environment, and how heavy the tail is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwbench.histogram import Histogram
from hwbench.report.names import shortened
from hwbench.report.plots.canvas import DASHES, INK, MUTED, SERIES, drawn
from hwbench.report.plots.forest import plain_logarithm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

_NS_PER_MS = 1e6
_BINS = 120
_TAIL = 0.9999  # what lies above would squeeze the rest into a corner; the tail drawing shows it
_POINTS = 200


@dataclass(frozen=True)
class Sample:
    """The calls of one arm, by process."""

    name: str
    processes: tuple[Histogram, ...]

    def pooled(self) -> Histogram:
        """All processes together."""
        lows = np.concatenate([each.lows for each in self.processes])
        counts = np.concatenate([each.counts for each in self.processes])
        distinct, place = np.unique(lows, return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, place, counts)
        return Histogram(distinct, total)


def densities(samples: Sequence[Sample]) -> str:
    """A ridge per arm, with the median of each of its processes below it."""

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        pooled = [each.pooled() for each in samples]
        low = min(each.quantiles([0.0])[0] for each in pooled)
        high = max(each.quantiles([_TAIL])[0] for each in pooled)
        edges = np.geomspace(low, max(high, 1.01 * low), _BINS + 1)
        for place, (each, calls) in enumerate(zip(samples, pooled, strict=True)):
            _ridge(axes, place, calls, edges)
            medians = [process.quantiles([0.5])[0] / _NS_PER_MS for process in each.processes]
            down = np.full(len(medians), place + 0.14)
            axes.plot(medians, down, "|", color=INK, markersize=6, markeredgewidth=1)
        names = [shortened(each.name, 26) for each in samples]
        axes.set_yticks(range(len(samples)), names, fontsize=8)
        axes.set_ylim(len(samples) - 0.6, -0.95)
        axes.set_xlabel("ms (logarithmic); | medians of processes")
        plain_logarithm(axes)

    return drawn(draw, height=0.9 + 0.36 * len(samples))


def _ridge(axes: Axes, place: int, calls: Histogram, edges: Floats) -> None:
    counts, _ = np.histogram(calls.middles, bins=edges, weights=calls.counts)
    smooth = np.convolve(counts, (0.25, 0.5, 0.25), mode="same")
    tall = 0.7 * smooth / max(smooth.max(), 1)  # below the medians of the ridge above
    middles = np.sqrt(edges[:-1] * edges[1:]) / _NS_PER_MS
    axes.fill_between(middles, place - tall, place, color=SERIES[0], alpha=0.45, linewidth=0)
    axes.plot(middles, place - tall, color=SERIES[0], linewidth=0.8)


def tails(samples: Sequence[Sample]) -> str:
    """Share of calls that take longer, by time; a thin line per process, a thick one for all."""

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        for number, each in enumerate(samples):
            for process in each.processes:
                axes.plot(*_slower(process), color=SERIES[number], linewidth=0.5, alpha=0.5)
            style: dict[str, Any] = {"color": SERIES[number], "linestyle": DASHES[number]}
            axes.plot(*_slower(each.pooled()), label=shortened(each.name, 34), **style)
        for share in (0.5, 0.01, 0.001):
            axes.axhline(share, color=MUTED, linestyle=":", linewidth=0.7)
        axes.set_yticks([1, 0.5, 0.1, 0.01, 0.001], ["all", "50 %", "10 %", "1 %", "0.1 %"])
        axes.set_ylim(bottom=3e-4)
        axes.set_xlabel("ms (logarithmic)")
        axes.set_ylabel("calls that take longer")
        axes.legend(loc="upper left", bbox_to_anchor=(-0.18, -0.2), borderaxespad=0)
        plain_logarithm(axes)

    return drawn(draw, height=2.5 + 0.16 * len(samples))


def _slower(calls: Histogram) -> tuple[Floats, Floats]:
    """Times in ms, and the share of calls above each; no more points than a drawing shows."""
    above = 1 - np.cumsum(calls.counts) / len(calls)
    keep = above > 0
    times, shares = calls.middles[keep] / _NS_PER_MS, above[keep]
    if len(times) > _POINTS:
        levels = np.geomspace(shares[0], shares[-1], _POINTS)
        index = np.unique(np.searchsorted(-shares, -levels).clip(0, len(shares) - 1))
        times, shares = times[index], shares[index]
    return times, shares
