"""Searches of a job: each is made once per scenario and pattern, for all severities together."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hwbench import edits as bits
from hwbench import vectors
from hwbench.backend import Array, Artifact, Backend, Replayer, Site
from hwbench.case import Case
from hwbench.dataset import Dataset
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.job import AccuracyWork
from hwbench.replay import lanes, naive
from hwbench.scenario import SearchPerturbation
from hwbench.seeds import canonical
from hwbench.worker import perturb
from hwbench.worker.events import Events

MEMORY_MIB = 512.0  # of golden tensors that a replayer keeps
WORST_NATS = 20.0  # a sample's loss counts up to here: beyond it, it is as wrong as can be
_LANES = 64  # candidates between two signs of life

Floats = npt.NDArray[np.float64]
Targets = npt.NDArray[np.int64]


class Bench(Protocol):
    """What a search needs of the job that it is made in."""

    backend: Backend
    artifact: Artifact
    dataset: Dataset
    work: AccuracyWork
    events: Events
    golden: dict[str, Array]
    searches: dict[str, Progress]

    @property
    def output(self) -> str:
        """Name of the scored output."""


@dataclass
class Progress:
    """A search that can be taken further.

    Attributes:
        steps: the search itself.
        victim: what it attacks.
        found: the edits of each step so far.
    """

    steps: Iterator[Edits]
    victim: Deployed
    found: list[Edits] = field(default_factory=list)


def searched(case: Case, index: int) -> bool:
    """Whether the edits of a layer are found by looking at the model, and not drawn."""
    return isinstance(case.layers[index].scenario, SearchPerturbation)


def edits(
    bench: Bench,
    case: Case,
    index: int,
    sites: Sequence[Site],
    pattern: int,
    earlier: Sequence[Edits] = (),
) -> tuple[Edits, float]:
    """What a layer's search finds at the case's severity, and the severity achieved.

    Args:
        bench: of the job; searches are kept in ``bench.searches``, so that a higher severity goes
            on where a lower one ended.
        case: with the layer ``index``, a ``SearchPerturbation``.
        index: of the layer.
        sites: all of the artifact's.
        pattern: number of the search.
        earlier: edits of the layers before this one, which are in the artifact that is attacked.

    Raises:
        Unsupported: there is no site to hit, or no decision that could be changed.
    """
    scenario = case.layers[index].scenario
    assert isinstance(scenario, SearchPerturbation)
    chosen = perturb.chosen(case, index, sites)
    key = perturb.key_of(case, index, bench.work.seed, pattern)
    name = canonical([list(key.path), [site.name for site in chosen], *_digests(earlier)])
    if name not in bench.searches:
        samples = attacked(scenario, len(bench.dataset), key.generator("attacked"))
        victim = Deployed(bench, samples, earlier)
        bench.searches[name] = Progress(scenario.steps(victim, chosen, key), victim)
        _tell(bench, case, index, pattern, 0, None, victim)
    progress = bench.searches[name]
    while len(progress.found) < scenario.severity:
        step = next(progress.steps)
        progress.victim.commit(step)
        progress.found.append(step)
        _tell(bench, case, index, pattern, len(progress.found), step, progress.victim)
    progress.victim.rest()
    bench.events.phase("run")
    names = tuple(site.name for site in chosen)
    found = [bits.none(names), *progress.found[: int(scenario.severity)]]
    joined = bits.concatenate(found)
    return joined, scenario.share(joined, chosen)


def attacked(
    scenario: SearchPerturbation, n_samples: int, stream: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Dataset indices of the attacked samples, ascending."""
    count = min(scenario.attacked, n_samples)
    return np.sort(stream.choice(n_samples, size=count, replace=False)).astype(np.int64)


def _digests(earlier: Sequence[Edits]) -> list[str]:
    return [each.digest() for each in earlier]


