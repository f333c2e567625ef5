"""The cells of a run as gates see them: which there are, what became of them, and their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hwbench.collect.planned import Planned, laid_out
from hwbench.collect.records import Records, read
from hwbench.collect.rows import rows_of
from hwbench.record import Row
from hwbench.spec.gates import GateSpec
from hwbench.store import Store

FAILED = 4  # in a matrix of outcomes: the trial gave no answer; beyond score.Outcome


def is_named_by(cell: Planned, gate: GateSpec) -> bool:
    """Whether a gate is about a cell."""
    model, environment = cell.place
    return (
        any(fnmatchcase(model, each) for each in gate.models)
        and any(fnmatchcase(environment, each) for each in gate.environments)
        and is_of_scenario(cell.case, gate.scenario)
        and is_of_severity(cell.case["severity"], gate.severity)
    )


def is_of_scenario(case: Mapping[str, Any], asked: str) -> bool:
    """By the case's name, a glob pattern of it, or the name of the only scenario in it."""
    kinds = [kind for kind, _ in case.get("kinds", [])]
    return fnmatchcase(case["scenario"], asked) or kinds == [asked]


def is_of_severity(severity: float | None, asked: list[float] | None) -> bool:
    """Whether a severity is one of those asked for; no list asks for all."""
    if asked is None:
        return True
    return severity is not None and any(abs(severity - each) <= 1e-9 * abs(each) for each in asked)


@dataclass(frozen=True)
class Outcomes:
    """The records of a cell as matrices, shape (patterns, samples), patterns in the order drawn.

    Attributes:
        outcome: a ``score.Outcome``, or ``FAILED``.
        correct: 1 where classified rightly; ``None`` without labels.
    """

    outcome: npt.NDArray[np.uint8]
    correct: npt.NDArray[np.int8] | None


class Run:
    """What gates read of a run; records are read for the cells that need them."""

    def __init__(self, store: Store, tables: Mapping[str, pd.DataFrame]) -> None:
        self.store = store
        self.plan: dict[str, Any] = store.read_json("plan.json")
        self.provenance: dict[str, Any] = store.read_json("run.json")
        self._tables = tables
        self._processes: dict[tuple[str, str], list[Row]] | None = None
        self.cells = list(laid_out(self.plan))

    def rows(self, table: str, names: Mapping[str, Any]) -> list[Row]:
        """Rows of a table that agree with ``names``, with ``None`` where nothing is known."""
        frame = self._tables[table]
        for name, value in names.items():
            column = frame[name]
            frame = frame[column.isna() if value is None else column == value]
        return list(rows_of(frame))

    def status(self, cell: Planned) -> tuple[str, str]:
        """What became of a cell, and why."""
        found = self.rows("cells", cell.names)
        return (found[0]["status"], found[0]["note"] or "") if found else ("open", "")

    def clean_of(self, model: str, environment: str) -> Planned | None:
        """The clean cell of a model in an environment."""
        return next(
            (c for c in self.cells if c.place == (model, environment) and c.clean),
            None,
        )

    def processes(self, cell: Planned) -> list[Row]:
        """Rows of the processes that measured a cell's latency, in the order of blocks."""
        if self._processes is None:
            self._processes = {}
            for each in self.store.read("processes").to_pylist():
                if each["kind"] == "latency" and each["outcome"] != "interrupted":
                    place = (each["model"], each["environment"])
                    self._processes.setdefault(place, []).append(each)
        wanted = cell.names
        rows = [
            each
            for each in self._processes.get(cell.place, [])
            if all(each[name] == value for name, value in wanted.items())
        ]
        return sorted(rows, key=lambda row: row["block"])

    def outcomes(self, cell: Planned) -> Outcomes:
        """The records of a complete cell."""
        return matrices(self._records.get(cell.id, Records()), *cell.sizes)

    @cached_property
    def _records(self) -> dict[str, Records]:
        return read(self.store, vectors=False)


def matrices(records: Records, n_samples: int, batch: int) -> Outcomes:
    """A cell's records laid over its samples."""
    labelled = records.rows["correct"].null_count < len(records)
    correct = records.correct(n_samples, batch).view(np.int8) if labelled else None
    return Outcomes(records.outcomes(n_samples, batch, FAILED), correct)
