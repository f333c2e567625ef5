"""A scenario of a third party: the cells of some stored words lose their charge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hwbench import edits
from hwbench.backend import Site
from hwbench.edits import Edits, Op
from hwbench.scenario import EditPerturbation, parameter
from hwbench.seeds import Key


@dataclass(frozen=True)
class Brownout(EditPerturbation):
    """A share of the stored words reads as zero, a run of neighbours in every tensor."""

    name: ClassVar[str] = "brownout"
    severities: ClassVar[tuple[str, ...]] = ("part",)
    example: ClassVar[str] = "{brownout: {part: [0.01, 0.1]}, patterns: 20}"

    part: float = parameter(..., "share of each tensor's words that is lost", "share")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not 0 < self.part <= 1:
            raise ValueError(f"part is a share, above 0 and at most 1, not {self.part:g}")

    @property
    def target(self) -> Literal["weights", "inputs", "activations", "process", "data"]:
        """Stored tensors."""
        return "weights"

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """One draw is one chip, shared by all samples."""
        return "pattern"

    def draw(self, sites: Sequence[Site], key: Key, row: int = -1) -> Edits:
        """The lost run of each tensor: a larger part begins at the same word."""
        names = tuple(site.name for site in sites)
        drawn = []
        for index, site in enumerate(sites):
            start = int(key.child(site.name).generator("start").integers(site.size))
            lost = (start + np.arange(max(1, round(self.part * site.size)))) % site.size
            drawn.append(edits.make(names, index, lost, 0, Op.WRITE, row))
        return edits.concatenate(drawn)

    def share(self, drawn: Edits, sites: Sequence[Site]) -> float:
        """Share of the words that were lost."""
        return len(drawn) / sum(site.size for site in sites)
