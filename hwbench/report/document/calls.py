"""Single calls: how latencies are distributed, by process, environment and condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hwbench.report.document import words
from hwbench.report.document.content import Figure, Panel
from hwbench.report.document.material import Calls, Material
from hwbench.report.plots.curves import MOST, parts
from hwbench.report.plots.distributions import Sample, densities, tails

_RIDGES = 12  # arms in a drawing
_HEIGHT = (
    "Height: share of the calls of all processes on a logarithmic axis, each row scaled to its own "
    "peak. Ticks below: medians of the processes; ticks far apart mean that runs differ more than "
    "calls do."
)

Arms = dict[tuple[Any, ...], list[Calls]]
Panels = dict[str, list[Sample]]


def figures(material: Material) -> list[Figure]:
    """Density and tail of the clean arms; densities under conditions, by environment."""
    arms = _arms(material)
    clean = _by_use(material, {key: found for key, found in arms.items() if key[2] == "clean"})
    strained = _by_environment(material, arms)
    made = []
    if clean:
        made += [_densities("latency-distributions", "Distribution of single calls", clean)]
        made += [_tails(clean)]
    if strained:
        title = "Distribution of single calls under conditions and faults"
        made += [_densities("latency-conditions", title, strained)]
    return made


def _arms(material: Material) -> Arms:
    """The processes of each arm by block, in the order of the plan."""
    places = [(each["model"], each["environment"]) for each in material.plan["environments"]]
    order = {place: number for number, place in enumerate(places)}
    cases = {each["scenario"]: number for number, each in enumerate(material.plan["cases"])}
    found: Arms = {}
    for each in sorted(
        material.calls,
        key=lambda each: (
            order[each.model, each.environment],
            cases.get(each.scenario, -1),
            each.severity or 0.0,
            each.block,
        ),
    ):
        found.setdefault(each.arm, []).append(each)
    return found


def _use(material: Material, each: Calls) -> str:
    model = f"{each.model}, " if material.several_models else ""
    return f"{model}batch {each.batch}, {each.use}"


def _sample(name: str, calls: Sequence[Calls]) -> Sample:
    return Sample(name, tuple(each.histogram for each in calls))


def _by_use(material: Material, arms: Arms) -> Panels:
    found: Panels = {}
    for calls in arms.values():
        sample = _sample(calls[0].environment, calls)
        found.setdefault(_use(material, calls[0]), []).append(sample)
    return found


def _by_environment(material: Material, arms: Arms) -> Panels:
    """Environments with more than their clean arm."""
    found: Panels = {}
    for calls in arms.values():
        first = calls[0]
        name = words.condition({**vars(first), "scenario": first.scenario})
        title = f"{first.environment}, {_use(material, first)}"
        found.setdefault(title, []).append(_sample(name, calls))
    return {
        title: samples
        for title, samples in found.items()
        if any(each.name != "clean" for each in samples)
    }


def _drawn(panels: Panels, most: int, draw: Callable[[list[Sample]], str]) -> tuple[Panel, ...]:
    return tuple(
        Panel(title + more, _quantiles(part), partial(draw, part))
        for title, samples in panels.items()
        for part, more in parts(samples, most)
    )


def _quantiles(samples: Sequence[Sample]) -> str:
    said = []
    for each in samples:
        middle, tail = (value / 1e6 for value in each.pooled().quantiles([0.5, 0.99]))
        said.append(f"{each.name}: median {middle:.3g} ms, 99 % within {tail:.3g} ms")
    return "; ".join(said)


def _densities(key: str, title: str, panels: Panels) -> Figure:
    return Figure(
        key,
        title,
        _drawn(panels, _RIDGES, densities),
        _HEIGHT,
        "latency/*.parquet",
        ("latencies_ns", "environment", "scenario", "block"),
        "every recorded call; the 0.01 % slowest lie beyond the drawing",
    )


def _tails(panels: Panels) -> Figure:
    return Figure(
        "latency-tails",
        "How many calls take longer",
        _drawn(panels, MOST, tails),
        "Thin: one process. Thick: all of them. A long flat foot is a rare but large delay; "
        "percentiles with too few calls behind them are refused in the table.",
        "latency/*.parquet",
        ("latencies_ns", "environment", "block"),
        "scenario = clean, every recorded call",
    )
