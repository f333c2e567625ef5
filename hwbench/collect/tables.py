"""All tables of a run: one row per planned cell or environment, whatever became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from hwbench.collect import (
    campaigns,
    custom,
    isa,
    limits,
    mce,
    models,
    records,
    sensitivity,
    shift,
    soak,
    strain,
    vulnerability,
)
from hwbench.collect import cell as numbers
from hwbench.collect import latency as latency_table
from hwbench.collect.planned import Cells, Place, Planned
from hwbench.collect.records import Records
from hwbench.collect.schema import TABLES
from hwbench.durable import write_durably
from hwbench.record import Row
from hwbench.store import Store

_DTYPES = {"string": "string", "int64": "Int64", "float64": "float64", "bool": "boolean"}


def collect(store: Store) -> dict[str, pd.DataFrame]:
    """Every table of a run by name, with the columns of ``schema.TABLES``."""
    sampled = store.read_json("campaigns.json") if store.has("campaigns.json") else {}
    processes = store.read("processes").to_pylist()
    plan, (found, singles) = store.read_json("plan.json"), _records(store)
    cells = Cells(plan, found, processes, sampled)
    run = store.read_json("run.json")
    latency = latency_table.table(processes, plan, run.get("noise"))
    strain.add(latency, processes, _arms(store))
    with ThreadPoolExecutor(1) as beside:  # the two that take longest, mostly in NumPy
        vulnerable = beside.submit(_vulnerability, cells, singles)
        drift, interactions = _compared(cells, latency)
    environments = [_environment(cells, each) for each in plan["environments"]]
    made = {
        "cells": _cells(cells),
        "environments": environments,
        "drift": drift,
        "models": models.table(cells, drift, latency, environments, run["inputs"]),
        "latency": latency,
        "interaction": interactions,
        "shift": _shifts(store, cells),
        "mce": _corruptions(cells, drift),
        "vulnerability": vulnerable.result(),
        "limits": _limits(cells),
        "campaigns": _campaigns(cells),
        "metrics": _own_metrics(cells),
        "soak": soak.table(store.read("soak").to_pylist(), cells.processes),
        "isa": isa.table(plan, drift, cells.processes),
        "sensitivity": sensitivity.table(drift, plan["cases"]),
    }
    return {name: _frame(name, content) for name, content in made.items()}


def _records(store: Store) -> tuple[dict[str, Records], dict[str, vulnerability.Singles]]:
    """Records by cell, and the single faults of cells, read side by side."""

    def singles() -> dict[str, vulnerability.Singles]:
        return vulnerability.singles(store.read("faults", vulnerability.COLUMNS))

    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(singles)
        return records.read(store, coming.result), coming.result()


def _arms(store: Store) -> Iterator[Row]:
    """Rows of ``latency`` one by one: all raw samples at once may not fit."""
    for batch in store.batches("latency"):
        for index in range(batch.num_rows):
            samples = batch["latencies_ns"][index].values
            (names,) = batch.slice(index, 1).select(strain.NAMES).to_pylist()
            yield {**names, "latencies_ns": np.asarray([] if samples is None else samples)}


def write(
    store: Store, tables: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, pd.DataFrame]:
    """Write each table as Parquet and CSV into the run's ``tables/``; collect them if absent."""
    tables = collect(store) if tables is None else dict(tables)
    folder = store.folder / "tables"
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        write_durably(folder / f"{name}.parquet", table.to_parquet(index=False))
        write_durably(folder / f"{name}.csv", table.to_csv(index=False).encode())
    return tables


def _frame(name: str, rows: list[Row]) -> pd.DataFrame:
    columns = TABLES[name]
    frame = pd.DataFrame(rows, columns=[column.name for column in columns])
    return frame.astype({column.name: _DTYPES[column.type] for column in columns})


def _cells(cells: Cells) -> list[Row]:
    return [
        {
            **each.names,
            **each.state,
            "unit": each.case["unit"],
            "patterns_planned": each.case["patterns"],
            **numbers.counts(each.records),
        }
        for each in cells
    ]


def _own_metrics(cells: Cells) -> list[Row]:
    """The user's functions in every planned cell; a campaign's patterns are not alike: left out."""
    own = [name for name in cells.plan["metrics"] if ":" in name]
    return [
        row
        for each in cells
        if own and not each.sampled
        for row in custom.table({**each.names, **each.state}, own, each.records)
    ]


def _campaigns(cells: Cells) -> list[Row]:
    """Every campaign, as far as it went."""
    return [{**each.names, **each.state, **(each.campaign or {})} for each in cells if each.sampled]


