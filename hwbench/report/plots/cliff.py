"""What a model does under falling memory limits: where it loads, keeps up, dies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.report.plots.canvas import BAD, GOOD, INK, MUTED, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Tried:
    """A process under a limit; ``ratio`` is its p50 to that without a limit, where it ran."""

    limit_mib: float
    ran: bool
    ratio: float | None


def cliff(tried: Sequence[Tried], load_mib: float | None, latency_mib: float | None) -> str:
    """Limits from left (small) to right, p50 upwards; failures stand at the foot."""

    def draw(axes: Axes) -> None:
        ratios = [each.ratio for each in tried if each.ran and each.ratio is not None]
        top = max([2.2, *(1.1 * each for each in ratios)])
        foot = -0.08 * top
        good = [each for each in tried if each.ran]
        axes.plot([e.limit_mib for e in good], [e.ratio or 0 for e in good], "o", color=GOOD)
        dead = [each.limit_mib for each in tried if not each.ran]
        axes.plot(dead, [foot] * len(dead), "x", color=BAD)
        axes.axhline(2, color=MUTED, linestyle=":", linewidth=1)
        if load_mib == latency_mib:
            _limit(axes, load_mib, "loads and keeps up", top)
        else:
            _limit(axes, load_mib, "loads", top)
            _limit(axes, latency_mib, "keeps up", 0.88 * top)
        axes.set_ylim(2 * foot, top * 1.08)
        axes.set_xlabel("memory limit, MiB")
        axes.set_ylabel("p50 / p50 without limit")

    return drawn(draw, height=2.4)


def _limit(axes: Axes, at: float | None, name: str, height: float) -> None:
    if at is not None:
        axes.axvline(at, color=INK, linewidth=0.9, linestyle="--")
        low, high = axes.get_xlim()
        beyond = at > (low + high) / 2  # the words go where there is more room for them
        axes.annotate(
            f"{name} from {at:g}",
            (at, height),
            xytext=(-4 if beyond else 4, 0),
            textcoords="offset points",
            ha="right" if beyond else "left",
            fontsize=8,
            color=INK,
        )
