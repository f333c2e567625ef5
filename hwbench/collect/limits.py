"""What a search found, in a row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hwbench import search
from hwbench.record import Row
from hwbench.search import Bracket, Probe


def row(scenario: str, processes: Sequence[Row]) -> Row:
    """The columns of ``limits`` that the probes among ``processes`` give; open until all are there.

    Args:
        scenario: name of the search.
        processes: rows of one environment.
    """
    found = search.read(each for each in processes if each["scenario"] == scenario)
    probes = next(iter(found.values()), [])
    free = search.unlimited(probes)
    if free is None:
        return {"status": "open", "note": f"{len(probes)} probes done", "probes": len(probes)}
    if not search.runs(free):
        message = f"without a limit: {free.row['message']}"
        return {"status": free.outcome, "note": message, "probes": len(probes)}
    done = search.next_severity(probes, free) is None
    status, note = ("ok", _note(free, probes)) if done else ("open", f"{len(probes)} probes done")
    measured = {"status": status, "note": note, **_unlimited(probes, free), "probes": len(probes)}
    return measured | (_minima(probes) if done else {})


def _note(free: Probe, probes: Sequence[Probe]) -> str | None:
    if len(probes) >= search.MOST:
        return f"not settled after {search.MOST} probes: the outcome at one limit varies"
    return None if free.p50_ms else "no latency: the watchdog has no core beside the worker's"


def _unlimited(probes: Sequence[Probe], free: Probe) -> Row:
    floor = search.floor(probes)
    assert floor is not None, "the first probe comes before the second"
    shared = [p.row["shared_file_mib"] for p in probes if p.row["shared_file_mib"] is not None]
    return {
        "mechanism": free.row["mechanism"],
        "batch": free.row["batch"],
        "floor_rss_mib": floor.row["peak_rss_mib"],
        "floor_group_mib": floor.row["group_peak_mib"],
        "peak_rss_mib": free.row["peak_rss_mib"],
        "group_peak_mib": free.row["group_peak_mib"],
        "shared_file_mib": max(shared, default=None),
        "latency_p50_ms": free.p50_ms,
    }


def _minima(probes: Sequence[Probe]) -> Row:
    load, keeps_up = search.bracket(probes, search.runs), search.keeps_up(probes)
    latency = None if keeps_up is None else search.bracket(probes, keeps_up)
    at_minimum = [p.p50_ms for p in probes if p.severity == load.high and p.p50_ms is not None]
    below, above = (_at(probes, search.check(load, share)) for share in search.CHECKS)
    return {
        "load_min_mib": _finite(load.high),
        "load_fails_mib": load.low or None,
        "latency_min_mib": None if latency is None else _finite(latency.high),
        "latency_fails_mib": None if latency is None else latency.low or None,
        "latency_p50_at_min_ms": max(at_minimum, default=None),
        "tolerance_mib": _finite(_distance(load)),
        **_told("below", below),
        **_told("above", above),
    }


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def _distance(found: Bracket) -> float:
    return found.high - found.low


def _at(probes: Sequence[Probe], severity: float) -> Probe | None:
    return next((each for each in probes if each.severity == severity), None)


def _told(where: str, probe: Probe | None) -> Row:
    if probe is None:
        return {}
    told = {f"{where}_mib": probe.severity, f"{where}_outcome": probe.outcome}
    if where == "below":
        told |= {"below_phase": probe.row["phase"], "below_message": probe.row["message"]}
    return told
