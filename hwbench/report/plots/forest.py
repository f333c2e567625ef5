"""Estimates with their intervals, one row each, beside a line of no difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.report.names import shortened
from hwbench.report.plots.canvas import BAD, GOOD, INK, MUTED, SHEET, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"good": GOOD, "bad": BAD, "muted": MUTED, "plain": INK}


@dataclass(frozen=True)
class Estimate:
    """A row; ``low`` and ``high`` are ``None`` without an interval."""

    name: str
    value: float
    low: float | None
    high: float | None
    tone: str = "plain"


def forest(
    estimates: Sequence[Estimate], label: str, none: float | None, logarithmic: bool = False
) -> str:
    """Rows from top to bottom.

    Args:
        estimates: in the order of the rows.
        label: of the axis.
        none: where there is no difference; ``None`` for no such line.
        logarithmic: for ratios and times.
    """

    def draw(axes: Axes) -> None:
        if logarithmic:
            axes.set_xscale("log")
        if none is not None:
            axes.axvline(none, color=MUTED, linestyle=":", linewidth=1)
        for place, each in enumerate(estimates):
            _row(axes, place, each)
        names = [shortened(each.name, 26) for each in estimates]
        axes.set_yticks(range(len(estimates)), names, fontsize=8)
        axes.set_ylim(len(estimates) - 0.5, -0.5)
        axes.set_xlabel(label)
        if logarithmic:
            plain_logarithm(axes)

    return drawn(draw, height=0.75 + 0.24 * len(estimates))


def _row(axes: Axes, place: int, each: Estimate) -> None:
    colour = _COLOURS[each.tone]
    if each.low is not None and each.high is not None:
        axes.plot([each.low, each.high], [place, place], color=colour)
    full = each.tone in ("good", "bad")  # told by its shape too: the interval excludes none
    axes.plot(
        [each.value],
        [place],
        "D" if full else "o",
        color=colour,
        markerfacecolor=colour if full else SHEET,
    )


_NARROW = 2.0  # of the ends of an axis: within it a logarithm is nearly a line
_TICKS = (
    (4.0, (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)),
    (30.0, (1.0, 2.0, 5.0)),
    (math.inf, (1.0,)),
)


def plain_logarithm(axes: Axes) -> None:
    """Ticks of a logarithmic axis as plain numbers: 0.5, 2, 30."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if high / low < _NARROW:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return
    subs = next(subs for spread, subs in _TICKS if high / low < spread)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
