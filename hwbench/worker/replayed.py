"""Faults in stored tensors from a cached golden prefix: see ``hwbench.backend.Replayer``.

A death or a refusal in a run of several trials is nobody's: the parent has them run one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array, Replayer, Site
from hwbench.case import Case
from hwbench.dataset import Batch
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.job import Part
from hwbench.replay import lanes
from hwbench.worker.bench import FAULT_ROWS, Bench, fault_rows

LANES = 64  # trials of one site in one call, and patterns whose activation faults go together
WORTH = 200  # trials of a case from which on finding the routes pays

T = TypeVar("T")
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Queued:
    """A pattern on one stored tensor.

    Attributes:
        pattern: its number.
        indices: batches it is run on.
        layer: of the case's stack.
        edits: of one site.
        values: columns of its records.
    """

    pattern: int
    indices: tuple[int, ...]
    layer: int
    edits: Edits
    values: Mapping[str, Any]


@dataclass
class Replays:
    """The replayer of the batch at hand, and which routes were taken."""

    bench: Bench
    refused: str = ""
    routes: Counter[str] = field(default_factory=Counter)
    flaws: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _pays: dict[str, bool] = field(default_factory=dict)
    _replayer: Replayer | None = None
    _index: int = -1

    def suit(self, part: Part) -> bool:
        """Whether a case's faults in stored tensors can be replayed, and so many that it pays.

        Decided by the case alone, never by what is left of it: a resumed sweep runs alike.
        """
        case = part.case
        plain = not case.conditions and len(case.layers) == 1
        n_batches = self.bench.dataset.n_batches(self.bench.work.batch)
        many = case.campaign is not None or case.patterns * n_batches >= WORTH
        if not plain or not many or case.layers[0].residence != "artifact":
            return False
        return self.bench.work.replay_mib > 0 and self._possible()

    def _possible(self) -> bool:
        try:
            self._first()
        except Unsupported as gap:
            self.refused = gap.reason
            return False
        return True

    def pays(self, site: str) -> bool:
        """Whether faults of a stored tensor have a route faster than whole runs."""
        if site not in self._pays:
            self.bench.events.phase("run")  # finding it takes some whole runs: a sign of life
            method = self._first().method(site)
            if method.route == "whole":
                self.flaws[site] = method.refused
            self._pays[site] = method.route != "whole"
        return self._pays[site]

    def _first(self) -> Replayer:
        """The replayer at hand, else one of the first batch.

        Always of the first: which routes are proven, and which tensors can be hit, must not
        depend on what a worker was given to do.
        """
        if self._replayer is None:
            self._replayer = self.bench.replayer(self.bench.batch(0))
            self._index = 0
        return self._replayer

    def on(self, batch: Batch) -> Replayer:
        """The replayer of a batch, made from that of the first batch where that can be.

        Raises:
            Unsupported: the adapter has none.
        """
        replayer = self._first()
        if self._index != batch.index:
            self._replayer = replayer = self._moved(replayer, batch)
            self._index = batch.index
        return replayer

    def _moved(self, replayer: Replayer, batch: Batch) -> Replayer:
        try:
            return replayer.on(batch.feeds)
        except Unsupported:
            replayer.close()
        return self.bench.replayer(batch)

    def took(self, key: str, count: int) -> str:
        """Keep the route that faults of a site (or ``pattern``) took; gives the record's method."""
        assert self._replayer is not None
        method = self._replayer.methods[key]
        self.routes[method.route] += count
        if method.refused:
            self.flaws[key] = method.refused
        return "naive" if method.route == "whole" else method.route

    @property
    def told(self) -> dict[str, Any]:
        """For the process row: trials by route, and why slower ones were taken."""
        told = {"trials": dict(self.routes), "refused": self.flaws, "unsupported": self.refused}
        return {key: value for key, value in told.items() if value}


def run_stored(bench: Bench, replays: Replays, case: Case, queue: Sequence[Queued]) -> None:
    """Patterns on one stored tensor each: batch by batch, site by site in topological order."""
    order = {site.name: place for place, site in enumerate(bench.sites)}
    by_site: dict[str, list[Queued]] = defaultdict(list)
    for each in queue:
        by_site[lanes.site_of(each.edits)].append(each)
    for name, group in by_site.items():
        _tell(bench, case, name, group)
    for index in sorted({index for each in queue for index in each.indices}):
        batch = bench.batch(index)
        replayer = replays.on(batch)
        for name in sorted(by_site, key=order.__getitem__):
            mine = [each for each in by_site[name] if index in each.indices]
            for some in chunks(mine):
                trials = [(case.id, each.pattern, index) for each in some]
                bench.events.send("trials", trials=trials, together=len(trials) > 1)
                outputs = replayer.run(lanes.in_lanes([each.edits for each in some]))
                method = replays.took(name, len(some))
                for each, made in zip(some, outputs, strict=True):
                    rows = {key: array[: len(batch.samples)] for key, array in made.items()}
                    values = {**each.values, "method": method}
                    bench.record(case, each.pattern, batch, rows, values)


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many at a time as run together."""
    return (items[at : at + LANES] for at in range(0, len(items), LANES))


def _tell(bench: Bench, case: Case, name: str, group: Sequence[Queued]) -> None:
    stored = bench.stored(name)
    for each in group:
        if len(each.edits) <= FAULT_ROWS:
            rows = before_and_after(bench.sites, name, each.edits.at_site(name), stored)
            bench.tell_faults(case, each.pattern, each.layer, each.edits, rows)


def before_and_after(
    sites: Sequence[Site], name: str, here: Edits, stored: Array
) -> list[dict[str, Any]]:
    """Bits before, and those that the replay gives to the operator in their stead."""
    touched, new = lanes.new_values(stored, here)
    site = next(each for each in sites if each.name == name)
    after = new[np.searchsorted(touched, here.element)]
    return fault_rows(site, here, stored.reshape(-1)[here.element], after)
