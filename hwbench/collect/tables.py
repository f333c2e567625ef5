"""All tables of a run: one row per planned cell or environment, whatever became of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hwbench import stats
from hwbench.collect import (
    campaigns,
    custom,
    isa,
    limits,
    mce,
    sensitivity,
    shift,
    soak,
    strain,
    vulnerability,
)
from hwbench.collect import cell as numbers
from hwbench.collect import latency as latency_table
from hwbench.collect.schema import TABLES
from hwbench.record import Row
from hwbench.store import Store, write_durably

Place = tuple[str, str]  # model, environment

_DTYPES = {"string": "string", "int64": "Int64", "float64": "float64", "bool": "boolean"}


@dataclass(frozen=True)
class _Rows:
    """Stored rows, indexed; ``plan`` is the run's plan.json."""

    plan: dict[str, Any]
    records: dict[str, list[Row]]
    processes: dict[Place, list[Row]]
    singles: dict[vulnerability.Place, vulnerability.Single]
    campaigns: dict[str, Any]

    def status(self, place: Place, constraint: str | None = None) -> tuple[str, str | None]:
        """What keeps an environment's numbers away: a failed build, or any process's deviation.

        Under conditions (``constraint``), a deviation of those processes does so too.
        """
        last: dict[tuple[str, str], Row] = {}
        processes = [p for p in self.processes.get(place, []) if p["outcome"] != "interrupted"]
        for each in processes:
            last[(each["kind"], each["scenario"])] = each
        wanted = [("build", ""), ("accuracy", "clean")]
        for key in wanted:
            if key not in last:
                return "open", None
            if last[key]["outcome"] != "ok":
                return last[key]["outcome"], last[key]["message"]
        for each in processes:
            theirs = each["conditions"] in (None, constraint)
            if theirs and each["kind"] == "accuracy" and each["outcome"] == "invalid":
                return "invalid", each["message"]
        return "ok", None


def collect(store: Store) -> dict[str, pd.DataFrame]:
    """Every table of a run by name, with the columns of ``schema.TABLES``."""
    rows = _read(store)
    every = [each for processes in rows.processes.values() for each in processes]
    latency = latency_table.table(every, rows.plan, store.read_json("run.json").get("noise"))
    strain.add(latency, every, _arms(store))
    drift = _drift(rows, latency)
    made = {
        "cells": _cells(rows),
        "environments": [_environment(rows, each) for each in rows.plan["environments"]],
        "drift": drift,
        "latency": latency,
        "interaction": _interactions(rows),
        "shift": _shifts(store, rows),
        "mce": _corruptions(rows),
        "vulnerability": _vulnerability(rows),
        "limits": _limits(rows),
        "campaigns": _campaigns(rows),
        "metrics": _own_metrics(rows),
        "soak": soak.table(store.read("soak").to_pylist(), rows.processes),
        "isa": isa.table(rows.plan, drift, rows.processes),
    }
    made["sensitivity"] = sensitivity.table(made["drift"], rows.plan["cases"])
    return {name: _frame(name, content) for name, content in made.items()}


def _arms(store: Store) -> Iterator[Row]:
    """Rows of ``latency`` one by one: all raw samples at once may not fit."""
    for batch in store.read("latency").to_batches(max_chunksize=1):
        yield from batch.to_pylist()


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


def _read(store: Store) -> _Rows:
    records: dict[str, dict[tuple[int, int], Row]] = defaultdict(dict)
    for each in store.read("records").to_pylist():
        records[each["cell"]].setdefault((each["pattern"], each["batch"]), each)
    processes: dict[Place, list[Row]] = defaultdict(list)
    for each in store.read("processes").to_pylist():
        processes[(each["model"], each["environment"])].append(each)
    ordered = {cell: [rows[key] for key in sorted(rows)] for cell, rows in records.items()}
    singles = vulnerability.singles(vulnerability.only_rows(store.read("faults")))
    sampled = store.read_json("campaigns.json") if store.has("campaigns.json") else {}
    return _Rows(store.read_json("plan.json"), ordered, dict(processes), singles, sampled)


def _frame(name: str, rows: list[Row]) -> pd.DataFrame:
    columns = TABLES[name]
    frame = pd.DataFrame(rows, columns=[column.name for column in columns])
    return frame.astype({column.name: _DTYPES[column.type] for column in columns})


