"""What a verdict does not cover: cells without numbers, cells without a gate, kinds of fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hwbench.collect.planned import Planned
from hwbench.qualify.cells import Run

_ALWAYS = (
    (
        "faults in logic, control flow, caches and buses",
        "faults are injected into stored tensors, activations and inputs; what crashes a device"
        " hardly ever shows here, so P(crash) is a lower bound",
    ),
    ("samples unlike these data", "rates are about what the data set is a sample of"),
)


def untested(
    run: Run, judged: set[tuple[Any, ...]], key: Callable[[Mapping[str, Any]], tuple[Any, ...]]
) -> Iterator[dict[str, str]]:
    """Everything without a verdict, as {what, why}; what has one reason in a place is told once."""
    found: dict[tuple[str, str], list[Planned]] = {}
    for cell in run.cells:
        status, note = run.status(cell)
        if status != "ok":
            why = f"{status}: {note}" if note else status
        elif key(cell.names) not in judged:
            why = "measured, but no gate is about it"
        else:
            continue
        found.setdefault(("/".join(cell.place), why), []).append(cell)
    for (place, why), cells in found.items():
        yield {"what": f"{place}: {_cases(cells)}", "why": why}
    if not any(case.get("constraint") for case in run.plan["cases"]):
        yield {
            "what": "limits of memory, CPU time and instruction set, contention and heat",
            "why": "the run has no condition",
        }
    for what, why in _ALWAYS:
        yield {"what": what, "why": why}


def _cases(cells: Sequence[Planned]) -> str:
    """Their cases, severities of one scenario together."""
    severities: dict[str, list[str]] = {}
    for cell in cells:
        case = cell.case
        named = f"{case['scenario']}@{case['severity_name']}=" if case["severity_name"] else ""
        told = severities.setdefault(named or case["scenario"], [])
        if named:
            told.append(f"{case['severity']:g}")
    return ", ".join(f"{name}{'|'.join(told)}" for name, told in severities.items())
