"""What a reader might think was tested and was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml
from pydantic import ValidationError

from hwbench import registry
from hwbench.errors import RequestError
from hwbench.report.document import gates, words
from hwbench.report.document.content import Entry, Lines, Section, Table, Text
from hwbench.report.document.material import Material
from hwbench.report.document.words import Record
from hwbench.scenario import Scenario
from hwbench.spec import Spec
from hwbench.spec.cases import expand

_TARGETS = ("weights", "activations", "inputs")
_SHOWN = 4  # cells named per reason


def section(material: Material) -> Section:
    """Cells without numbers by reason, and subjects outside the sweep."""
    says: tuple[Entry, ...] = (
        "A report only speaks of what ran. What follows did not, or cannot be told from it.",
    )
    table = _refused(material)
    lines = Lines(tuple(_subjects(material)))
    tables = [*([table] if table else []), *gates.uncovered(material.verdict)]
    return Section("untested", "What was not tested", says, (*tables, lines))


def _refused(material: Material) -> Table | None:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in _without_numbers(material):
        note = words.text(row["note"])
        key = (str(row["status"]), note)
        reasons.setdefault(key, []).append(words.cell(row, material.several_models))
    if not reasons:
        return None
    made = tuple(
        (
            Text(status, "muted" if status == "unsupported" else "bad"),
            str(len(cells)),
            note,
            words.joined(cells, _SHOWN),
        )
        for (status, note), cells in reasons.items()
    )
    columns = ("status", "cells", "reason", "which")
    return Table("Cells without numbers, by reason", columns, made, "tables/cells.csv")


def _without_numbers(material: Material) -> Iterator[Record]:
    for row in material.rows("cells"):
        if row["status"] != "ok":
            yield row
    for row in material.rows("latency"):
        if row["status"] not in ("ok", "unsupported") or words.text(row["note"]) != words.ABSENT:
            yield {**row, "scenario": f"latency of {row['scenario']}"}
    for row in material.rows("limits"):
        if row["status"] != "ok":
            yield {**row, "severity": None}


def _subjects(material: Material) -> Iterator[Entry]:
    """One statement for each subject that is missing."""
    used = _used(material)
    if used is not None:
        yield from _scenarios(used)
        yield from _targets(used)
    yield from _ranges(material)
    yield from _backends(material)
    yield from _measurements(material)
    yield (
        "Faults hit tensors only. A real upset also hits code, pointers and control flow, which "
        "crash more often: every P(crash) here is a lower bound of the device's."
    )


def _scenarios(used: Sequence[Scenario]) -> Iterator[Entry]:
    names = {each.name for each in used}
    unused = [name for name in registry.names(registry.SCENARIOS) if name not in names]
    if unused:
        yield f"Scenarios not in this sweep: {words.joined(unused, 40)}."


def _used(material: Material) -> list[Scenario] | None:
    """Every scenario of the spec; ``None`` where one is not installed here any more."""
    try:
        spec = Spec.model_validate(yaml.safe_load(material.spec) or {})
        return [each.scenario for case in expand(spec.scenarios) for each in case.layers]
    except (yaml.YAMLError, ValidationError, RequestError):
        return None


def _targets(used: Sequence[Scenario]) -> Iterator[Entry]:
    hit = {str(each.target) for each in used} & set(_TARGETS)
    missed = [name for name in _TARGETS if name not in hit]
    if not hit:
        yield "Faults and noise: nothing disturbed weights, activations or inputs."
    elif missed:
        yield (
            f"Faults and noise hit {' and '.join(sorted(hit))}; they did not hit "
            f"{' or '.join(missed)}."
        )


def _ranges(material: Material) -> Iterator[Entry]:
    """Nothing is known beyond the severities that were tried."""
    found: dict[tuple[str, str], list[float]] = {}
    for case in material.plan["cases"]:
        if case["severity"] is not None:
            key = (case["scenario"], case["severity_name"])
            found.setdefault(key, []).append(case["severity"])
    said = [
        f"{scenario} {name} {words.number(min(values), 'g')}"
        + (f" to {words.number(max(values), 'g')}" if len(values) > 1 else " alone")
        for (scenario, name), values in found.items()
    ]
    if said:
        yield f"Severities outside these: {words.joined(said, 30)}."


def _backends(material: Material) -> Iterator[Entry]:
    used = {each["backend"] for each in material.plan["environments"]}
    unused = [name for name in registry.names(registry.BACKENDS) if name not in used]
    if unused:
        yield f"Runtimes known to hwbench and not in this sweep: {words.joined(unused)}."
    devices = {each["device"] for each in material.plan["environments"]}
    yield f"Devices other than {words.joined(sorted(devices))}, and machines other than this one."


def _measurements(material: Material) -> Iterator[Entry]:
    latency = material.rows("latency")
    good = [row for row in latency if row["status"] == "ok"]
    if not good:
        yield "Latency."
    else:
        yield from _latency_gaps(good)
    if not material.rows("soak"):
        yield "Drift over time, heat and throttling: no soak was run."
    elif not any(words.known(row["temperature_c_first"]) for row in material.rows("soak")):
        yield "Temperature during the soak: no sensor told any."
    if not material.rows("limits"):
        yield "The smallest memory that is enough: no search was asked for."
    if not any(each["labelled"] for each in material.plan["environments"]):
        yield Text("Accuracy: the data has no labels; outputs were compared with each other.")


def _latency_gaps(good: Sequence[Record]) -> Iterator[Entry]:
    if not any(words.known(row["energy_mj"]) for row in good):
        yield "Energy: it needs RAPL or NVML, and neither told anything here."
    refused = [row for row in good if not words.known(row["latency_p999_ms"])]
    if refused:
        yield (
            f"The 99.9th percentile of latency in {len(refused)} of {len(good)} rows: "
            "too few calls for it."
        )
