"""Faults from a cached golden prefix: see ``hwbench.backend.Replayer``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from copy import copy as shallow_copy
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from hwbench import edits as bits
from hwbench.backend import Array, Artifact, Backend, Feeds, Method, Site, SiteKind
from hwbench.edits import Edits
from hwbench.replay import gate, lanes
from hwbench.replay.gate import Candidate, Route, Truth, Whole
from hwbench.replay.golden import Golden
from hwbench.replay.routed import RoutedReplayer
from hwbench_torch import routes, tensors
from hwbench_torch.graph import Graph, Step, Values, Write
from hwbench_torch.probe import DTYPES
from hwbench_torch.session import settings
from hwbench_torch.sites import stored
from hwbench_torch.tail import Tail

MIB = 2**20


class TorchReplayer(RoutedReplayer):
    """One batch on one artifact of an eager precision."""

    def __init__(
        self, backend: Backend, artifact: Artifact, feeds: Feeds, memory_mib: float
    ) -> None:
        super().__init__(backend, artifact)
        self._memory = memory_mib * MIB
        self._known: dict[str, Method] = {}
        self._proof = gate.Proof("suffix", {})
        with self._settings():
            self._graph = Graph(artifact)
        self._take(feeds)

    def _take(self, feeds: Feeds) -> None:
        """Everything that belongs to one batch."""
        artifact = self._artifact
        self._open(feeds)
        self._proof = replace(self._proof, methods=self.methods)
        with self._settings():
            batch = self._graph.feed(self._feeds)
            rows = self._rows
            self._seen, ends = _survey(self._graph, batch)
            cache = Golden(batch, self._advance, self._memory / 2)
            sizes = {
                name: each.bytes // rows
                for name, each in self._seen.items()
                if each.shape[:1] == (rows,)
            }
            pairs = zip(artifact.outputs, self._graph.outputs, strict=True)
            dtypes = {spec.name: ends[name].dtype for spec, name in pairs}
            self._tail = Tail(self._graph, cache, rows, self.rows_independent, sizes, dtypes)
            self._clean = self._tail.outputs(ends)

    def on(self, feeds: Feeds) -> TorchReplayer:
        """See ``Replayer.on``."""
        other = shallow_copy(self)
        other._known = {**self._known, **{name: self.methods[name] for name in self._routes}}
        other._take(feeds)
        return other

    def _settings(self) -> AbstractContextManager[object]:
        return settings(self._artifact.environment)

    def activation(self, name: str) -> Array:
        """See ``Replayer.activation``."""
        for spec, inner in zip(self._artifact.inputs, self._graph.inputs, strict=True):
            if spec.name == name and inner in self._graph.inputs:
                return self._feeds[name]
        with self._settings():
            cut = self._graph.position[name] + 1
            return tensors.to_array(self._tail.golden.at(cut)[name])

    def _advance(self, start: int, stop: int, before: Values) -> Values:
        values, graph = dict(before), self._graph
        graph.advance(start, stop, values, graph.constants)
        return {name: values[name] for name in graph.live(stop)}

    @property
    def activations(self) -> tuple[Site, ...]:
        """See ``Replayer.activations``."""
        return self._activations

    @cached_property
    def _activations(self) -> tuple[Site, ...]:
        graph, found = self._graph, list[Site]()
        for name, spec in zip(graph.inputs, self._artifact.inputs, strict=True):
            if graph.readers.get(name):
                first = graph.readers[name][0]
                array, step = self._feeds[spec.name], graph.steps[first]
                found.append(_site(spec.name, "input", array.dtype.name, array.shape, step, first))
        for position, step in enumerate(graph.steps):
            if step.name in self._tail.sizes and graph.readers.get(step.name):
                seen = self._seen[step.name]
                kind: SiteKind = "activation"
                found.append(_site(step.name, kind, seen.dtype, seen.shape, step, position + 1))
        return tuple(sorted(found, key=lambda site: site.order))

    def _several(self, edits: Edits) -> dict[str, Array]:
        storage = set(edits.touched()) <= self._stored.keys()
        slow = partial(self._naive, edits) if storage else None
        return self._proof.run(partial(self._from_first, edits), slow)

    def _from_first(self, edits: Edits) -> dict[str, Array]:
        """Outputs of the whole batch, run from the first step that an edit can reach."""
        constants, inputs, written = self._hits(edits)
        hit = [*constants, *inputs, *written]
        graph, count = self._graph, len(self._graph.steps)
        start = min((graph.readers[n][0] for n in hit if graph.readers.get(n)), default=count)
        start = min([start, *(graph.position[name] for name in written)])
        values = {**self._tail.golden.at(start), **inputs}
        graph.advance(start, count, values, {**graph.constants, **constants}, written_by(written))
        return self._tail.widened({**self._clean, **self._tail.outputs(values)})

    def _hits(self, edits: Edits) -> tuple[Values, Values, dict[str, Edits]]:
        """Constants and inputs with the edits, and the edits of tensors between steps."""
        held, inputs, written = Values(), Values(), dict[str, Edits]()
        specs = {spec.name: name for spec, name in
                 zip(self._artifact.inputs, self._graph.inputs, strict=True)}  # fmt: skip
        for name in edits.touched():
            here = edits.at_site(name)
            if name in self._stored:
                held.update(self._corrupted(name, here))
            elif name in specs:
                array = lanes.apply_rows(self._feeds[name], here)
                inputs.update(self._graph.feed({name: array}))
            elif self._graph.position.get(name, -1) >= 0:
                written[name] = here
            else:
                raise ValueError(f"the executed graph has no tensor {name!r} and stores none")
        return self._graph.refixed(held), inputs, written

    def _corrupted(self, name: str, edits: Edits) -> Values:
        """Stored tensors of the graph under the edits of a site."""
        array = bits.apply(stored(self._artifact, name), edits)
        device = self._artifact.environment.device
        made = {}
        for holder in self._graph.holders.get(name, []):
            dtype = self._graph.constants[holder].dtype
            made[holder] = tensors.from_array(array, dtype).to(device)
        return made

    def spread(self, edits: Edits) -> Iterator[tuple[Site, Array, Array]]:
        """See ``Replayer.spread``; bfloat16 is widened to float32."""
        with self._settings():
            constants, inputs, written = self._hits(edits)
        graph, clean = self._graph, dict(self._tail.golden.at(0))
        faulty, constants = {**clean, **inputs}, {**graph.constants, **constants}
        known = {site.name: site for site in self.activations}
        for name, spec in zip(graph.inputs, self._artifact.inputs, strict=True):
            if spec.name in known:
                yield known[spec.name], _shown(clean[name]), _shown(faulty[name])
        for at, step in enumerate(graph.steps):
            with self._settings():
                graph.advance(at, at + 1, clean, graph.constants)
                graph.advance(at, at + 1, faulty, constants, written_by(written))
            if step.name in known:
                yield known[step.name], _shown(clean[step.name]), _shown(faulty[step.name])

    def _choose_stored(self, name: str) -> tuple[Route, Method]:
        site, whole = self._stored[name], Whole(self._naive, self.golden)
        made = partial(routes.Stored, self._tail, self._clean, stored(self._artifact, name), name)
        candidates = [
            Candidate("grouped", lambda: routes.Grouped(made(), routes.SLOTS, self._shapes)),
            Candidate("grouped", lambda: routes.Grouped(made(), 0, self._shapes)),
            Candidate("suffix", lambda: routes.Single(made())),
        ]
        return self._chosen(name, candidates, whole, gate.samples(name, site.size, site.bits))

    def _chosen(
        self, name: str, candidates: list[Candidate], whole: Whole, tried: tuple[Edits, ...]
    ) -> tuple[Route, Method]:
        last = Candidate("whole", lambda: whole)
        found = gate.again(candidates, last, self.golden, self._known.get(name))
        if found:
            return found
        return gate.choose(candidates, last, Truth(self.golden, tried, tuple(whole.run(tried))))

    def _choose_activation(self, name: str) -> tuple[Route, Method]:
        found = {site.name: site for site in self.activations}
        if name not in found:
            raise ValueError(f"the executed graph has no tensor {name!r} and stores none")
        site, whole = found[name], Whole(self._whole, self.golden)
        candidates = [Candidate("suffix", lambda: self._rowwise(site))]
        if site.kind == "activation":
            planed = Candidate("grouped", lambda: routes.Planed(self._tail, self._clean, site,
                                                                self._shapes))  # fmt: skip
            candidates.insert(0, planed)
        tried = gate.samples(name, site.size, site.bits, rows=self._tail.rows)
        return self._chosen(name, candidates, whole, tried)

    def _rowwise(self, site: Site) -> Route:
        if site.kind == "activation":
            return routes.Rowwise(self._tail, self._clean, site)
        (name,) = [n for n, spec in zip(self._graph.inputs, self._artifact.inputs, strict=True)
                   if spec.name == site.name]  # fmt: skip
        dtype = DTYPES[self._artifact.environment.precision]
        return routes.Fed(self._tail, self._clean, site, name, self._feeds[site.name], dtype)

    def _whole(self, edits: Edits) -> dict[str, Array]:
        """The whole graph of the whole batch, faulty numbers written into one tensor on its way."""
        _, inputs, written = self._hits(edits)
        values = {**self._tail.golden.at(0), **inputs}
        graph = self._graph
        graph.advance(0, len(graph.steps), values, graph.constants, written_by(written))
        return self._tail.widened({**self._clean, **self._tail.outputs(values)})

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        return {name: torch.Size(each.shape) for name, each in self._seen.items()}


@dataclass(frozen=True)
class _Seen:
    """A tensor of the golden run."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int


