"""Values over a severity, one line with its band per environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hwbench.report.names import shortened
from hwbench.report.plots.canvas import DASHES, MARKERS, MUTED, SERIES, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 6  # lines in a drawing: more cannot be told apart
_TICKS = 6
_NAME = 34  # characters of a legend that a phone shows


@dataclass(frozen=True)
class Curve:
    """One line. ``low`` and ``high`` may hold NaN where there is no interval."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Scale:
    """What the axes say.

    Attributes:
        falling: harsher severities are smaller numbers: the axis is turned, harsher is right.
        level: a value to compare with, drawn dotted; ``None`` for none.
    """

    x: str
    y: str
    logarithmic: bool
    falling: bool
    level: float | None


def curves(lines: Sequence[Curve], scale: Scale) -> str:
    """The drawing of at most ``MOST`` lines."""
    return drawn(lambda axes: _draw(axes, lines, scale), height=2.5 + 0.16 * len(lines))


def _draw(axes: Axes, lines: Sequence[Curve], scale: Scale) -> None:
    if scale.logarithmic:
        axes.set_xscale("log")
    if scale.level is not None:
        axes.axhline(scale.level, color=MUTED, linestyle=":", linewidth=1)
    for number, line in enumerate(lines):
        _line(axes, line, number)
    _ticks(axes, sorted({value for line in lines for value in line.x}), scale.logarithmic)
    axes.set_xlabel(shortened(scale.x, 48))
    axes.set_ylabel(scale.y)
    axes.margins(x=0.04)
    if scale.falling:
        axes.invert_xaxis()
    axes.legend(loc="upper left", bbox_to_anchor=(-0.12, -0.2), borderaxespad=0)


def _ticks(axes: Axes, severities: Sequence[float], logarithmic: bool) -> None:
    """The severities themselves while their names have room, as the tables write them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if len(severities) <= _TICKS:
        axes.set_xticks(severities, [f"{value:g}" for value in severities])
        axes.minorticks_off()
    elif logarithmic:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _line(axes: Axes, line: Curve, number: int) -> None:
    colour = SERIES[number]
    style: dict[str, Any] = {
        "color": colour,
        "marker": MARKERS[number],
        "linestyle": DASHES[number],
    }
    axes.plot(line.x, line.y, label=shortened(line.name, _NAME), **style)
    axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.07, linewidth=0)
    for end in (line.low, line.high):  # bands that coincide are told by their edges
        axes.plot(line.x, end, color=colour, linestyle=DASHES[number], linewidth=0.5, alpha=0.7)


_Thing = TypeVar("_Thing")


def parts(things: Sequence[_Thing], most: int) -> Iterator[tuple[list[_Thing], str]]:
    """Pieces of about equal size, at most ``most`` each, with `` (1 of 2)`` for a title."""
    pieces = -(-len(things) // most)
    for number in range(pieces):
        begin, end = (len(things) * each // pieces for each in (number, number + 1))
        yield list(things[begin:end]), f" ({number + 1} of {pieces})" if pieces > 1 else ""


def suits_logarithm(values: Sequence[float]) -> bool:
    """Whether severities are spread over orders of magnitude."""
    return len(values) > 1 and min(values) > 0 and max(values) / min(values) >= 20
