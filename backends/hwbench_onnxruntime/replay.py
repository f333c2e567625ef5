"""Faults from a cached golden prefix: see ``hwbench.backend.Replayer``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from copy import copy as shallow_copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from hwbench import onnxfile
from hwbench.backend import Array, Artifact, Backend, Feeds, Method, Site, SiteKind
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.replay import gate, lanes
from hwbench.replay.gate import Candidate, Refused, Route, Truth, Whole
from hwbench.replay.golden import Golden
from hwbench.replay.routed import RoutedReplayer
from hwbench_onnxruntime import layout, patterns, routes, sites
from hwbench_onnxruntime.executed import Executed
from hwbench_onnxruntime.heads import GroupedHead, SingleHead
from hwbench_onnxruntime.tail import Tail

MIB = 2**20
# Seen: in MobileNet int8 a fault in a filter's scale passed the gate, and a later one differed.
_STEERING = "suffix: the optimiser decides by the values of scales and zero points"


class OnnxRuntimeReplayer(RoutedReplayer):
    """One batch on one artifact."""

    def __init__(
        self, backend: Backend, artifact: Artifact, feeds: Feeds, memory_mib: float
    ) -> None:
        super().__init__(backend, artifact)
        self._memory = memory_mib * MIB
        self._executed = Executed.of(artifact)
        # By whether a pattern hits stored tensors only.
        self._proofs = {each: gate.Proof("constant", {}) for each in (True, False)}
        self._known: dict[str, tuple[Route, Method]] = {}
        self._take(feeds)

    def _take(self, feeds: Feeds) -> None:
        """Everything that belongs to one batch."""
        self._open(feeds)
        cache = Golden(self._feeds, self._executed.advance, self._memory / 2)
        self._tail = Tail(self._executed, cache, self._rows, self.rows_independent)
        self.rows_independent = self._tail.free
        self._proofs = {
            key: replace(each, methods=self.methods) for key, each in self._proofs.items()
        }

    def on(self, feeds: Feeds) -> OnnxRuntimeReplayer:
        """See ``Replayer.on``."""
        other = shallow_copy(self)
        other._take(feeds)
        if other._tail.packs == self._tail.packs:
            other._tail.parts = self._tail.parts
            other._tail.windows = self._tail.windows
        chosen = {name: (route, self.methods[name]) for name, route in self._routes.items()}
        other._known = {**self._known, **chosen}
        return other

    @cached_property
    def _layout(self) -> layout.Layout:
        return layout.trace(self._artifact, self._executed, list(self._stored.values()))

    @cached_property
    def _tensors(self) -> dict[str, Array]:
        model = onnxfile.read(sites.path_of(self._artifact))
        return {name: onnxfile.stored(each) for name, each in onnxfile.index(model).tensors.items()}

    @property
    def activations(self) -> tuple[Site, ...]:
        """See ``Replayer.activations``."""
        return self._activations

    @cached_property
    def _activations(self) -> tuple[Site, ...]:
        graph, found = self._executed, list[Site]()
        for name, made in graph.producers.items():
            if name not in graph.data or not graph.readers.get(name):
                continue
            cut = min(graph.readers[name])
            golden, node = self._tail.golden.at(cut)[name], graph.nodes[cut if made < 0 else made]
            if golden.ndim == 0 or len(golden) != self._tail.rows:
                continue  # it has no rows that could be hit
            kind: SiteKind = "input" if made < 0 else "activation"
            shape = golden.shape[1:]
            found.append(Site(name, kind, golden.dtype.name, shape, node.op_type, node.name, cut))
        return tuple(sorted(found, key=lambda site: site.order))

    def activation(self, name: str) -> Array:
        """See ``Replayer.activation``."""
        tensor: Array = self._tail.golden.at(min(self._executed.readers[name]))[name]
        return tensor

    def _several(self, edits: Edits) -> dict[str, Array]:
        stored_only = set(edits.touched()) <= self._stored.keys()
        try:
            pattern = self._pattern(edits)
        except Refused as reason:
            self.methods[gate.PATTERN] = Method("whole", (f"constant: {reason}",))
            return self._naive_pattern(edits)
        proof = self._proofs[stored_only]
        run = partial(patterns.run, self._executed, self._tail.golden, self.golden, pattern)
        return proof.run(run, partial(self._naive_pattern, edits))

    def _naive_pattern(self, edits: Edits) -> dict[str, Array]:
        if set(edits.touched()) <= self._stored.keys():
            return self._naive(edits)
        return patterns.written(self._faulty(edits), self._feeds, self._between(edits))

    def _between(self, edits: Edits) -> dict[str, Edits]:
        """The edits of inputs and of tensors between operators, by tensor."""
        return {n: edits.at_site(n) for n in edits.touched() if n not in self._stored}

    def _faulty(self, edits: Edits) -> Executed:
        """What is executed with the stored tensors of a pattern in the artifact's file.

        Raises:
            Unsupported: the optimiser makes another graph of that file.
        """
        stored = [at for at, name in enumerate(edits.sites) if name in self._stored]
        here = edits.where(np.isin(edits.site, stored))
        if not len(here):
            return self._executed
        with tempfile.TemporaryDirectory() as scratch:
            corrupted = self._backend.corrupt(self._artifact, here, Path(scratch))
            made = Executed.of(corrupted)
        if [node.output for node in made.nodes] != [node.output for node in self._executed.nodes]:
            raise Unsupported(
                "with these stored tensors the optimiser makes another graph, whose tensors are"
                " not golden's. Hint: leave out sites of a single number, scales and zero points."
            )
        return made

    def spread(self, edits: Edits) -> Iterator[tuple[Site, Array, Array]]:
        """See ``Replayer.spread``. Stored tensors are hit in the artifact's file."""
        between = self._between(edits)
        unknown = between.keys() - {site.name for site in self.activations}
        if unknown:
            raise ValueError(f"the executed graph has no tensor {min(unknown)!r} that can be hit")
        faulty = self._faulty(edits)
        cuts = dict.fromkeys(site.order for site in self.activations)
        states = patterns.follow(faulty, self._feeds, between, cuts)
        for cut, state in zip(cuts, states, strict=True):
            golden = self._tail.golden.at(cut)
            for site in self.activations:
                if site.order == cut:
                    yield site, golden[site.name], state[site.name]

    def _pattern(self, edits: Edits) -> patterns.Pattern:
        """The pattern on the executed graph.

        Raises:
            Refused: a stored tensor cannot be located there.
        """
        found = patterns.Pattern({}, {})
        for name in edits.touched():
            here = edits.at_site(name)
            if name not in self._stored:
                found.tensors[name] = here
                continue
            touched, values = lanes.new_values(self._tensors[name], here)
            if self._stored[name].kind in ("scale", "zero_point"):
                raise Refused(_STEERING)
            for copy in self._copies(name):
                held = found.constants.get(copy.name)
                if held is None:
                    held = onnxfile.stored(self._executed.constants[copy.name]).copy()
                held.reshape(-1)[copy.position[touched]] = values
                found.constants[copy.name] = held
        return found

    def _choose(self, site: str) -> tuple[Route, Method]:
        return self._kept(site) or super()._choose(site)

    def _kept(self, site: str) -> tuple[Route, Method] | None:
        """The route that was proven on another batch, where it repeats golden of this one too."""
        if site not in self._known:
            return None
        route, method = self._known[site]
        if not isinstance(route, routes.Tailed):
            whole = self._naive if site in self._stored else self._scattered
            return Whole(whole, self.golden), method
        route = route.on(self._tail, self.golden)
        try:
            same = lanes.same_outputs(route.golden(), self.golden)
        except Refused:
            same = False
        return (route, method) if same else None

    def _choose_stored(self, name: str) -> tuple[Route, Method]:
        site = self._stored[name]
        whole = Whole(self._naive, self.golden)
        if site.kind in ("scale", "zero_point"):
            return whole, Method("whole", (_STEERING,))
        candidates = [
            Candidate("grouped", lambda: self._grouped(name)),
            Candidate("suffix", lambda: self._single(name, constant=False)),
            Candidate("constant", lambda: self._single(name, constant=True)),
        ]
        tried = gate.samples(name, site.size, site.bits)
        truth = Truth(self.golden, tried, tuple(whole.run(tried)))
        return gate.choose(candidates, Candidate("whole", lambda: whole), truth)

    def _grouped(self, name: str) -> Route:
        (copy,) = self._copies(name)[:1]
        readers = self._executed.readers.get(copy.name, [])
        if len(self._copies(name)) > 1 or len(readers) != 1:
            raise Refused("several operators read it")
        head = GroupedHead(self._executed, readers[0], copy.name)
        return routes.Grouped(self._tail, self.golden, head, readers[0], copy, self._tensors[name])

    def _single(self, name: str, *, constant: bool) -> Route:
        copies = self._copies(name)
        head = SingleHead(self._executed, [copy.name for copy in copies], constant=constant)
        return routes.Single(self._tail, self.golden, head, copies, self._tensors[name])

    def _copies(self, name: str) -> tuple[layout.Copy, ...]:
        if name in self._layout.refused:
            raise Refused(self._layout.refused[name])
        return self._layout.copies[name]

    def _choose_activation(self, name: str) -> tuple[Route, Method]:
        found = {site.name: site for site in self.activations}
        if name not in found:
            raise ValueError(f"the executed graph has no tensor {name!r} and stores none")
        site, rows = found[name], self._tail.rows
        whole = Whole(self._scattered, self.golden)
        tried = gate.samples(name, site.size, site.bits, rows=rows)
        truth = Truth(self.golden, tried, tuple(whole.run(tried)))
        candidates = [
            Candidate("windowed", lambda: routes.Windowed(self._tail, self.golden, site)),
            Candidate("suffix", lambda: routes.Activation(self._tail, self.golden, site)),
        ]
        return gate.choose(candidates, Candidate("whole", lambda: whole), truth)

    def _scattered(self, edits: Edits) -> dict[str, Array]:
        """The whole executed graph with faulty numbers written into one tensor on its way."""
        name = lanes.site_of(edits)
        cut = min(self._executed.readers[name])
        clean = self._tail.golden.at(cut)[name]
        faulty = lanes.apply_rows(clean, edits)
        where = np.argwhere(lanes.unsigned(faulty) != lanes.unsigned(clean))
        part = self._executed.scattered({name: (where, faulty[tuple(where.T)])})
        return dict(zip(self.golden, part.run(self._feeds).values(), strict=True))