def _compared(cells: Cells, latency: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of drift and of interaction, in the order of cells; case by case a cell is read once."""
    ratios = _ratios(latency)
    drift, interactions = dict[str, Row](), dict[str, Row]()
    for each in cells.by_case():
        drift[each.id] = _drift(cells, each, ratios)
        # Each campaign stops on its own faults, and other data are not paired.
        own = each.clean or each.shifted or each.sampled
        if each.place[1] != cells.plan["baseline"] and not own:
            interactions[each.id] = _interaction_row(cells, each)
    for each in cells:  # last, because their sums are still being added up meanwhile
        if each.status == "ok" and not each.sampled:
            drift[each.id] |= numbers.similarity(each.records)
    found = [interactions[each.id] for each in cells if each.id in interactions]
    numbers.holm(found)
    return [drift[each.id] for each in cells], found


def _drift(cells: Cells, cell: Planned, ratios: Mapping[tuple[Any, ...], float | None]) -> Row:
    kind = "environment" if cell.clean else "shift" if cell.shifted else "scenario"
    row = {**cell.names, **cell.state, "kind": kind}
    if cell.status == "ok":
        row |= _drift_numbers(cells, cell)
        row["latency_ratio"] = ratios.get((*cell.names.values(),))
    return row


def _drift_numbers(cells: Cells, cell: Planned) -> Row:
    sizes = {
        "patterns": len(cell.records.patterns),
        "n_samples": cell.environment["n_samples"],
    }
    if cell.sampled:  # patterns are not alike: their plain means would mislead
        none = [numbers.interval(n, None, None, campaigns.STRATIFIED) for n in _STRATIFIED]
        return {key: value for each in none for key, value in each.items()} | sizes
    made, unit, harm = cells.arranged(cell), cell.case["unit"], dict[str, Any]()
    baseline = cells.plan["baseline"]
    if cell.shifted:
        drift = numbers.shift_drift(made, _clean(cells, cell.place))
    elif cell.clean:
        drift = numbers.environment_drift(made, _clean(cells, (cell.place[0], baseline)))
    else:
        drift = numbers.scenario_drift(made, _clean(cells, cell.place), unit)
        harm = numbers.harm(made, unit)
    return {
        **numbers.accuracy(made, unit, cell.clean or cell.shifted),
        **drift,
        "reference": baseline if cell.clean else "clean",
        **harm,
        **sizes,
    }


_STRATIFIED = ("accuracy", "drift", "harmed_per_sample", "harmed_any_pattern")


def _clean(cells: Cells, place: Place) -> numbers.CellRows | None:
    """The clean cell of an environment, if it gave numbers."""
    found = cells.at(place)
    return None if found is None or found.status != "ok" else cells.arranged(found)


def _interaction_row(cells: Cells, cell: Planned) -> Row:
    baseline = cells.plan["baseline"]
    other = cells.at((cell.place[0], baseline), cell.case["id"])
    return {**cell.names, "reference": baseline, **_interaction(cells, cell, other)}


def _interaction(cells: Cells, cell: Planned, other: Planned | None) -> Row:
    """The numbers of a row, or what keeps them away: any of its four cells."""
    if other is None or cell.environment["n_samples"] != other.environment["n_samples"]:
        return {"status": "unsupported", "note": "the baseline did not see the same samples"}
    sides = []
    for side in (cell, other):
        pair = (cells.at(side.place), side)
        for each in pair:
            if each is None or each.status != "ok":
                where = "" if side is cell else f"{side.place[1]}: "
                status, note = ("open", None) if each is None else (each.status, each.note)
                return {"status": status, "note": f"{where}{note or ''}" or None}
        clean, scenario = (cells.arranged(each) for each in pair if each is not None)
        sides.append((clean, scenario))
    made = numbers.interaction(sides[0], sides[1], cell.case["unit"])
    return {"status": "ok", "note": None, **made}


def _shifts(store: Store, cells: Cells) -> list[Row]:
    """One row per environment and other data, beside the environment's own clean run."""
    result = []
    for cell in (each for each in cells if each.shifted):
        row, sides = dict(cell.names), []
        for each in (cells.at(cell.place), cell):
            assert each is not None, "every environment has a clean cell"
            row |= each.state
            if each.status != "ok":
                break
            path = shift.outputs_of(
                store.folder, each.place, each.case["id"] if each is cell else None
            )
            sides.append(shift.side(path, cells.plan.get("output"), cells.arranged(each)))
        result.append(row | shift.numbers(*sides) if len(sides) == 2 else row)
    return result


def _corruptions(cells: Cells, drift: list[Row]) -> list[Row]:
    """Mean corruption errors of every environment whose sweep has whole kinds of corruption."""
    errors: dict[Place, mce.Errors] = {}
    for cell, row in zip(cells, drift, strict=True):
        if row.get("accuracy") is not None:
            errors.setdefault(cell.place, mce.Errors()).take(cell.case, row["accuracy"])
    environments = cells.plan["environments"]
    classes = {(e["model"], e["environment"]): e.get("classes") for e in environments}
    return mce.table(errors, classes, cells.plan["baseline"])


def _vulnerability(cells: Cells, singles: Mapping[str, vulnerability.Singles]) -> list[Row]:
    """Of every cell with single faults; also of one that is not finished, as far as it went."""
    result = []
    for each in cells:
        found = singles.get(each.id)
        # In a stack, what a fault did cannot be told from what the other scenario did.
        alone = each.case.get("stack", 1) == 1
        if found is not None and each.status in ("ok", "open") and alone:
            result += vulnerability.table(
                each.names, each.records, found, each.environment["batch"]
            )
    return result


def _limits(cells: Cells) -> list[Row]:
    """One row per search and environment."""
    result = []
    for environment in cells.plan["environments"]:
        place = (environment["model"], environment["environment"])
        for case in cells.plan.get("searches", []):
            names = {"model": place[0], "environment": place[1], "scenario": case["scenario"]}
            reason = cells.refusals.get((*place, case["id"]))
            status, note = ("unsupported", reason) if reason else cells.status(place)
            found = {"status": status, "note": note}
            if status == "ok":
                found = limits.row(case["scenario"], cells.processes.get(place, []))
            result.append({**names, **found})
    return result


def _ratios(latency: list[Row]) -> dict[tuple[Any, ...], float | None]:
    """Ratio at the smallest batch, by cell."""
    keys = ("model", "environment", "scenario", "severity_name", "severity")
    single = [row for row in latency if row["use"] == latency_table.SINGLE]
    ordered = sorted(single, key=lambda row: row["batch"] or 0, reverse=True)
    return {tuple(row[key] for key in keys): row.get("ratio") for row in ordered}


def _environment(cells: Cells, planned: dict[str, Any]) -> Row:
    place = (planned["model"], planned["environment"])
    processes = [p for p in cells.processes.get(place, []) if p["conditions"] is None]
    status, note = cells.status(place)
    actual = next((json.loads(each["actual"]) for each in processes if each["actual"]), None)
    builds = [each for each in processes if each["kind"] == "build"]
    runs = [each for each in processes if each["kind"] not in ("build", "prepare")]
    emulated = next((each for each in runs if each["emulated"]), None)
    timed = [] if emulated else runs  # an emulator's time and memory are not the board's
    cleans = [each for each in timed if each["kind"] == "accuracy" and each["scenario"] == "clean"]
    return {
        "model": place[0],
        "environment": place[1],
        "status": status,
        "note": note,
        "asked_device": planned["device"],
        "asked_precision": planned["precision"],
        "asked_threads": planned["threads"],
        "allow": ", ".join(planned["allow"]) or None,
        "deviation": next((each["deviation"] for each in runs if each["deviation"]), None),
        **(_actual(actual, planned["precision"]) if actual else {}),
        "architecture": _first(runs, "architecture"),
        "cpu": _first(runs, "cpu_name"),
        "emulator": emulated and emulated["mechanism"],
        "import_ms": _median(timed, "import_ms"),
        "load_ms": _median(timed, "load_ms"),
        "first_inference_ms": _median(timed, "first_inference_ms"),
        "build_peak_rss_mib": _largest(builds, "peak_rss_mib"),
        "run_peak_rss_mib": _largest(cleans, "peak_rss_mib"),
    }


def _actual(actual: dict[str, Any], asked: str) -> Row:
    executed = [op["executed"] for op in actual["ops"]]
    ranked = sorted(set(executed), key=lambda name: (-executed.count(name), name))
    return {
        "actual_device": actual["device"],
        "actual_precision": "+".join(ranked) or "none",
        "actual_threads": actual["threads"],
        "operators": len(executed),
        "operators_as_asked": executed.count(asked),
        "provider": actual["provider"],
        "isa": actual["isa"],
        "runtime_version": actual["version"],
    }


def _values(rows: list[Row], name: str) -> list[Any]:
    return [each[name] for each in rows if each[name] is not None]


def _first(rows: list[Row], name: str) -> Any:
    return next(iter(_values(rows, name)), None)


def _median(rows: list[Row], name: str) -> float | None:
    values = _values(rows, name)
    return float(np.median(values)) if values else None


def _largest(rows: list[Row], name: str) -> float | None:
    return max(_values(rows, name), default=None)
