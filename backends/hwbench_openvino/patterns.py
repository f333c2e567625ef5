"""One pattern over several tensors: stored ones hit in their file, those between operators fed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import numpy as np
import openvino as ov

from hwbench import edits as bits
from hwbench.backend import Array, Backend
from hwbench.edits import Edits
from hwbench.replay import lanes
from hwbench_openvino.executed import Edge, Executed
from hwbench_openvino.routes import Cut, Tensors


class Overlay:
    """The network under a pattern, from its inputs on; a context, for the file it reads.

    Attributes:
        hit: faulty inputs and tensors between operators, in the executed form.
    """

    def __init__(
        self, backend: Backend, tensors: Tensors, edits: Edits, cuts: Mapping[str, Cut]
    ) -> None:
        self._backend, self._tensors, self._edits, self._cuts = backend, tensors, edits, cuts
        self._folder = TemporaryDirectory()
        self._faulty = tensors.executed
        self.hit: dict[str, Array] = {}

    def __enter__(self) -> Self:
        try:
            self._faulty = self._corrupted(Path(self._folder.name))
            for name in (each for each in self._cuts if each in self._edits.touched()):
                reached = self._reached(name)
                self.hit[name] = lanes.apply_rows(reached, self._edits.at_site(name))
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def outputs(self) -> dict[str, Array]:
        """The network's outputs under the pattern."""
        return self._faulty.part(None, self._edges()).run(self._given())

    def written(self) -> dict[str, Array]:
        """The same the naive way: each tensor written into on the whole network's way.

        What arrives at each is found anew, so that nothing is taken from ``hit``.
        """
        feeds = dict(self._tensors.feeds)
        for name in feeds.keys() & self.hit.keys():
            feeds[name] = lanes.apply_rows(feeds[name], self._edits.at_site(name))
        return _written(self._faulty, self._tensors, feeds, self._edges(), self._edits)

    def writable(self, golden: dict[str, Array]) -> bool:
        """Whether the network with all that is hit written on its way gives golden's bytes."""
        nothing = bits.none(self._edits.sites)
        feeds, edges = self._tensors.feeds, self._edges()
        made = _written(self._tensors.executed, self._tensors, feeds, edges, nothing)
        return lanes.same_outputs(made, golden)

    def at(self, edge: Edge) -> Array:
        """A tensor under the pattern, in the executed form."""
        made = self._faulty.part([edge], self._edges()).run(self._given())
        return edge.stored(made[edge.label])

    def repeats(self, golden: dict[str, Array]) -> bool:
        """Whether the network entered at all that is hit gives golden's bytes, and each of them."""
        made = self._tensors.executed.part(None, self._edges()).run(self._clean())
        return lanes.same_outputs(made, golden) and all(map(self.sees, self._edges()))

    def sees(self, edge: Edge) -> bool:
        """Whether a tensor is golden's where the network is entered at all that is hit."""
        others = [each for each in self._edges() if each != edge]
        if not others:
            return True
        made = self._tensors.executed.part([edge], others).run(self._clean())
        return lanes.same(edge.stored(made[edge.label]), self._tensors.at(edge))

    def _corrupted(self, folder: Path) -> Executed:
        executed, edits = self._tensors.executed, self._edits
        stored = [at for at, name in enumerate(edits.sites) if name not in self._cuts]
        here = edits.where(np.isin(edits.site, stored))
        if not len(here):
            return executed
        return executed.corrupted(self._backend.corrupt(executed.artifact, here, folder))

    def _reached(self, name: str) -> Array:
        """What arrives at a tensor that is to be hit."""
        edge = self._tensors.executed.edges.get(name)
        return self._tensors.feeds[name] if edge is None else self.at(edge)

    def _edges(self) -> list[Edge]:
        edges = self._tensors.executed.edges
        return [edges[name] for name in self.hit if name in edges]

    def _given(self) -> dict[str, ov.Tensor]:
        return self._tensors.given({**self._tensors.feeds, **self.hit})

    def _clean(self) -> dict[str, ov.Tensor]:
        return self._tensors.given(self._tensors.clean(self._edges()))


def _written(
    executed: Executed,
    tensors: Tensors,
    feeds: Mapping[str, Array],
    edges: Iterable[Edge],
    edits: Edits,
) -> dict[str, Array]:
    """Outputs of a network with edits written into edges, in topological order."""
    given, ranks = tensors.given(feeds), dict[Edge, int]()
    for edge in edges:
        made = executed.scattered(ranks, edge).run(given)
        clean = edge.stored(made[edge.label])
        faulty = lanes.apply_rows(clean, edits.at_site(edge.label))
        where = np.argwhere(lanes.unsigned(faulty) != lanes.unsigned(clean))
        given |= edge.written(faulty, where if len(where) else np.zeros((1, clean.ndim), np.int64))
        ranks[edge] = clean.ndim
    return executed.scattered(ranks).run(given)
