"""What the stored rows say about the work done, read as they come: each row once."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from hwbench import search, sitelist
from hwbench.backend import Site
from hwbench.case import case_id
from hwbench.errors import RequestError
from hwbench.plan import Plan, Subject
from hwbench.population import Tally
from hwbench.record import Row
from hwbench.store import Store
from hwbench.trials import Trials

Place = tuple[str, str]  # model name, environment id
Measured = tuple[str, str, str, int, str, int]

_PROCESS = {
    *("job", "kind", "model", "environment", "scenario", "severity_name", "severity", "conditions"),
    *("batch", "use", "block", "outcome", "message", "wall_s", "load_ms", "run_ms"),
    *search.COLUMNS,
}
_RECORD = ["cell", "pattern", "batch", "n_sdc", "n_due"]


@dataclass(frozen=True)
class State:
    """What the stored rows say.

    Attributes:
        outcomes: of finished build and clean processes, by (kind, model, environment).
        done: trials that have a record, by cell.
        measured: finished latency jobs as (model, environment, case id, batch, use, block).
        sites: tensors that can be hit, by place; told where a campaign wants them.
        tallies: what each pattern of a campaign did, by cell.
        soaked: finished soaks as (model, environment, case id).
        probes: of searches, by model, environment and case name.
        prepared: rows of the processes that prepared inputs.
        clean: row of the last clean process that ended well, by place.
        peaks: largest peak resident set of accuracy processes in MiB, by place.
    """

    outcomes: dict[tuple[str, str, str], str] = field(default_factory=dict)
    done: dict[str, Trials] = field(default_factory=dict)
    measured: set[Measured] = field(default_factory=set)
    sites: dict[Place, tuple[Site, ...]] = field(default_factory=dict)
    tallies: dict[str, dict[int, Tally]] = field(default_factory=dict)
    soaked: set[tuple[str, str, str]] = field(default_factory=set)
    probes: dict[search.Place, list[search.Probe]] = field(default_factory=dict)
    prepared: list[Row] = field(default_factory=list)
    clean: dict[Place, Row] = field(default_factory=dict)
    peaks: dict[Place, float] = field(default_factory=dict)

    def usable(self, place: Place) -> bool:
        """Whether an environment built and does what was asked."""
        return self.outcomes.get(("build", *place)) == "ok" and self.outcomes.get(
            ("clean", *place)
        ) in ("ok", None)

    def left(self, cell: str, n_patterns: int, n_batches: int) -> Trials:
        """Trials of a cell without a record."""
        every = Trials.every(n_patterns, n_batches)
        return every - self.done[cell] if cell in self.done else every


class Reader:
    """Keeps a state up to date with a store."""

    def __init__(self, store: Store, plan: Plan, sites: Callable[[Place], Path | None]) -> None:
        """``sites`` names the file in which an environment's clean worker lists its sites."""
        self.state = State()
        self._store, self._plan, self._sites = store, plan, sites
        self._passed: Counter[str] = Counter()
        self._deployments = {"/".join(each.key): each for each in plan.deployments}
        self._sampled = {case.id for case in plan.cases if case.campaign}

    def update(self) -> State:
        """The state with what was committed since the last time."""
        for batch in self._new("processes", sorted(_PROCESS)):
            self._take_processes(batch.to_pylist())
        for batch in self._new("records", _RECORD):
            self._take_records(batch)
        for each in self._plan.deployments:
            path = None if each.key in self.state.sites else self._sites(each.key)
            if path is not None and path.exists():
                self.state.sites[each.key] = sitelist.read(path)
        return self.state

    def _new(self, part: str, columns: list[str]) -> Iterable[pa.RecordBatch]:
        for batch in self._store.batches(part, columns, self._passed[part]):
            yield batch
            self._passed[part] += batch.num_rows

    def _take_processes(self, rows: list[Row]) -> None:
        finished = [each for each in rows if each["outcome"] != "interrupted"]
        for each in finished:
            self._take_process(each)
        for key, probes in search.read(finished).items():
            self.state.probes.setdefault(key, []).extend(probes)

    def _take_process(self, row: Row) -> None:
        state, kind = self.state, row["kind"]
        place = (row["model"], row["environment"])
        case = case_id(row["scenario"], row["severity_name"] or "", row["severity"])
        if kind == "prepare":
            state.prepared.append(row)
        elif kind == "soak":
            state.soaked.add((*place, case))
        elif kind == "latency":
            state.measured.add((*place, case, row["batch"], row["use"], row["block"]))
        elif kind == "build":
            state.outcomes[("build", *place)] = row["outcome"]
        elif row["scenario"] == "clean":
            state.outcomes[("clean", *place)] = row["outcome"]
        if kind == "accuracy":
            self._take_cost(place, row)

    def _take_cost(self, place: Place, row: Row) -> None:
        """What accuracy processes take of time and memory."""
        if row["scenario"] == "clean" and row["outcome"] == "ok":
            self.state.clean[place] = row
        if row["peak_rss_mib"] is not None and row["conditions"] is None:
            known = self.state.peaks.get(place, 0.0)
            self.state.peaks[place] = max(known, row["peak_rss_mib"])

    def _take_records(self, batch: pa.RecordBatch) -> None:
        """Cell by cell; of a trial that was told twice only the first counts."""
        cells = batch.column("cell").dictionary_encode()
        codes, pattern, number = (
            column.to_numpy(zero_copy_only=False)
            for column in (cells.indices, batch.column("pattern"), batch.column("batch"))
        )
        for code, cell in enumerate(cells.dictionary.to_pylist()):
            subject, case = self._subject(cell)
            rows = np.flatnonzero(codes == code)
            done = self.state.done.get(cell, Trials(subject.n_batches))
            numbers = pattern[rows] * subject.n_batches + number[rows]
            if case in self._sampled:
                _, first = np.unique(numbers, return_index=True)
                told = batch.take(pa.array(rows[np.sort(first)])).to_pylist()
                self._tally(cell, subject, done, told)
            self.state.done[cell] = done.with_numbers(numbers)

    def _subject(self, cell: str) -> tuple[Subject, str]:
        """The model with the data that a cell ran on, and the id of its case."""
        for at in (match.start() for match in re.finditer("/", cell)):
            deployment = self._deployments.get(cell[:at])
            if deployment is not None:
                key = (deployment.key[0], cell[at + 1 :])
                return self._plan.shifted.get(key, deployment.subject), key[1]
        hint = "was it made by another version of hwbench?"
        raise RequestError("is no cell of the run's spec.", where=cell, hint=hint)

    def _tally(self, cell: str, subject: Subject, done: Trials, rows: list[Row]) -> None:
        tallies = self.state.tallies.setdefault(cell, defaultdict(Tally))
        for each in rows:
            if (each["pattern"], each["batch"]) not in done:
                tallies[each["pattern"]].add(each, subject.n_samples, subject.batch)


def read(store: Store, plan: Plan, sites: Callable[[Place], Path | None]) -> State:
    """What all stored rows say."""
    return Reader(store, plan, sites).update()
