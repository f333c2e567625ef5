"""Faults from a cached golden prefix: see ``hwbench.backend.Replayer``."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy as shallow_copy
from dataclasses import replace
from functools import cached_property

import numpy as np

from hwbench import edits as bits
from hwbench.backend import Array, Artifact, Backend, Feeds, Method, Site
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.replay import gate, lanes, naive
from hwbench.replay.gate import Candidate, Refused, Route, Truth
from hwbench.replay.routed import RoutedReplayer
from hwbench_openvino.executed import Edge, Executed
from hwbench_openvino.patterns import Overlay
from hwbench_openvino.routes import Constant, Cut, Operand, Tensors, ordinary

MIB = 2**20
# Why an operator's weight or bias is not fed as an input. What 16 bits do, the gate alone does not
# tell for certain: single faults may round alike where one in three does not.
_NOT_FED = {
    "int8": "in int8, an operator whose weight or bias is an input runs in f32",
    "fp16": "in fp16, a weight or bias that is an input is rounded at another step",
    "bf16": "in bf16, a weight or bias that is an input is rounded at another step",
}
_STEERING = "the plugin's optimisers decide by the values of scales and zero points"


class OpenVINOReplayer(RoutedReplayer):
    """One batch on one artifact.

    Attributes:
        refused: tensors of the IR that are no sites, and why.
    """

    def __init__(
        self, backend: Backend, artifact: Artifact, feeds: Feeds, memory_mib: float
    ) -> None:
        super().__init__(backend, artifact)
        self._executed = Executed.of(artifact, feeds)
        self._tensors = Tensors(self._executed, {}, memory_mib * MIB)
        self._constants = {each["name"]: each["constants"] for each in artifact.meta["sites"]}
        self.refused: dict[str, str] = dict(self._executed.absent)
        self._known: dict[str, Method] = {}
        self._proofs, self._flaw = 0, ""  # of patterns with tensors between operators
        self._take(feeds)

    def _take(self, feeds: Feeds) -> None:
        """Everything that belongs to one batch."""
        self._open(feeds)
        self._tensors = self._tensors.on(self._feeds)

    def on(self, feeds: Feeds) -> OpenVINOReplayer:
        """See ``Replayer.on``; what can be entered is as found on the first batch."""
        other = shallow_copy(self)
        other._known = {**self._known, **{name: self.methods[name] for name in self._routes}}
        other._take(feeds)
        found = self._cuts.items()
        other._cuts = {name: cut.on(other._tensors, other.golden) for name, cut in found}
        return other

    @property
    def activations(self) -> tuple[Site, ...]:
        """See ``Replayer.activations``."""
        return tuple(each.site for each in self._cuts.values())

    @cached_property
    def _cuts(self) -> dict[str, Cut]:
        """Where the network can be entered, by site, in topological order."""
        found = [self._input(name) for name in self._feeds]
        for edge in self._executed.edges.values():
            try:
                found.append(self._cut(edge))
            except Refused as reason:
                self.refused[edge.label] = str(reason)
        offered = [each for each in found if each is not None]
        return {each.site.name: each for each in sorted(offered, key=lambda each: each.site.order)}

    def _input(self, name: str) -> Cut | None:
        array = self._feeds[name]
        if array.ndim == 0 or len(array) != self._rows:
            return None
        reader = self._executed.first_reader(name)
        order, kind = self._executed.index[reader.get_friendly_name()], reader.get_type_name()
        shape, layer = array.shape[1:], reader.get_friendly_name()
        site = Site(name, "input", array.dtype.name, shape, kind, layer, order)
        return Cut(self._tensors, self.golden, site, (), self.rows_independent)

    def _cut(self, edge: Edge) -> Cut:
        """The network from an edge on.

        Raises:
            Refused: it does not give golden's bytes.
        """
        clean = self._tensors.at(edge)
        if clean.ndim == 0 or len(clean) != self._rows:
            raise Refused("it has no row per row of the batch")
        op = self._executed.ops[edge.position]
        order = self._executed.index[self._executed.first_reader(edge.label).get_friendly_name()]
        shape, name = clean.shape[1:], op.get_friendly_name()
        site = Site(edge.label, "activation", edge.dtype, shape, op.get_type_name(), name, order)
        none = bits.none((edge.label,))
        if not lanes.same_outputs(self._scattered(edge, none), self.golden):
            raise Refused("the network with the tensor written on its way does not repeat golden")
        for fed in dict.fromkeys((self._executed.live(edge.position + 1), (edge,))):
            if fed is not None:
                cut = Cut(self._tensors, self.golden, site, fed, self.rows_independent)
                if lanes.same_outputs(cut.golden(), self.golden):
                    return cut
        raise Refused("the network from there on does not repeat golden")

    def activation(self, name: str) -> Array:
        """See ``Replayer.activation``."""
        return self._cuts[name].clean

    def _several(self, edits: Edits) -> dict[str, Array]:
        """Outputs of one pattern over several sites.

        Raises:
            Unsupported: the network entered at all the tensors between operators that are hit
                does not repeat golden.
        """
        if set(edits.touched()) <= self._stored.keys():
            self.methods[gate.PATTERN] = Method("whole")
            return self._naive(edits)
        with self._overlay(edits) as overlay:
            return self._proven(overlay)

    def _proven(self, overlay: Overlay) -> dict[str, Array]:
        """The network entered at what is hit, beside the naive way at first."""
        flaw = self._flaw or (not overlay.repeats(self.golden) and "golden is not repeated")
        if flaw:
            return self._written_pattern(overlay, f"suffix: {flaw}")
        made = overlay.outputs()
        self.methods[gate.PATTERN] = Method("suffix")
        if self._proofs < gate.SAMPLES:
            self._proofs += 1
            wanted = overlay.written()
            if not lanes.same_outputs(made, wanted):
                self._flaw = "a pattern differs from the naive route"
                return self._written_pattern(overlay, f"suffix: {self._flaw}")
        return made

    def _written_pattern(self, overlay: Overlay, refused: str) -> dict[str, Array]:
        if not overlay.writable(self.golden):
            raise Unsupported(
                "the network entered at all the tensors that this pattern hits does not repeat"
                " golden, nor with them written on its way. Hint: hit fewer tensors at once."
            )
        self.methods[gate.PATTERN] = Method("whole", (refused,))
        return overlay.written()

    def spread(self, edits: Edits) -> Iterator[tuple[Site, Array, Array]]:
        """See ``Replayer.spread``.

        A tensor that cannot be had beside those that are hit without changing golden's bytes is
        left out; the numbers are in the executed form, bfloat16 as its bits.
        """
        with self._overlay(edits) as overlay:
            for name, cut in self._cuts.items():
                clean = cut.clean
                if name in overlay.hit:
                    yield cut.site, clean, overlay.hit[name]
                elif not cut.fed:
                    yield cut.site, clean, clean
                elif overlay.sees(self._executed.edges[name]):
                    yield cut.site, clean, overlay.at(self._executed.edges[name])

    def close(self) -> None:
        """See ``Replayer.close``."""
        self._routes.clear()
        self._tensors.close()

    def _overlay(self, edits: Edits) -> Overlay:
        unknown = set(edits.touched()) - self._stored.keys() - self._cuts.keys()
        if unknown:
            raise self._unknown(min(unknown))
        return Overlay(self._backend, self._tensors, edits, self._cuts)

    def _unknown(self, name: str) -> ValueError:
        reason = self.refused.get(name, "the executed graph has none of that name")
        return ValueError(f"no tensor {name!r} can be hit: {reason}")

    def _choose_stored(self, name: str) -> tuple[Route, Method]:
        site, whole = self._stored[name], gate.Whole(self._naive, self.golden)
        precision = self._artifact.environment.precision
        steering = precision == "int8" and site.kind in ("scale", "zero_point")
        if site.op_type == "FakeQuantize" or steering:
            return whole, Method("whole", (f"suffix: {_STEERING}",))
        candidates = [Candidate("constant", lambda: self._constant(site))]
        if precision not in _NOT_FED:
            fed = Candidate("suffix", lambda: self._operand(site, whole, self._before(site)))
            through = Candidate("fed", lambda: self._operand(site, whole, ()))
            candidates = [fed, through, *candidates]
        last = Candidate("whole", lambda: whole)
        found = gate.again(candidates, last, self.golden, self._known.get(name))
        if found:
            return found
        tried = gate.samples(name, site.size, site.bits)
        truth = Truth(self.golden, tried, tuple(whole.run(tried)))
        route, method = gate.choose(candidates, last, truth)
        if precision not in _NOT_FED:
            return route, method
        return route, replace(method, refused=(f"suffix: {_NOT_FED[precision]}", *method.refused))

    def _before(self, site: Site) -> tuple[Edge, ...]:
        """The last place before a stored tensor's reader where the network can be cut.

        Raises:
            Refused: there is none.
        """
        (constant,) = self._constants[site.name][:1]
        if constant not in self._executed.position:
            raise Refused("it lies in a subgraph")
        for position in range(self._executed.reached(constant), 0, -1):
            live = self._executed.live(position)
            if live:
                return live
        raise Refused("no tensor before it is in memory")

    def _operand(self, site: Site, whole: Route, fed: tuple[Edge, ...]) -> Route:
        (constant,) = self._constants[site.name][:1]
        if constant not in self._executed.position:
            raise Refused("it lies in a subgraph")
        stored = self._backend.stored(self._artifact, site.name)
        if site.size == 1 or not ordinary(stored, site).all():
            raise Refused("constants with single or subnormal numbers are treated apart")
        return Operand(self._tensors, self.golden, site, fed, constant, stored, whole)

    def _constant(self, site: Site) -> Route:
        stored = self._backend.stored(self._artifact, site.name)
        names = self._constants[site.name]
        return Constant(self._tensors, self.golden, self._before(site), names, stored)

    def _choose_activation(self, name: str) -> tuple[Route, Method]:
        if name not in self._cuts:
            raise self._unknown(name)
        cut = self._cuts[name]
        whole = gate.Whole(lambda each: self._written(cut, each), self.golden)
        last, candidates = Candidate("whole", lambda: whole), [Candidate("suffix", lambda: cut)]
        found = gate.again(candidates, last, self.golden, self._known.get(name))
        if found:
            return found
        tried = gate.samples(name, cut.site.size, cut.site.bits, rows=self._rows)
        truth = Truth(self.golden, tried, tuple(whole.run(tried)))
        return gate.choose(candidates, last, truth)

    def _written(self, cut: Cut, edits: Edits) -> dict[str, Array]:
        """A fault of an activation or input in the whole network, freshly loaded."""
        if cut.fed:
            return self._scattered(self._executed.edges[cut.site.name], edits)
        faulty = lanes.apply_rows(cut.clean, edits)
        return naive.golden(self._backend, self._artifact, {**self._feeds, cut.site.name: faulty})

    def _scattered(self, edge: Edge, edits: Edits) -> dict[str, Array]:
        """The whole network with faulty numbers written into one tensor on its way."""
        clean = self._tensors.at(edge)
        faulty = lanes.apply_rows(clean, edits)
        where = np.argwhere(lanes.unsigned(faulty) != lanes.unsigned(clean))
        if not len(where):
            where = np.zeros((1, clean.ndim), np.int64)  # writes what is there
        given = self._tensors.given(self._feeds)
        return self._tensors.written(edge, clean.ndim).run({**given, **edge.written(faulty, where)})
