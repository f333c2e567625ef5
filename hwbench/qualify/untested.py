"""What a verdict does not cover: cells without numbers, cells without a gate, kinds of fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

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
    """Everything without a verdict, as {what, why}."""
    ungated: dict[str, list[str]] = {}
    for cell in run.cells:
        status, note = run.status(cell)
        where = "/".join(cell.place)
        if status != "ok":
            yield {"what": cell.id, "why": f"{status}: {note}" if note else status}
        elif key(cell.names) not in judged:
            ungated.setdefault(cell.case["id"], []).append(where)
    for case, places in ungated.items():
        yield {"what": f"{case} in {', '.join(places)}", "why": "measured, but no gate is about it"}
    if not any(case.get("constraint") for case in run.plan["cases"]):
        yield {
            "what": "limits of memory, CPU time and instruction set, contention and heat",
            "why": "the run has no condition",
        }
    for what, why in _ALWAYS:
        yield {"what": what, "why": why}