def _tell(
    bench: Bench,
    case: Case,
    index: int,
    pattern: int,
    number: int,
    step: Edits | None,
    victim: Deployed,
) -> None:
    """A row of ``searches``: what the step found, and out of how much."""
    place = {"scenario": case.name, "pattern": pattern, "layer": index, "step": number}
    if step is None:
        found: dict[str, Any] = {"samples": victim.samples.tolist()}
    else:
        masks = ",".join(f"{mask:x}" for mask in step.mask.tolist())
        found = {"site": step.touched()[0], "element": step.element.tolist(), "mask": masks}
    bench.events.send("search", rows=[{**place, **found, **victim.account()}])


@dataclass(frozen=True)
class _Chunk:
    """Attacked samples that run together; a model of a fixed batch size takes several.

    Attributes:
        feeds: arrays by input name, padded to the batch size.
        rows: how many of them are attacked samples.
        padded: the class of each row.
    """

    feeds: dict[str, Array]
    rows: int
    padded: Targets


class Deployed:
    """The victim: what the deployment stores and executes. See ``hwbench.scenario.Victim``."""

    def __init__(
        self, bench: Bench, samples: npt.NDArray[np.int64], earlier: Sequence[Edits]
    ) -> None:
        scored = bench.golden[bench.output]
        if not bench.work.scoring.classes or scored.ndim != 2:
            raise Unsupported(
                "a search needs one decision a sample, by classes."
                f" Hint: output {bench.output!r} has shape {scored.shape}"
            )
        self.samples = samples
        self._backend, self._events, self._output = bench.backend, bench.events, bench.output
        self._scratch = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._scratch, True)
        self._base = bench.artifact
        for index, each in enumerate(earlier):
            self._base = self._corrupted(each, f"earlier-{index}")
        self._artifact, self._steps = self._base, list[Edits]()
        self._probabilities = vectors.are_probabilities(scored.astype(np.float64))
        self._chunks = _chunks(bench, samples)
        self._replayers: list[Replayer] | None = None
        self._gap = ""  # why there is no replayer
        self._gradients: dict[str, Array] | None = None
        self._ranked_by: str | None = None
        self._tried, self._routes = 0, Counter[str]()
        self._losses: dict[str, float] = {}
        self._loss = self._mean([self._naive(bits.none(), chunk) for chunk in self._chunks])

    def stored(self, name: str) -> Array:
        """See ``Victim.stored``."""
        return self._backend.stored(self._artifact, name)

    def losses(self, candidates: Sequence[Edits]) -> Floats:
        """See ``Victim.losses``; candidates of a site run side by side."""
        result = np.empty(len(candidates))
        names = [lanes.site_of(each) for each in candidates]
        for name in dict.fromkeys(names):
            places = [i for i, each in enumerate(names) if each == name]
            for at in range(0, len(places), _LANES):
                some = places[at : at + _LANES]
                result[some] = self._of_site(name, [candidates[i] for i in some])
        found = zip(candidates, result.tolist(), strict=True)
        self._losses = {each.digest(): loss for each, loss in found}
        self._tried += len(candidates)
        return result

    def gradient(self, name: str) -> Floats | None:
        """See ``Victim.gradient``."""
        if self._gradients is None:
            self._gradients = self._ask_gradients()
            self._ranked_by = "gradient" if self._gradients else "change of value"
        return self._gradients.get(name)

    def commit(self, step: Edits) -> None:
        """A new artifact with the edits in its stored bits; from now on that is the victim.

        It is made of what the search began with by all steps at once, as the record's will be.
        """
        self._loss = self._losses.get(step.digest(), float("nan"))
        self.rest()
        self._gradients = None
        self._steps.append(step)
        before = self._artifact
        self._artifact = self._corrupted(bits.concatenate(self._steps), f"{len(self._steps)}")
        if before is not self._base:
            shutil.rmtree(before.folder)

    def account(self) -> dict[str, Any]:
        """What was done since it was asked last, as columns of ``searches``."""
        routes = ", ".join(f"{name} {count}" for name, count in sorted(self._routes.items()))
        told = {
            "loss_nats": self._loss,
            "candidates": self._tried,
            "routes": routes or None,
            "ranked_by": self._ranked_by,
        }
        self._tried, self._routes = 0, Counter()
        return told

    def rest(self) -> None:
        """Give back what replayers hold; the next candidates open them again."""
        for each in self._replayers or []:
            each.close()
        self._replayers = None

    def _corrupted(self, step: Edits, name: str) -> Artifact:
        folder = self._scratch / name
        folder.mkdir()
        return self._backend.corrupt(self._base, step, folder)

    def _of_site(self, name: str, candidates: Sequence[Edits]) -> Floats:
        self._events.phase("search")  # a sign of life: the deadline is on silence
        replayers = self._opened()
        if replayers is None:
            self._routes["naive"] += len(candidates)
            return np.array(
                [self._mean([self._naive(each, c) for c in self._chunks]) for each in candidates]
            )
        outputs = [each.run(lanes.in_lanes(candidates)) for each in replayers]
        self._routes[replayers[0].methods[name].route] += len(candidates)
        return np.array([self._mean(list(lane)) for lane in zip(*outputs, strict=True)])

    def _opened(self) -> list[Replayer] | None:
        """A replayer for each chunk; ``None`` where the adapter has none."""
        if self._replayers is None and not self._gap:
            try:
                self._replayers = [
                    self._backend.replayer(self._artifact, each.feeds, MEMORY_MIB)
                    for each in self._chunks
                ]
            except Unsupported as gap:
                self._gap = gap.reason
        return self._replayers

    def _naive(self, candidate: Edits, chunk: _Chunk) -> dict[str, Array]:
        self._events.phase("search")
        return naive.stored(self._backend, self._artifact, chunk.feeds, candidate)

    def _ask_gradients(self) -> dict[str, Array]:
        """By site, over all attacked samples; none where the adapter has none."""
        try:
            parts = [
                self._backend.gradients(
                    self._artifact,
                    each.feeds,
                    self._output,
                    each.padded,
                    probabilities=self._probabilities,
                )
                for each in self._chunks
            ]
        except Unsupported:
            return {}
        return {name: np.sum([each[name] for each in parts], axis=0) for name in parts[0]}

    def _mean(self, outputs: Sequence[dict[str, Array]]) -> float:
        """Mean loss over all attacked samples."""
        parts = [
            losses(
                each[self._output][: chunk.rows], chunk.padded[: chunk.rows], self._probabilities
            )
            for each, chunk in zip(outputs, self._chunks, strict=True)
        ]
        return float(np.concatenate(parts).mean())


