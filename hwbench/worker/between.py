"""Faults in tensors between operators: every row of a batch carries its own, many at once.

A death or a refusal in a run of several trials is nobody's: the parent has them run one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench.backend import Replayer, Site
from hwbench.dataset import Batch
from hwbench.edits import NO_ROW, Edits
from hwbench.errors import Unsupported
from hwbench.job import Part
from hwbench.replay import lanes
from hwbench.scenario import EditPerturbation, TransformPerturbation
from hwbench.worker import perturb
from hwbench.worker.bench import FAULT_ROWS, Bench, Outputs
from hwbench.worker.replayed import Replays, before_and_after, chunks

Integers = npt.NDArray[np.int64]


def activations(bench: Bench) -> list[Site]:
    """The tensors between operators that can be hit; none where the runtime does not let them."""
    try:
        replayer = bench.replayer(bench.batch(0))
    except Unsupported:
        return []
    found = [site for site in replayer.activations if site.kind == "activation"]
    replayer.close()
    return found


def run(bench: Bench, replays: Replays, part: Part) -> None:
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
        batch = bench.batch(index)
        rows = _Rows(bench, replays, replays.on(batch), part, batch)
        alone = {pattern for pattern, where in part.alone if where == index}
        together = [pattern for pattern in by_batch[index] if pattern not in alone]
        for some in [*chunks(together), *([each] for each in sorted(alone))]:
            rows.run(some)


@dataclass(frozen=True)
class _Rows:
    """Some patterns of faults in the rows of one batch."""

    bench: Bench
    replays: Replays
    replayer: Replayer
    part: Part
    batch: Batch

    @cached_property
    def layer(self) -> int:
        """The one of the stack that hits activations."""
        return perturb.layers(self.part.case, "activations")[0]

    @cached_property
    def sites(self) -> list[Site]:
        """The tensors that it may hit."""
        return perturb.chosen(self.part.case, self.layer, self.replayer.activations)

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
        layer, made = self.layer, case.layers[self.layer].scenario
        assigned, seed = self.part.assigned.get(pattern), self.bench.work.seed
        which = perturb.Which(seed, pattern, (), assigned)
        if isinstance(made, TransformPerturbation):
            if not self.replayer.rows_independent:
                raise Unsupported(f"{case.id}: rows of this model depend on one another")
            key = which.key(case, layer)
            return perturb.draw_values(made, self.sites, self.replayer.activation, samples, key)
        if perturb.resident(case, layer):
            drawn, share = perturb.draw(case, layer, self.sites, which)
            return lanes.in_rows([drawn] * len(samples)), share
        joined = lanes.in_rows(perturb.draw_rows(case, layer, self.sites, which, samples.tolist()))
        assert isinstance(made, EditPerturbation)
        return joined, made.share(joined, self.sites) / len(samples)

    def _outputs(self, drawn: Sequence[Edits]) -> tuple[list[Outputs], list[str]]:
        """Outputs of each pattern, and how they were found."""
        if not self.replayer.rows_independent or any(_scattered(each) for each in drawn):
            return self._each(drawn)
        return self._packed(drawn)

    def _each(self, drawn: Sequence[Edits]) -> tuple[list[Outputs], list[str]]:
        """Pattern by pattern; row by row where rows depend on one another but faults do not."""
        resident = perturb.resident(self.part.case, self.layer)
        apart = not self.replayer.rows_independent and not resident
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
        joined = lanes.in_lanes(drawn)
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
        return replace(drawn, row=self.batch.samples[drawn.row])

    def _tell(self, pattern: int, drawn: Edits) -> None:
        if len(drawn) > FAULT_ROWS:
            return
        rows, samples = list[dict[str, Any]](), self.batch.samples
        sites = {site.name: site for site in self.replayer.activations}
        for name in drawn.touched():
            here, golden = drawn.at_site(name), self.replayer.activation(name)
            element = here.row * sites[name].size + here.element
            flat = replace(here, element=element, row=np.full_like(here.row, NO_ROW))
            hit = before_and_after([sites[name]], name, flat, golden)
            for row, element, at in zip(hit, here.element, here.row, strict=True):
                rows.append({**row, "element": int(element), "row": int(samples[at])})
        told = self._of_samples(drawn)
        self.bench.tell_faults(self.part.case, pattern, self.layer, told, rows)


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
    packed = replace(here, lane=lane[place.reshape(-1)].astype(np.int32))
    return packed, lane, pattern, row
