"""Ways to run the faults of one tensor on parts of the network: see ``hwbench.replay.gate``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import openvino as ov

from hwbench import edits as bits
from hwbench.backend import Array, Site
from hwbench.edits import Edits
from hwbench.replay import lanes
from hwbench.replay.gate import Route
from hwbench_openvino.executed import Edge, Executed, Part

_LOADED = 8  # compiled parts that are kept
_LARGEST = 3.38e38  # what bfloat16 still holds after rounding


def ordinary(stored: Array, site: Site) -> Array:
    """Which numbers a constant and an input hold alike, in the shape of ``stored``.

    Loading a constant flushes subnormal numbers, and clamps what bfloat16 cannot hold; what
    happens to NaN differs too. An input is converted by a kernel that does none of this.
    """
    if site.dtype not in ("float32", "float16"):
        return np.zeros(stored.shape, np.bool_)
    size = np.abs(stored)
    limits = np.finfo(stored.dtype)
    result: Array = (size == 0) | (
        (size >= limits.tiny) & (size <= min(_LARGEST, float(limits.max)))
    )
    return result


@dataclass
class Tensors:
    """Golden tensors and compiled parts, the least recently used given up first."""

    executed: Executed
    feeds: dict[str, Array]
    bound: float
    kept: OrderedDict[str, Array] = field(default_factory=OrderedDict)
    parts: OrderedDict[tuple[object, ...], Part] = field(default_factory=OrderedDict)

    def at(self, edge: Edge) -> Array:
        """An edge's golden tensor in the executed form."""
        if edge.label not in self.kept:
            given = {name: ov.Tensor(each) for name, each in self.feeds.items()}
            made = self.executed.part([edge]).run(given)[edge.label]
            self.kept[edge.label] = edge.stored(made)
            while len(self.kept) > 1 and sum(e.nbytes for e in self.kept.values()) > self.bound:
                self.kept.popitem(last=False)
        self.kept.move_to_end(edge.label)
        return self.kept[edge.label]

    def clean(self, fed: Sequence[Edge]) -> dict[str, Array]:
        """Golden tensors of some edges, and the inputs."""
        return {**self.feeds, **{edge.label: self.at(edge) for edge in fed}}

    def given(self, arrays: Mapping[str, Array]) -> dict[str, ov.Tensor]:
        """What a part is fed with for arrays in the executed form."""
        edges = self.executed.edges
        return {
            name: edges[name].tensor(each) if name in edges else ov.Tensor(each)
            for name, each in arrays.items()
        }

    def suffix(self, fed: tuple[Edge, ...], operand: str = "") -> Part:
        """The network from some edges on, loaded once."""
        key = (*(edge.label for edge in fed), operand)
        return self._loaded(key, lambda: self.executed.part(None, fed, operand))

    def written(self, edge: Edge, rank: int) -> Part:
        """The whole network with numbers written into an edge, loaded once."""
        executed = self.executed
        key = (edge.label, rank)
        return self._loaded(key, lambda: executed.scattered({edge: rank}))

    def _loaded(self, key: tuple[object, ...], load: Callable[[], Part]) -> Part:
        if key not in self.parts:
            self.parts[key] = load()
            while len(self.parts) > _LOADED:
                self.parts.popitem(last=False)
        self.parts.move_to_end(key)
        return self.parts[key]

    def close(self) -> None:
        """Free everything."""
        self.kept.clear()
        self.parts.clear()


@dataclass
class Operand:
    """The network from a cut on, with the tensor that is hit as an input."""

    tensors: Tensors
    clean: dict[str, Array]
    site: Site
    fed: tuple[Edge, ...]
    constant: str
    stored: Array
    whole: Route

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        return self._run(self.stored)

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        return [each for pattern in patterns for each in self._one(pattern)]

    def _one(self, pattern: Edits) -> list[dict[str, Array]]:
        if not len(pattern):
            return [dict(self.clean)]
        faulty = bits.apply(self.stored, pattern)
        if not ordinary(faulty.reshape(-1)[pattern.element], self.site).all():
            return self.whole.run([pattern])
        return [self._run(faulty)]

    def _run(self, stored: Array) -> dict[str, Array]:
        part = self.tensors.suffix(self.fed, self.constant)
        given = self.tensors.given(self.tensors.clean(self.fed))
        return part.run({**given, self.constant: ov.Tensor(np.ascontiguousarray(stored))})


