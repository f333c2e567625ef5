"""One pattern over several tensors: the graph from the first that is hit, constants rebuilt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hwbench.backend import Array
from hwbench.edits import Edits
from hwbench.replay import lanes
from hwbench.replay.golden import Golden
from hwbench_onnxruntime.executed import Executed


@dataclass(frozen=True)
class Pattern:
    """The faults of a pattern on the executed graph.

    Attributes:
        constants: constants with other bits, by name.
        tensors: edits of activations and inputs, by tensor.
    """

    constants: dict[str, Array]
    tensors: dict[str, Edits]

    def start(self, executed: Executed) -> int:
        """The first node that a fault can reach."""
        hit = (*self.constants, *self.tensors)
        reached = [executed.readers[name][0] for name in hit if executed.readers.get(name)]
        return min(reached, default=len(executed.nodes))


def run(
    executed: Executed, golden: Golden, clean: Mapping[str, Array], pattern: Pattern
) -> dict[str, Array]:
    """Outputs of the whole batch; an output that no fault can reach is ``clean``'s."""
    start = pattern.start(executed)
    state = dict(golden.at(start))
    state.update(_hit(pattern, state, executed, -1, start))
    stops = {executed.producers[name] + 1 for name in pattern.tensors}
    ends = [*sorted(each for each in stops if each > start), len(executed.nodes)]
    for stop in dict.fromkeys(ends):
        wanted = executed.live(stop)
        made = [name for name in wanted if executed.producers[name] >= start]
        if made:
            part = executed.part(start, stop, made, replaced=pattern.constants)
            state.update(part.run(state))
        state.update(_hit(pattern, state, executed, start, stop))
        start = stop
    return {name: state.get(name, clean[name]) for name in clean}


def written(
    executed: Executed, feeds: Mapping[str, Array], tensors: Mapping[str, Edits]
) -> dict[str, Array]:
    """The naive way for tensors between operators: each written into on the whole graph's way.

    Args:
        executed: the graph, of the corrupted artifact where stored tensors are hit too.
        feeds: the batch.
        tensors: edits by tensor; each hits what the earlier ones have made of its tensor.
    """
    writes: dict[str, tuple[Array, Array]] = {}
    for name in sorted(tensors, key=lambda name: executed.producers[name]):
        clean = feeds.get(name)
        if clean is None:
            clean = executed.scattered(writes, [name]).run(feeds)[name]
        faulty = lanes.apply_rows(clean, tensors[name])
        where = np.argwhere(lanes.unsigned(faulty) != lanes.unsigned(clean))
        writes[name] = (where, faulty[tuple(where.T)])
    made = executed.scattered(writes).run(feeds)
    return dict(zip(executed.outputs, made.values(), strict=True))


def follow(
    executed: Executed,
    feeds: Mapping[str, Array],
    tensors: Mapping[str, Edits],
    cuts: Iterable[int],
) -> Iterator[dict[str, Array]]:
    """Tensors that are live before each of some nodes, under edits of some of them.

    Args:
        executed: the graph, of the corrupted artifact where stored tensors are hit too.
        feeds: the batch.
        tensors: edits by tensor.
        cuts: positions of nodes, ascending; the first reader of every edited tensor among them.
    """
    pattern, start = Pattern({}, dict(tensors)), 0
    state = {**feeds, **_hit(pattern, feeds, executed, -1, 0)}
    for cut in cuts:
        live = executed.live(cut)
        made = [name for name in live if executed.producers[name] >= start]
        if made:
            state.update(executed.part(start, cut, made).run(state))
            state.update(_hit(pattern, state, executed, start, cut))
        state, start = {name: state[name] for name in live}, cut
        yield state


def _hit(
    pattern: Pattern, state: Mapping[str, Array], executed: Executed, start: int, stop: int
) -> dict[str, Array]:
    """Faulty versions of the tensors that nodes ``start`` up to ``stop`` write."""
    return {
        name: lanes.apply_rows(state[name], edits)
        for name, edits in pattern.tensors.items()
        if start <= executed.producers[name] < stop and name in state
    }