def _survey(graph: Graph, batch: Values) -> tuple[dict[str, _Seen], Values]:
    """Every tensor of the golden run, and what it ends with."""
    found = {name: _seen(each) for name, each in batch.items()}

    def note(name: str, tensor: torch.Tensor) -> torch.Tensor:
        found[name] = _seen(tensor)
        return tensor

    values = dict(batch)
    graph.advance(0, len(graph.steps), values, graph.constants, note)
    return found, {name: values[name] for name in graph.outputs}


def _seen(tensor: torch.Tensor) -> _Seen:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return _Seen(tuple(tensor.shape), dtype, tensor.nbytes)


def _site(
    name: str, kind: SiteKind, dtype: str, shape: tuple[int, ...], step: Step, order: int
) -> Site:
    return Site(name, kind, dtype, tuple(shape[1:]), step.op, step.layer, order)


def written_by(hits: Mapping[str, Edits]) -> Write:
    """What carries edits out on tensors while a graph runs."""

    def write(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in hits:
            return tensor
        faulty = lanes.apply_rows(tensors.to_array(tensor), hits[name])
        made = torch.empty_like(tensor)  # in the same layout
        return made.copy_(tensors.from_array(faulty, tensor.dtype))

    return write


def _shown(tensor: torch.Tensor) -> Array:
    """A tensor as an array of its own; bfloat16, which NumPy lacks, widened."""
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    array: Array = wide.cpu().numpy().copy()
    return array
