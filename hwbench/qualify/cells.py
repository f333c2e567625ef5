"""The cells of a run as gates see them: which there are, what became of them, and their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.compute as pc

from hwbench import score
from hwbench.record import Row
from hwbench.spec.gates import GateSpec
from hwbench.store import Store

FAILED = 4  # in a matrix of outcomes: the trial gave no answer; beyond score.Outcome

_RECORDS = ["cell", "pattern", "batch", "n_samples", "outcome", "outcomes", "correct"]

Matrix = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Cell:
    """One planned cell, with what the plan says about its environment and its case."""

    environment: Mapping[str, Any]
    case: Mapping[str, Any]

    @property
    def id(self) -> str:
        """As records name it."""
        return "/".join((*self.place, self.case["id"]))

    @property
    def place(self) -> tuple[str, str]:
        """Model and environment."""
        return self.environment["model"], self.environment["environment"]

    @property
    def names(self) -> Row:
        """The columns that name it in every table."""
        return {
            "model": self.place[0],
            "environment": self.place[1],
            "scenario": self.case["scenario"],
            "severity_name": self.case["severity_name"],
            "severity": self.case["severity"],
        }

    @property
    def sampled(self) -> bool:
        """Whether a campaign drew its faults: they are weighted, not alike."""
        return self.case["patterns"] is None

    def is_named_by(self, gate: GateSpec) -> bool:
        """Whether a gate is about it."""
        model, environment = self.place
        return (
            any(fnmatchcase(model, each) for each in gate.models)
            and any(fnmatchcase(environment, each) for each in gate.environments)
            and is_of_scenario(self.case, gate.scenario)
            and is_of_severity(self.case["severity"], gate.severity)
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
        self.cells = [
            Cell({**environment, **case.get("data", {}).get(environment["model"], {})}, case)
            for environment in self.plan["environments"]
            for case in self.plan["cases"]
        ]

    def rows(self, table: str, names: Mapping[str, Any]) -> list[Row]:
        """Rows of a table that agree with ``names``, with ``None`` where nothing is known."""
        frame = self._tables[table]
        for name, value in names.items():
            column = frame[name]
            frame = frame[column.isna() if value is None else column == value]
        return [
            {str(key): None if pd.isna(value) else value for key, value in row.items()}
            for row in frame.to_dict("records")
        ]

    def status(self, cell: Cell) -> tuple[str, str]:
        """What became of a cell, and why."""
        found = self.rows("cells", cell.names)
        return (found[0]["status"], found[0]["note"] or "") if found else ("open", "")

    def clean_of(self, model: str, environment: str) -> Cell | None:
        """The clean cell of a model in an environment."""
        return next(
            (c for c in self.cells if c.place == (model, environment) and c.case["id"] == "clean"),
            None,
        )

    def processes(self, cell: Cell) -> list[Row]:
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

    def outcomes(self, cell: Cell) -> Outcomes:
        """The records of a complete cell."""
        table = self.store.read("records", _RECORDS)
        rows = table.filter(pc.equal(table["cell"], cell.id)).to_pylist()
        environment = cell.environment
        return matrices(rows, environment["n_samples"], environment["batch"])


def matrices(rows: Iterable[Row], n_samples: int, batch: int) -> Outcomes:
    """Records in any order, of which the first per pattern and batch counts."""
    first: dict[tuple[int, int], Row] = {}
    for each in rows:
        first.setdefault((each["pattern"], each["batch"]), each)
    patterns = sorted({pattern for pattern, _ in first})
    place = {pattern: index for index, pattern in enumerate(patterns)}
    outcome = np.full((len(patterns), n_samples), FAILED, np.uint8)
    correct = np.zeros(outcome.shape, np.int8)
    labelled = False
    for (pattern, number), each in first.items():
        if each["outcome"] == "ok":
            n = each["n_samples"]
            span = slice(number * batch, number * batch + n)
            outcome[place[pattern], span] = score.unpack(each["outcomes"], n)
            if each["correct"] is not None:
                labelled = True
                bits = np.unpackbits(np.frombuffer(each["correct"], np.uint8), count=n)
                correct[place[pattern], span] = bits
    return Outcomes(outcome, correct if labelled else None)
