"""A matrix of rates as coloured cells with their numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hwbench.report.names import shortened
from hwbench.report.plots.canvas import MUTED, WIDTH, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Matrix = npt.NDArray[np.float64]

_MAP = "YlOrRd"  # ordered in lightness too: it survives print and colour blindness
_LIGHT, _DARK = "#ffffff", "#1a1a1a"
_ROOT = 0.5  # of colours: one large rate would leave the others all alike
_TURN = 0.75  # of the colours: text is light from there on


def heat(values: Matrix, rows: Sequence[str], columns: Sequence[str], firm: Matrix) -> str:
    """Cells of shares in percent.

    Args:
        values: 0 to 100, NaN where nothing is known, shape (rows, columns).
        rows: their names.
        columns: theirs.
        firm: 1 where the cell has an interval, same shape; others are set in italics.
    """

    def draw(axes: Axes) -> None:
        from matplotlib.colors import PowerNorm

        top = _top(values)
        edges = (np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5)
        shown, norm = np.ma.masked_invalid(values), PowerNorm(_ROOT, vmin=0, vmax=top)
        axes.pcolormesh(*edges, shown, cmap=_MAP, norm=norm, edgecolors="none")
        _numbers(axes, values, firm, top)
        axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(len(rows)), [shortened(each, 24) for each in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False)

    return drawn(draw, height=0.9 + 0.22 * len(rows), width=WIDTH)


def _top(values: Matrix) -> float:
    """The end of the scale: no colour for a rate of nothing."""
    return max(1.0, float(np.nanmax(values))) if np.isfinite(values).any() else 1.0


def _numbers(axes: Axes, values: Matrix, firm: Matrix, top: float) -> None:
    size = 7 if values.shape[1] <= 8 else 6
    for (row, column), value in np.ndenumerate(values):
        known = np.isfinite(value)
        light = known and (value / top) ** _ROOT > _TURN
        axes.text(
            column,
            row,
            _short(value) if known else "·",
            ha="center",
            va="center",
            fontsize=size,
            color=MUTED if not known else _LIGHT if light else _DARK,
            style="normal" if firm[row, column] == 1 else "italic",
        )


def _short(percent: float) -> str:
    if percent == 0:
        return "0"
    if percent < 0.095:
        return "<.1"
    return f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"