def _planned(rows: _Rows) -> list[tuple[dict[str, Any], dict[str, Any], Row]]:
    """Environment, case and the columns that name the cell, for every planned cell."""
    return [
        (
            {**environment, **case.get("data", {}).get(environment["model"], {})},
            case,
            {
                "model": environment["model"],
                "environment": environment["environment"],
                "scenario": case["scenario"],
                "severity_name": case["severity_name"],
                "severity": case["severity"],
            },
        )
        for environment in rows.plan["environments"]
        for case in rows.plan["cases"]
    ]


def _cell_status(
    rows: _Rows, environment: dict[str, Any], case: dict[str, Any]
) -> tuple[str, str | None, list[Row]]:
    """Status, note and records of a cell."""
    place = (environment["model"], environment["environment"])
    found = rows.records.get("/".join([*place, case["id"]]), [])
    status, note = rows.status(place, case["constraint"])
    if status != "ok":
        return status, note, found
    for *cell, reason in rows.plan["refusals"]:
        if cell == [*place, case["id"]]:
            return "unsupported", reason, []
    expected = _expected(rows, environment, case, found)
    if len(found) < expected:
        return "open", f"{len(found)} of {expected} trials done", found
    failed = [each for each in found if each["outcome"] != "ok"]
    if len(failed) == len(found):
        return failed[0]["outcome"], failed[0]["message"], found
    return "ok", failed[0]["message"] if failed else None, found


