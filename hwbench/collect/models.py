"""Models side by side: does the simpler one hold better, and what does it cost?

Everything is against the first model of the spec in the same environment under the same case, on
the same samples. Faults in weights hit other weights there: patterns of both are draws of their
own, paired by number, which the bootstrap over pairs allows for. Noise on inputs is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hwbench import stats
from hwbench.collect.cell import CONFIDENCE, CellRows, interval, mean_interval
from hwbench.collect.latency import SINGLE
from hwbench.collect.planned import Cells, Place, Planned
from hwbench.record import Row

ITSELF = "the first model"
OTHER_DATA = "other data than the first model's"
_DIFFERENCES = ("accuracy", "drift")
_KNOWN = ("accuracy", "drift", "drift_low", "drift_high")


def table(
    cells: Cells,
    drift: Iterable[Row],
    latency: Iterable[Row],
    environments: Iterable[Row],
    inputs: Mapping[str, Mapping[str, str]],
) -> list[Row]:
    """Rows by environment and case, the models of each below one another; none of one model.

    Args:
        cells: of the run.
        drift: rows of that table, in the order of cells.
        latency: rows of that table.
        environments: rows of that table.
        inputs: digests of model and data by model, of run.json.
    """
    models = list(dict.fromkeys(each["model"] for each in cells.plan["environments"]))
    if len(models) < 2:
        return []
    known = {each.id: row for each, row in zip(cells, drift, strict=True)}
    costs = _costs(latency, environments)
    rows = []
    for cell in _side_by_side(cells):
        first = cells.at((models[0], cell.place[1]), cell.case["id"])
        clean = cells.at(cell.place)
        row = {**cell.names, **cell.state, "reference": models[0], **costs.get(cell.place, {})}
        row |= {name: known[cell.id].get(name) for name in _KNOWN}
        row["accuracy_clean"] = known[clean.id].get("accuracy") if clean else None
        same = inputs[cell.place[0]]["data"] == inputs[models[0]]["data"]
        rows.append(row | _difference(cells, cell, first, same))
    return rows


def _side_by_side(cells: Cells) -> Iterator[Planned]:
    """Environment by environment, then case by case."""
    order = {each: index for index, each in enumerate(dict.fromkeys(c.place[1] for c in cells))}
    yield from sorted(cells.by_case(), key=lambda each: order[each.place[1]])


def _costs(latency: Iterable[Row], environments: Iterable[Row]) -> dict[Place, Row]:
    """What an environment needs: memory, and time at its smallest batch."""
    found: dict[Place, Row] = {}
    for each in environments:
        names = ("load_ms", "run_peak_rss_mib")
        found[each["model"], each["environment"]] = {name: each.get(name) for name in names}
    timed = [r for r in latency if r["scenario"] == "clean" and r["use"] == SINGLE]
    for each in sorted(timed, key=lambda row: row["batch"] or 0, reverse=True):
        row = found.setdefault((each["model"], each["environment"]), {})
        row |= {"batch": each["batch"], "latency_p50_ms": each.get("latency_p50_ms")}
    return found


def _difference(cells: Cells, cell: Planned, first: Planned | None, same: bool) -> Row:
    """How much more accurate than the first model it is, and how much less it loses."""
    why = _not_compared(cells, cell, first, same)
    if why is not None or first is None:
        named = ("accuracy_difference", "drift_difference")
        return {
            key: v for name in named for key, v in interval(name, None, None, why or "").items()
        }
    one, two = cells.arranged(cell), cells.arranged(first)
    row = _accuracy(one, two, cell)
    if cell.clean:
        return row | interval("drift_difference", None, None, "clean")
    return row | _losses(cells, cell, first)


def _not_compared(cells: Cells, cell: Planned, first: Planned | None, same: bool) -> str | None:
    """Why there is no difference to tell, or ``None``."""
    if first is cell:
        return ITSELF
    if first is None or not same:
        return OTHER_DATA
    if cell.sampled:
        return "stratified sample: see campaigns"
    if not (cell.environment["labelled"] and first.environment["labelled"]):
        return "no labels"
    for each in (cell, first, cells.at(cell.place), cells.at(first.place)):
        if each is None or each.status != "ok":
            return "open" if each is None else f"{each.place[0]} is {each.status}"
    if len(cell.records.patterns) != len(first.records.patterns):
        return "different patterns"
    return None


def _accuracy(one: CellRows, two: CellRows, cell: Planned) -> Row:
    assert one.correct is not None and two.correct is not None
    name, difference = "accuracy_difference", one.correct - two.correct
    if cell.clean or cell.shifted:
        a, b = (each.correct[0].astype(bool) for each in (one, two) if each.correct is not None)
        counts = (a & b, a & ~b, ~a & b, ~a & ~b)
        both, here, there, neither = (int(each.sum()) for each in counts)
        paired = stats.newcombe_paired(both, here, there, neither, CONFIDENCE)
        return interval(name, float(difference.mean()), paired)
    found, why = mean_interval(difference, cell.case["unit"], -1.0, 1.0)
    return interval(name, float(difference.mean()), found, why)


def _losses(cells: Cells, cell: Planned, first: Planned) -> Row:
    """Difference in differences: what it loses beyond what the first model loses."""
    if cell.shifted:
        return interval("drift_difference", None, None, "unpaired data")
    sides: list[tuple[Any, Any]] = []
    for each in (cell, first):
        clean = cells.at(each.place)
        assert clean is not None
        under, itself = cells.arranged(each).correct, cells.arranged(clean).correct
        assert under is not None and itself is not None
        sides.append((itself[0], under))
    shared = cell.case["unit"] == "pattern"
    found = stats.interaction(*sides, shared_patterns=shared, confidence=CONFIDENCE)
    holds = None
    if found.interval is not None:
        holds = ("better" if found.difference > 0 else "worse") if found.named else "alike"
    why = stats.TOO_FEW_PATTERNS
    return {
        **interval("drift_difference", found.difference, found.interval, why),
        "holds": holds,
        "only_here": found.only_first,
        "only_reference": found.only_second,
    }
