"""Replay of a model that takes a batch in several calls: one replayer, moved from call to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hwbench import edits as bits
from hwbench.backend import Array, Feeds, Method, Replayer, Site
from hwbench.edits import NO_ROW, Edits
from hwbench.errors import Unsupported
from hwbench.manner import Manner, rows_of

Make = Callable[[Feeds], Replayer]


class CalledReplayer(Replayer):
    """A batch of several calls without a state, so that each can be repeated by itself."""

    def __init__(
        self, make: Make, feeds: Feeds, how: Manner, inner: Replayer | None = None
    ) -> None:
        self._make = make
        self._how = how
        self._size = how.size or 1
        self._rows = rows_of(feeds)
        self._calls = list(how.split(feeds))
        self._at = 0
        self._inner = make(self._calls[0]) if inner is None else _moved(make, inner, self._calls[0])
        self.methods: dict[str, Method] = {}
        self._goldens = [dict(self._on(at).golden) for at in range(len(self._calls))]
        self.golden = how.joined(self._goldens)
        # Rows of different calls cannot touch one another.
        self.rows_independent = self._size == 1 or self._inner.rows_independent

    @property
    def activations(self) -> Sequence[Site]:
        """See ``Replayer.activations``."""
        return self._on(0).activations

    def activation(self, name: str) -> Array:
        """See ``Replayer.activation``."""
        return np.concatenate([self._on(at).activation(name) for at in range(len(self._calls))])

    def run(self, edits: Edits) -> list[dict[str, Array]]:
        """See ``Replayer.run``."""
        lanes = int(edits.lane.max()) + 1 if len(edits) else 0
        parts = [self._lanes(at, edits, lanes) for at in range(len(self._calls))]
        return [self._how.joined([part[lane] for part in parts]) for lane in range(lanes)]

    def _lanes(self, at: int, edits: Edits, lanes: int) -> list[dict[str, Array]]:
        """Outputs of one call by lane; golden where a lane has no edits in it."""
        mine = self._within(at, edits)
        made = self._on(at).run(mine) if len(mine) else []
        self._keep()
        return [*made, *(self._goldens[at] for _ in range(lanes - len(made)))]

    def run_pattern(self, edits: Edits) -> dict[str, Array]:
        """See ``Replayer.run_pattern``."""
        parts: list[dict[str, Array]] = []
        for at in range(len(self._calls)):
            mine = self._within(at, edits)
            parts.append(self._on(at).run_pattern(mine) if len(mine) else self._goldens[at])
            self._keep()
        return self._how.joined(parts)

    def on(self, feeds: Feeds) -> Replayer:
        """See ``Replayer.on``."""
        if rows_of(feeds) != self._rows:
            raise Unsupported("a batch of another size is prepared anew")
        return CalledReplayer(self._make, feeds, self._how, self._inner)

    def method(self, site: str) -> Method:
        """See ``Replayer.method``; of the first call."""
        return self._on(0).method(site)

    def spread(self, edits: Edits) -> Iterator[tuple[Site, Array, Array]]:
        """See ``Replayer.spread``."""
        parts = [
            list(self._on(at).spread(self._within(at, edits))) for at in range(len(self._calls))
        ]
        for same in zip(*parts, strict=True):
            golden, faulty = (np.concatenate([each[side] for each in same]) for side in (1, 2))
            yield same[0][0], golden, faulty

    def close(self) -> None:
        """See ``Replayer.close``."""
        self._inner.close()

    def _on(self, at: int) -> Replayer:
        """The replayer of one call."""
        if at != self._at:
            self._inner = _moved(self._make, self._inner, self._calls[at])
            self._at = at
        return self._inner

    def _within(self, at: int, edits: Edits) -> Edits:
        """The edits that concern a call, rows counted within it."""
        start = at * self._size
        stored = edits.row == NO_ROW
        kept = edits.where(
            np.asarray(stored | ((edits.row >= start) & (edits.row < start + self._size)))
        )
        row = np.where(kept.row == NO_ROW, NO_ROW, kept.row - start)
        return bits.make(kept.sites, kept.site, kept.element, kept.mask, kept.op, row, kept.lane)

    def _keep(self) -> None:
        """A method that some call could not have is told as the slower one."""
        for name, method in self._inner.methods.items():
            known = self.methods.get(name)
            if known is None or known.route != "whole":
                self.methods[name] = method


def _moved(make: Make, replayer: Replayer, feeds: Feeds) -> Replayer:
    try:
        return replayer.on(feeds)
    except Unsupported:
        replayer.close()
        return make(feeds)
