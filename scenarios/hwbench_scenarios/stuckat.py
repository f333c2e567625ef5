"""Memory cells that hold one value whatever is written to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hwbench import edits
from hwbench.scenario import parameter
from hwbench_scenarios.bitflip import BitFault


@dataclass(frozen=True)
class StuckAt(BitFault):
    """Stored bits read as 0 or as 1 whatever they were: a bit that was so already is not changed.

    The same cells are stuck whatever the value, and those at a lower rate (or count) are a subset
    of those at a higher one.
    """

    name: ClassVar[str] = "stuckat"
    noun: ClassVar[str] = "stuck bits"
    example: ClassVar[str] = "{stuckat: {value: [0, 1], count: 1}, patterns: 100}"

    value: Literal[0, 1] = parameter(1, "what the bits read as")

    @property
    def variant(self) -> str:
        """The value, and what is restricted."""
        return "-".join(filter(None, (str(self.value), super().variant)))

    @property
    def identity(self) -> dict[str, object]:
        """The value is no part of it: the same cells are compared at 0 and at 1."""
        return {key: each for key, each in super().identity.items() if key != "value"}

    @property
    def op(self) -> edits.Op:
        """Set or clear."""
        return edits.Op.SET if self.value else edits.Op.CLEAR
