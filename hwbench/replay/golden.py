"""Golden tensors at cuts of a network, within a bound on memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Tensors = dict[str, Any]  # in the runtime's own kind; whatever has ``nbytes`` counts


@dataclass
class Golden:
    """Golden tensors at cuts, the earliest given up beyond the memory bound.

    Attributes:
        feeds: the batch: what is live before the first operator.
        advance: tensors that are live before the second operator named, from those before the
            first.
        bound: bytes kept; what is live at one cut is kept whatever it takes.
    """

    feeds: Tensors
    advance: Callable[[int, int, Tensors], Tensors]
    bound: float
    kept: dict[int, Tensors] = field(default_factory=dict)

    def at(self, cut: int) -> Tensors:
        """Tensors that are live before operator ``cut``."""
        if cut == 0:
            return self.feeds
        if cut not in self.kept:
            start = max((each for each in self.kept if each < cut), default=0)
            self.kept[cut] = self.advance(start, cut, self.at(start))
            self._shrink(cut)
        return self.kept[cut]

    def _shrink(self, cut: int) -> None:
        """Give up what lies before ``cut`` first: sites are visited in order."""
        others = sorted(each for each in self.kept if each != cut)
        order = [each for each in others if each < cut] + [e for e in others[::-1] if e > cut]
        for each in order:
            if self._bytes() <= self.bound:
                return
            del self.kept[each]

    def _bytes(self) -> int:
        held = {id(each): each for cut in self.kept.values() for each in cut.values()}
        return sum(getattr(each, "nbytes", 0) for each in held.values())
