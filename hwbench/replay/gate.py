"""A faster route passes where it gives golden's bytes and the naive route's on sampled faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwbench import edits as bits
from hwbench.backend import Array, Method
from hwbench.edits import Edits
from hwbench.replay import lanes

_INDEX_BITS = 64
PATTERN = "pattern"  # what ``Replayer.methods`` calls patterns over several sites
SAMPLES = 3  # faults per site that are run both ways


class Refused(Exception):
    """A route cannot be built for a site; the reason is kept beside the route that is taken."""


class Route(Protocol):
    """One way to run faults of one site."""

    def golden(self) -> dict[str, Array]:
        """Outputs without a fault, through everything a faulty run goes through."""
        ...

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """Outputs per pattern; edits of this site only."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A route that may be taken, by the name that ``Method.route`` gives it."""

    name: str
    make: Callable[[], Route]


@dataclass
class Whole:
    """The naive route, pattern by pattern.

    Attributes:
        naive: outputs of a pattern.
        clean: golden.
    """

    naive: Callable[[Edits], dict[str, Array]]
    clean: dict[str, Array]

    def golden(self) -> dict[str, Array]:
        """See ``Route.golden``."""
        return self.clean

    def run(self, patterns: Sequence[Edits]) -> list[dict[str, Array]]:
        """See ``Route.run``."""
        return [self.naive(each) if len(each) else dict(self.clean) for each in patterns]


@dataclass(frozen=True)
class Truth:
    """What a route must repeat: golden, and some faults with what the naive route made of them."""

    golden: dict[str, Array]
    patterns: tuple[Edits, ...]
    outputs: tuple[dict[str, Array], ...]


def choose(candidates: Sequence[Candidate], last: Candidate, truth: Truth) -> tuple[Route, Method]:
    """The first candidate that repeats the truth; ``last`` needs no proof."""
    refused: list[str] = []
    for candidate in candidates:
        try:
            route = candidate.make()
            flaw = _flaw(route, truth)
        except Refused as reason:
            flaw = str(reason)
        if not flaw:
            return route, Method(candidate.name, tuple(refused))
        refused.append(f"{candidate.name}: {flaw}")
    return last.make(), Method(last.name, tuple(refused))


def _flaw(route: Route, truth: Truth) -> str:
    """What a route gets wrong; empty if nothing."""
    if not lanes.same_outputs(route.golden(), truth.golden):
        return "golden is not repeated"
    for made, wanted in zip(route.run(truth.patterns), truth.outputs, strict=True):
        if not lanes.same_outputs(made, wanted):
            return "a sampled fault differs from the naive route"
    return ""


@dataclass
class Proof:
    """Patterns over several sites, beside the naive route at first.

    Attributes:
        route: the fast way's name.
        methods: where it is written down what was done.
    """

    route: str
    methods: dict[str, Method]
    proofs: int = 0
    flaw: str = ""

    def run(
        self, fast: Callable[[], dict[str, Array]], slow: Callable[[], dict[str, Array]] | None
    ) -> dict[str, Array]:
        """Outputs of a pattern; the naive route's once they differed.

        Args:
            fast: the fast way.
            slow: the naive route, if this pattern has one.
        """
        if slow and self.flaw:
            return slow()
        made = fast()
        if slow and self.proofs < SAMPLES:
            self.proofs += 1
            wanted = slow()
            if not lanes.same_outputs(made, wanted):
                self.flaw = f"{self.route}: a pattern differs from the naive route"
                self.methods[PATTERN] = Method("whole", (self.flaw,))
                return wanted
        self.methods[PATTERN] = Method(self.route)
        return made


def samples(site: str, size: int, width: int, seed: int = 0, rows: int = 0) -> tuple[Edits, ...]:
    """Faults to try a site with: a high bit, a middle one and a random one, spread over it.

    Args:
        site: its name.
        size: elements (of one row, where ``rows`` is given).
        width: bits per element.
        seed: varies the elements.
        rows: rows of the batch for an activation, else 0.
    """
    rng = np.random.default_rng([seed, size, width])
    positions = (width - 2, width // 2, int(rng.integers(width)))
    if width == _INDEX_BITS:
        positions = (0, 1, 2)  # 64 bits are indices: a high bit is an error, not a result
    row = rng.integers(rows, size=SAMPLES) if rows else np.full(SAMPLES, bits.NO_ROW)
    return tuple(
        bits.make((site,), 0, [int(rng.integers(size))], [1 << bit], row=[int(row[i])])
        for i, bit in enumerate(positions)
    )
