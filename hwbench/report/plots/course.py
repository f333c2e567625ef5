"""A series over time, with what the sensors said below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwbench.report.plots.canvas import BAD, SERIES, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 400


def course(
    seconds: Sequence[float],
    mean_ms: Sequence[float],
    p50_ms: Sequence[float],
    step_s: float | None,
) -> str:
    """Mean and median latency of windows over time; a dashed line where it stepped up."""
    keep = np.unique(np.linspace(0, len(seconds) - 1, _POINTS).astype(int))
    times, mean, median = (np.asarray(each)[keep] for each in (seconds, mean_ms, p50_ms))

    def draw(axes: Axes) -> None:
        axes.plot(times, mean, color=SERIES[0], linewidth=1, label="mean of a window")
        axes.plot(times, median, color=SERIES[1], linewidth=1, linestyle="--", label="median")
        if step_s is not None:
            axes.axvline(step_s, color=BAD, linestyle="-.", linewidth=1, label="step up")
        axes.set_xlabel("s")
        axes.set_ylabel("ms")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)

    return drawn(draw, height=2.2)


def sensor(seconds: Sequence[float], values: Sequence[float | None], unit: str) -> str:
    """One sensor over time; gaps where it said nothing."""
    known = np.array([np.nan if each is None else each for each in values], np.float64)

    def draw(axes: Axes) -> None:
        axes.plot(seconds, known, color=SERIES[2], linewidth=1)
        axes.set_xlabel("s")
        axes.set_ylabel(unit)

    return drawn(draw, height=1.6)