@dataclass
class Constant:
    """The network from a cut on, compiled anew for each fault."""

    tensors: Tensors
    clean: dict[str, Array]
    fed: tuple[Edge, ...]
    names: Sequence[str]
    stored: Array

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        return self._run(self.stored)

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        return [
            self._run(bits.apply(self.stored, each)) if len(each) else dict(self.clean)
            for each in patterns
        ]

    def _run(self, stored: Array) -> dict[str, Array]:
        constants = dict.fromkeys(self.names, stored)
        part = self.tensors.executed.part(None, self.fed, constants=constants)
        return part.run(self.tensors.given(self.tensors.clean(self.fed)))


@dataclass
class Cut:
    """The network from some tensors on, one of which is hit; from the inputs if there are none."""

    tensors: Tensors
    outputs: dict[str, Array]
    site: Site
    fed: tuple[Edge, ...]
    free: bool

    @property
    def clean(self) -> Array:
        """The golden tensor that is hit."""
        return self.tensors.clean(self.fed)[self.site.name]

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``; where rows may be run together, they are also run in turn."""
        arrays = self.tensors.clean(self.fed)
        made = self._run(arrays)
        if not self._packed or not lanes.same_outputs(made, self.outputs):
            return made
        rolled = self._run({name: np.roll(each, 1, axis=0) for name, each in arrays.items()})
        return {name: np.roll(each, -1, axis=0) for name, each in rolled.items()}

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        if not self._packed:
            return [self._aligned(each) for each in patterns]
        lane = np.concatenate([np.full(len(each), i) for i, each in enumerate(patterns)])
        joined = bits.concatenate(list(patterns))
        self._check(joined)
        pairs, entry = np.unique(np.stack([lane, joined.row]), axis=1, return_inverse=True)
        results = [{n: each.copy() for n, each in self.outputs.items()} for _ in patterns]
        size = len(self.clean)
        for first in range(0, pairs.shape[1], size):
            some = pairs[:, first : first + size]
            mine = (entry.reshape(-1) >= first) & (entry.reshape(-1) < first + size)
            slot = entry.reshape(-1)[mine] - first
            made = self._run(self._faulty(some[1], replace(joined.where(mine), row=slot)))
            for place, (target, row) in enumerate(some.T):
                for name, array in made.items():
                    results[target][name][row] = array[place]
        return results

    @cached_property
    def _packed(self) -> bool:
        """Whether rows of several patterns may share a run: all that is fed has rows."""
        arrays = self.tensors.clean(self.fed)
        rows = len(arrays[self.site.name])
        return self.free and all(each.ndim and len(each) == rows for each in arrays.values())

    def _faulty(self, rows: Array, edits: Edits) -> dict[str, Array]:
        """What is fed for some rows, filled up with the last; an edit's row is its place there."""
        arrays = self.tensors.clean(self.fed)
        chosen = np.resize(rows, len(arrays[self.site.name]))
        given = {name: each[chosen] for name, each in arrays.items()}
        given[self.site.name] = lanes.apply_rows(given[self.site.name], edits)
        return given

    def _aligned(self, pattern: Edits) -> dict[str, Array]:
        arrays = self.tensors.clean(self.fed)
        arrays[self.site.name] = lanes.apply_rows(arrays[self.site.name], pattern)
        return self._run(arrays)

    def _check(self, edits: Edits) -> None:
        rows = len(self.clean)
        outside = edits.element.max() >= self.site.size or edits.row.max() >= rows
        if outside or edits.row.min() < 0 or edits.element.min() < 0:
            raise IndexError(
                f"an edit lies outside {rows} rows of {self.site.size} elements, or names no row"
            )

    def _run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return self.tensors.suffix(self.fed).run(self.tensors.given(arrays))
