"""Trials from a cached golden prefix, many at once: see ``hwbench.backend.Replayer``.

A death or a refusal in a run of several trials is nobody's: the parent has them run one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hwbench import edits as bits
from hwbench.backend import Array, Replayer, Site
from hwbench.case import Case
from hwbench.dataset import Batch
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.job import Part
from hwbench.replay import lanes
from hwbench.scenario import EditPerturbation
from hwbench.worker import perturb
from hwbench.worker.bench import FAULT_ROWS, Bench, Outputs, fault_rows

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
            self.on(self.bench.batch(max(self._index, 0)))
        except Unsupported as gap:
            self.refused = gap.reason
            return False
        return True

    def on(self, batch: Batch) -> Replayer:
        """The replayer of a batch, made from that of another one where that can be.

        Raises:
            Unsupported: the adapter has none.
        """
        if self._replayer is None or self._index != batch.index:
            self._replayer = self._made(batch)
            self._index = batch.index
        return self._replayer

    def _made(self, batch: Batch) -> Replayer:
        if self._replayer is not None:
            try:
                return self._replayer.on(batch.feeds)
            except Unsupported:
                self._replayer.close()
        bench = self.bench
        return bench.backend.replayer(bench.artifact, batch.feeds, bench.work.replay_mib or 1.0)

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


def activations(bench: Bench) -> list[Site]:
    """The tensors between operators that can be hit; none where the runtime does not let them."""
    memory = bench.work.replay_mib or 1.0
    try:
        replayer = bench.backend.replayer(bench.artifact, bench.batch(0).feeds, memory)
    except Unsupported:
        return []
    found = [site for site in replayer.activations if site.kind == "activation"]
    replayer.close()
    return found


def sites_of(bench: Bench, case: Case, layer: int) -> list[Site]:
    """The stored tensors that a layer may hit."""
    return perturb.chosen(case, layer, bench.sites)


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
            for some in _chunks(mine):
                trials = [(case.id, each.pattern, index) for each in some]
                bench.events.send("trials", trials=trials, together=len(trials) > 1)
                outputs = replayer.run(_in_lanes([each.edits for each in some]))
                method = replays.took(name, len(some))
                for each, made in zip(some, outputs, strict=True):
                    rows = {key: array[: len(batch.samples)] for key, array in made.items()}
                    values = {**each.values, "method": method}
                    bench.record(case, each.pattern, batch, rows, values)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[at : at + LANES] for at in range(0, len(items), LANES))


def _tell(bench: Bench, case: Case, name: str, group: Sequence[Queued]) -> None:
    stored = bench.stored(name)
    for each in group:
        if len(each.edits) <= FAULT_ROWS:
            rows = _before_and_after(bench.sites, name, each.edits.at_site(name), stored)
            bench.tell_faults(case, each.pattern, each.layer, each.edits, rows)


def _before_and_after(
    sites: Sequence[Site], name: str, here: Edits, stored: Array
) -> list[dict[str, Any]]:
    """Bits before, and those that the replay gives to the operator in their stead."""
    touched, new = lanes.new_values(stored, here)
    site = next(each for each in sites if each.name == name)
    after = new[np.searchsorted(touched, here.element)]
    return fault_rows(site, here, stored.reshape(-1)[here.element], after)


def _in_lanes(patterns: Sequence[Edits]) -> Edits:
    """Patterns over the same site list, one lane each."""
    lane = np.repeat(np.arange(len(patterns), dtype=np.int32), [len(each) for each in patterns])
    joined = bits.concatenate(list(patterns))
    return bits.make(
        joined.sites, joined.site, joined.element, joined.mask, joined.op, joined.row, lane
    )


def run_activations(bench: Bench, replays: Replays, part: Part) -> None:
    """Faults in tensors between operators.

    Raises:
        Unsupported: the runtime does not let them be hit, or the stack holds something else too.
    """
    case = part.case
    if len(case.layers) - len(case.conditions) > 1:
        raise Unsupported(f"{case.id}: faults in activations are not stacked with other changes")
    by_batch: dict[int, list[int]] = defaultdict(list)
    for pattern, index in part.trials:
        by_batch[index].append(pattern)
    for index in sorted(by_batch):
        trials = [(case.id, pattern, index) for pattern in by_batch[index]]
        bench.events.send("trials", trials=trials[:1])
        replayer = replays.on(bench.batch(index))
        alone = {pattern for pattern, batch in part.alone if batch == index}
        together = [pattern for pattern in by_batch[index] if pattern not in alone]
        for some in [*_chunks(together), *([each] for each in sorted(alone))]:
            _Rows(bench, replays, replayer, part, bench.batch(index)).run(some)


@dataclass(frozen=True)
class _Rows:
    """Some patterns of faults in the rows of one batch."""

    bench: Bench
    replays: Replays
    replayer: Replayer
    part: Part
    batch: Batch

    def run(self, patterns: Sequence[int]) -> None:
        """Draw, run and tell."""
        case, index = self.part.case, self.batch.index
        trials = [(case.id, pattern, index) for pattern in patterns]
        self.bench.events.send("trials", trials=trials, together=len(trials) > 1)
        drawn, achieved = zip(*(self._draw(pattern) for pattern in patterns), strict=True)
        outputs, methods = self._outputs(drawn)
        for pattern, each, share, made, method in zip(
            patterns, drawn, achieved, outputs, methods, strict=True
        ):
            values = {
                "edits_hash": self._of_samples(each).digest(),
                "n_edits": len(each),
                "achieved": share,
                "method": method,
            }
            self._tell(pattern, each)
            rows = {name: array[: len(self.batch.samples)] for name, array in made.items()}
            self.bench.record(case, pattern, self.batch, rows, values)

    def _draw(self, pattern: int) -> tuple[Edits, float]:
        """The faults of every scored row; ``row`` counts within the batch."""
        case, samples = self.part.case, self.batch.samples
        layer = perturb.layers(case, "activations")[0]
        sites = perturb.chosen(case, layer, self.replayer.activations)
        assigned, seed = self.part.assigned.get(pattern), self.bench.work.seed
        which = perturb.Which(seed, pattern, (), assigned)
        if perturb.resident(case, layer):
            drawn, share = perturb.draw(case, layer, sites, which)
            return _in_rows([drawn] * len(samples)), share
        joined = _in_rows(perturb.draw_rows(case, layer, sites, which, samples.tolist()))
        scenario = case.layers[layer].scenario
        assert isinstance(scenario, EditPerturbation)
        return joined, scenario.share(joined, sites) / len(samples)

    def _outputs(self, drawn: Sequence[Edits]) -> tuple[list[Outputs], list[str]]:
        """Outputs of each pattern, and how they were found."""
        if not self.replayer.rows_independent or any(_scattered(each) for each in drawn):
            return self._each(drawn)
        return self._packed(drawn)

    def _each(self, drawn: Sequence[Edits]) -> tuple[list[Outputs], list[str]]:
        """Pattern by pattern; row by row where rows depend on one another but faults do not."""
        layer = perturb.layers(self.part.case, "activations")[0]
        apart = not self.replayer.rows_independent and not perturb.resident(self.part.case, layer)
        outputs: list[Outputs] = []
        for each in drawn:
            if not apart or not len(each):
                outputs.append(self.replayer.run_pattern(each))
                continue
            made = {name: array.copy() for name, array in self.replayer.golden.items()}
            for row in np.unique(each.row).tolist():
                alone = self.replayer.run_pattern(each.at_row(row))
                for name, array in alone.items():
                    made[name][row] = array[row]
            outputs.append(made)
        touched = [each.touched() for each in drawn]
        keys = [names[0] if len(names) == 1 else "pattern" for names in touched if names]
        methods = iter([self.replays.took(key, 1) for key in keys])
        return outputs, [next(methods) if names else "unedited" for names in touched]

    def _packed(self, drawn: Sequence[Edits]) -> tuple[list[Outputs], list[str]]:
        """Faults of all patterns site by site; a lane holds at most one faulty version of a row."""
        golden, methods = self.replayer.golden, dict[int, str]()
        outputs = [{name: array.copy() for name, array in golden.items()} for _ in drawn]
        joined = _in_lanes(drawn)
        for site in (each for each in self.replayer.activations if each.name in joined.touched()):
            here = joined.at_site(site.name)
            packed, place, pattern, row = _pack(here)
            made = self.replayer.run(packed)
            method = self.replays.took(site.name, len(row))
            for lane, of, at in zip(place.tolist(), pattern.tolist(), row.tolist(), strict=True):
                for name, array in made[lane].items():
                    outputs[of][name][at] = array[at]
                methods[of] = method if methods.get(of, method) == method else "mixed"
        return list(outputs), [methods.get(i, "unedited") for i in range(len(drawn))]

    def _of_samples(self, drawn: Edits) -> Edits:
        """The same with dataset indices as rows: what does not depend on the size of a batch."""
        row = self.batch.samples[drawn.row]
        return bits.make(drawn.sites, drawn.site, drawn.element, drawn.mask, drawn.op, row)

    def _tell(self, pattern: int, drawn: Edits) -> None:
        if len(drawn) > FAULT_ROWS:
            return
        rows, samples = list[dict[str, Any]](), self.batch.samples
        sites = {site.name: site for site in self.replayer.activations}
        for name in drawn.touched():
            here, golden = drawn.at_site(name), self.replayer.activation(name)
            element = here.row * sites[name].size + here.element
            flat = bits.make(here.sites, here.site, element, here.mask, here.op)
            told = _before_and_after([sites[name]], name, flat, golden)
            for row, element, at in zip(told, here.element, here.row, strict=True):
                rows.append({**row, "element": int(element), "row": int(samples[at])})
        layer = perturb.layers(self.part.case, "activations")[0]
        self.bench.tell_faults(self.part.case, pattern, layer, self._of_samples(drawn), rows)


def _in_rows(parts: Sequence[Edits]) -> Edits:
    """The edits of each row of a batch, from row 0."""
    joined = bits.concatenate(list(parts))
    row = np.repeat(np.arange(len(parts)), [len(each) for each in parts])
    return bits.make(joined.sites, joined.site, joined.element, joined.mask, joined.op, row)


def _scattered(drawn: Edits) -> bool:
    """Whether a row is hit in several tensors: then it does not start from one of them."""
    pairs = np.unique(np.stack([drawn.row, drawn.site.astype(np.int64)]), axis=1)
    return bool(len(np.unique(pairs[0])) < pairs.shape[1])


def _pack(here: Edits) -> tuple[Edits, Integers, Integers, Integers]:
    """Edits of one site, with as few lanes as there are faulty versions of one row.

    Returns:
        The edits in their new lanes, and per faulty row: its new lane, its old lane, its row.
    """
    old = here.lane.astype(np.int64)
    pairs, place = np.unique(np.stack([here.row, old]), axis=1, return_inverse=True)
    row, pattern = pairs
    first = np.searchsorted(row, row)  # of the versions of the same row
    lane = np.arange(len(row)) - first
    packed = bits.make(
        here.sites,
        here.site,
        here.element,
        here.mask,
        here.op,
        here.row,
        lane[place.reshape(-1)],
    )
    return packed, lane, pattern, row