def _expected(
    rows: _Rows, environment: dict[str, Any], case: dict[str, Any], found: list[Row]
) -> int:
    """Trials of a complete cell; of a campaign one more than there are until it stops."""
    n_samples, batch = environment["n_samples"], environment["batch"]
    if case["patterns"] is not None:
        return int(case["patterns"] * -(-n_samples // batch))
    cell = "/".join([environment["model"], environment["environment"], case["id"]])
    content = rows.campaigns.get(cell)
    if content is None:
        return max(1, len(found))
    return len(found) + (not campaigns.row(content, found, n_samples, batch)["reached"])


def _own_metrics(rows: _Rows) -> list[Row]:
    """The user's functions in every planned cell; a campaign's patterns are not alike: left out."""
    own = [name for name in rows.plan["metrics"] if ":" in name]
    result = []
    for environment, case, names in _planned(rows) if own else ():
        if case["patterns"] is not None:
            status, note, found = _cell_status(rows, environment, case)
            result += custom.table({**names, "status": status, "note": note}, own, found)
    return result


def _campaigns(rows: _Rows) -> list[Row]:
    """Every campaign, as far as it went."""
    result = []
    for environment, case, names in _planned(rows):
        cell = "/".join([environment["model"], environment["environment"], case["id"]])
        if case["patterns"] is None:
            status, note, found = _cell_status(rows, environment, case)
            row = {**names, "status": status, "note": note}
            if cell in rows.campaigns:
                sizes = environment["n_samples"], environment["batch"]
                row |= campaigns.row(rows.campaigns[cell], found, *sizes)
            result.append(row)
    return result


def _cells(rows: _Rows) -> list[Row]:
    result = []
    for environment, case, names in _planned(rows):
        status, note, found = _cell_status(rows, environment, case)
        plain = {"unit": case["unit"], "patterns_planned": case["patterns"]}
        counts = numbers.counts(found)
        result.append({**names, "status": status, "note": note, **plain, **counts})
    return result


def _drift(rows: _Rows, latency: list[Row]) -> list[Row]:
    arranged: dict[tuple[str, str], numbers.CellRows] = {}
    ratios = _ratios(latency)
    result = []
    for environment, case, names in _planned(rows):
        status, note, found = _cell_status(rows, environment, case)
        clean = case["severity"] is None and case["id"] == "clean"
        kind = "environment" if clean else "shift" if case.get("data") else "scenario"
        row = {**names, "status": status, "note": note, "kind": kind}
        if status == "ok":
            made = numbers.arrange(
                found, environment["n_samples"], environment["batch"], environment["labelled"]
            )
            if clean:
                arranged[(environment["model"], environment["environment"])] = made
            row |= _drift_numbers(rows, environment, case, made, arranged, clean)
            row["latency_ratio"] = ratios.get((*names.values(),))
        result.append(row)
    return result


def _drift_numbers(
    rows: _Rows,
    environment: dict[str, Any],
    case: dict[str, Any],
    made: numbers.CellRows,
    arranged: dict[tuple[str, str], numbers.CellRows],
    clean: bool,
) -> Row:
    model, baseline = environment["model"], rows.plan["baseline"]
    if case["patterns"] is None:  # patterns are not alike: their plain means would mislead
        n_samples = environment["n_samples"]
        none = [numbers.interval(n, None, None, campaigns.STRATIFIED) for n in _STRATIFIED]
        named = {key: value for each in none for key, value in each.items()}
        return {**named, "patterns": len(made.patterns), "n_samples": n_samples}
    harm: Row = {}
    if case.get("data"):
        drift = numbers.shift_drift(made, arranged.get((model, environment["environment"])))
    elif clean:
        reference = arranged.get((model, baseline)) or _clean_of(rows, model, baseline)
        drift = numbers.environment_drift(made, reference)
    else:
        itself = arranged.get((model, environment["environment"]))
        drift = numbers.scenario_drift(made, itself, case["unit"])
        harm = numbers.harm(made, case["unit"])
    return {
        **numbers.accuracy(made, case["unit"], clean or bool(case.get("data"))),
        **drift,
        "reference": baseline if clean else "clean",
        **harm,
        **numbers.similarity(made),
        "patterns": len(made.patterns),
        "n_samples": environment["n_samples"],
    }


_STRATIFIED = ("accuracy", "drift", "harmed_per_sample", "harmed_any_pattern")


def _clean_of(rows: _Rows, model: str, environment_id: str) -> numbers.CellRows | None:
    for each in rows.plan["environments"]:
        if (each["model"], each["environment"]) == (model, environment_id):
            status, _, found = _cell_status(rows, each, rows.plan["cases"][0])
            if status == "ok":
                return numbers.arrange(found, each["n_samples"], each["batch"], each["labelled"])
    return None


def _interactions(rows: _Rows) -> list[Row]:
    """One row per scenario of every environment but the baseline."""
    baseline = rows.plan["baseline"]
    places = {(each["model"], each["environment"]): each for each in rows.plan["environments"]}
    result = []
    for environment, case, names in _planned(rows):
        sampled = case["patterns"] is None  # each campaign stops on its own faults
        unpaired = case["id"] == "clean" or bool(case.get("data"))
        if environment["environment"] == baseline or unpaired or sampled:
            continue
        other = places.get((environment["model"], baseline))
        row = {**names, "reference": baseline}
        result.append(row | _interaction(rows, environment, other, case))
    _holm(result)
    return result


def _interaction(
    rows: _Rows, environment: dict[str, Any], other: dict[str, Any] | None, case: dict[str, Any]
) -> Row:
    """The numbers of a row, or what keeps them away: any of its four cells."""
    if other is None or environment["n_samples"] != other["n_samples"]:
        return {"status": "unsupported", "note": "the baseline did not see the same samples"}
    sides = []
    for place in (environment, other):
        pair = []
        for each in (rows.plan["cases"][0], case):
            status, note, found = _cell_status(rows, place, each)
            if status != "ok":
                where = "" if place is environment else f"{place['environment']}: "
                return {"status": status, "note": f"{where}{note or ''}" or None}
            pair.append(
                numbers.arrange(found, place["n_samples"], place["batch"], place["labelled"])
            )
        sides.append((pair[0], pair[1]))
    made = numbers.interaction(sides[0], sides[1], case["unit"])
    return {"status": "ok", "note": None, **made}


def _shifts(store: Store, rows: _Rows) -> list[Row]:
    """One row per environment and other data, beside the environment's own clean run."""
    result = []
    planned = {(e["model"], e["environment"]): e for e in rows.plan["environments"]}
    for environment, case, names in _planned(rows):
        if not case.get("data"):
            continue
        place = (environment["model"], environment["environment"])
        sides, row = [], dict(names)
        for data, each in ((planned[place], rows.plan["cases"][0]), (environment, case)):
            status, note, found = _cell_status(rows, data, each)
            row |= {"status": status, "note": note}
            if status != "ok":
                break
            path = shift.outputs_of(store.folder, place, case["id"] if each is case else None)
            sides.append(shift.side(path, rows.plan.get("output"), _arranged(found, data)))
        result.append(row | shift.numbers(*sides) if len(sides) == 2 else row)
    return result


def _arranged(found: list[Row], data: dict[str, Any]) -> numbers.CellRows:
    return numbers.arrange(found, data["n_samples"], data["batch"], data["labelled"])


def _corruptions(rows: _Rows) -> list[Row]:
    """Mean corruption errors of every environment whose sweep has whole kinds of corruption."""
    errors: dict[Place, mce.Errors] = {}
    for environment, case, _ in _planned(rows):
        status, _, found = _cell_status(rows, environment, case)
        place = (environment["model"], environment["environment"])
        if status == "ok" and environment["labelled"]:
            errors.setdefault(place, mce.Errors()).take(case, _arranged(found, environment))
    classes = {(e["model"], e["environment"]): e.get("classes") for e in rows.plan["environments"]}
    return mce.table(errors, classes, rows.plan["baseline"])


def _vulnerability(rows: _Rows) -> list[Row]:
    """Of every cell with single faults; also of one that is not finished, as far as it went."""
    result = []
    for environment, case, names in _planned(rows):
        status, _, found = _cell_status(rows, environment, case)
        # In a stack, what a fault did cannot be told from what the other scenario did.
        if status in ("ok", "open") and case.get("stack", 1) == 1:
            cell = "/".join([environment["model"], environment["environment"], case["id"]])
            result += vulnerability.table(names, cell, found, rows.singles, environment["batch"])
    return result


def _limits(rows: _Rows) -> list[Row]:
    """One row per search and environment."""
    result = []
    for environment in rows.plan["environments"]:
        place = (environment["model"], environment["environment"])
        for case in rows.plan.get("searches", []):
            names = {"model": place[0], "environment": place[1], "scenario": case["scenario"]}
            status, note = _refusal(rows, place, case["id"]) or rows.status(place)
            found = {"status": status, "note": note}
            if status == "ok":
                found = limits.row(case["scenario"], rows.processes.get(place, []))
            result.append({**names, **found})
    return result


def _refusal(rows: _Rows, place: Place, case: str) -> tuple[str, str] | None:
    for *cell, reason in rows.plan["refusals"]:
        if cell == [*place, case]:
            return "unsupported", reason
    return None


def _ratios(latency: list[Row]) -> dict[tuple[Any, ...], float | None]:
    """Ratio at the smallest batch, by cell."""
    keys = ("model", "environment", "scenario", "severity_name", "severity")
    single = [row for row in latency if row["use"] == latency_table.SINGLE]
    ordered = sorted(single, key=lambda row: row["batch"] or 0, reverse=True)
    return {tuple(row[key] for key in keys): row.get("ratio") for row in ordered}


def _environment(rows: _Rows, planned: dict[str, Any]) -> Row:
    place = (planned["model"], planned["environment"])
    processes = [p for p in rows.processes.get(place, []) if p["conditions"] is None]
    status, note = rows.status(place)
    actual = next((json.loads(each["actual"]) for each in processes if each["actual"]), None)
    builds = [each for each in processes if each["kind"] == "build"]
    runs = [each for each in processes if each["kind"] not in ("build", "prepare")]
    cleans = [each for each in runs if each["kind"] == "accuracy" and each["scenario"] == "clean"]
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
        "import_ms": _median(runs, "import_ms"),
        "load_ms": _median(runs, "load_ms"),
        "first_inference_ms": _median(runs, "first_inference_ms"),
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


def _values(rows: list[Row], name: str) -> list[float]:
    return [each[name] for each in rows if each[name] is not None]


def _median(rows: list[Row], name: str) -> float | None:
    values = _values(rows, name)
    return float(np.median(values)) if values else None


def _largest(rows: list[Row], name: str) -> float | None:
    return max(_values(rows, name), default=None)


def _holm(rows: list[Row]) -> None:
    tested = [row for row in rows if row.get("p_value") is not None]
    if tested:
        for row, corrected in zip(tested, stats.holm([r["p_value"] for r in tested]), strict=True):
            row["p_holm"] = float(corrected)