def _chunks(bench: Bench, samples: npt.NDArray[np.int64]) -> list[_Chunk]:
    """One, or as many as a fixed batch size needs, the last one padded by its last sample."""
    fixed = bench.artifact.inputs[0].shape[0] if bench.artifact.inputs[0].shape else None
    size = fixed or len(samples)
    found = []
    for start in range(0, len(samples), size):
        some = samples[start : start + size]
        rows = np.append(some, np.full(size - len(some), some[-1]))
        feeds = {n: np.ascontiguousarray(each[rows]) for n, each in bench.dataset.inputs.items()}
        found.append(_Chunk(feeds, len(some), _targets(bench, rows)))
    return found


def _targets(bench: Bench, rows: npt.NDArray[np.int64]) -> Targets:
    """Labels, or golden's decisions where there are none."""
    if bench.dataset.labels is not None:
        return np.asarray(bench.dataset.labels[rows], dtype=np.int64)
    return np.asarray(bench.golden[bench.output][rows].argmax(axis=1), dtype=np.int64)


def losses(outputs: Array, targets: Targets, probabilities: bool) -> Floats:
    """Cross-entropy of each row in nats, up to ``WORST_NATS``.

    A row with NaN or Inf counts ln(classes), a guess: such an output is detected.

    Args:
        outputs: logits or probabilities, shape (rows, classes).
        targets: the class of each row.
        probabilities: whether outputs went through a softmax already.
    """
    rows = outputs.astype(np.float64)
    finite = np.isfinite(rows).all(axis=1)
    result = np.full(len(rows), np.log(rows.shape[1]))
    logs = vectors.log_probabilities(rows[finite], probabilities=probabilities)
    result[finite] = -np.take_along_axis(logs, targets[finite][:, None], axis=1)[:, 0]
    return np.asarray(np.minimum(result, WORST_NATS))
