"""Adversarial bit search: which few flips harm the most, found by trying them on the model.

Progressive as in Rakin, He and Fan, "Bit-Flip Attack: crushing neural network with progressive bit
search", ICCV 2019. Where there is no gradient, candidates are found by trying.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench import edits, values
from hwbench.backend import Array, Site
from hwbench.scenario import SearchPerturbation, Victim, parameter
from hwbench.seeds import Key

Floats = npt.NDArray[np.float64]
Flip = tuple[int, int, int]  # index of the site, flat element, bit

_POOL = 4096  # elements of a tensor whose bits are ranked in one step


@dataclass(frozen=True)
class BitSearch(SearchPerturbation):
    """The worst flips found by a progressive search, beside the random ones of ``bitflip``.

    Step by step one more bit of the stored tensors is flipped: of some candidates, each tried on
    a fixed set of attacked samples, the one with the highest loss. Fewer flips are the first ones
    of the same search. In each tensor the candidates are the bits with the largest first-order
    rise of the loss (gradient times change of value) where the runtime has gradients, and those
    with the largest change of value where not; half of the tries go to runners-up of earlier
    steps. The first step tries every tensor, later ones those that rose the loss most when tried
    last. A sample counts up to 20 nats of loss, and ln(classes) if its output is NaN or Inf,
    which is detected. The target is the label, or golden's decision without labels. Attacked
    samples are drawn from the dataset; accuracy is scored over all of it, them included.
    """

    name: ClassVar[str] = "bitsearch"
    severities: ClassVar[tuple[str, ...]] = ("count",)
    example: ClassVar[str] = "{bitsearch: {count: [5, 10, 20, 50]}}"

    count: int | None = parameter(None, "flips, the first ones of one search")
    samples: int = parameter(
        128, "attacked samples, drawn from the dataset; accuracy is scored with them included"
    )
    candidates: int = parameter(64, "flips tried in one step")
    tensors: int = parameter(4, "tensors tried in one step, after the first step")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.count is not None and self.count < 0:
            raise ValueError(f"count is a number of flips, 0 or more, not {self.count}")
        for name in ("samples", "candidates", "tensors"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a number of at least 1, not {getattr(self, name)}")

    @property
    def target(self) -> Literal["weights"]:
        """Stored tensors."""
        return "weights"

    @property
    def unit(self) -> Literal["sample"]:
        """Samples: the flips are found, not drawn from what usually happens."""
        return "sample"

    @property
    def attacked(self) -> int:
        """See ``SearchPerturbation.attacked``."""
        return self.samples

    def steps(self, victim: Victim, sites: Sequence[Site], key: Key) -> Iterator[edits.Edits]:
        """One flip a step."""
        state = _Search(self, victim, sites, key)
        for step in count():
            flip = state.next(step)
            if flip is None:
                raise ValueError(f"count asks for more flips than the {step} bits of the sites")
            yield state.edits(flip)


@dataclass
class _Search:
    """What a search remembers from step to step.

    Attributes:
        flipped: what was committed.
        known: the loss of flips that were tried and not taken, when they were tried last.
        promise: the highest loss that each site gave when it was tried last.
    """

    asked: BitSearch
    victim: Victim
    sites: Sequence[Site]
    key: Key
    flipped: set[Flip] = field(default_factory=set)
    known: dict[Flip, float] = field(default_factory=dict)
    promise: dict[int, float] = field(default_factory=dict)

    def edits(self, flip: Flip) -> edits.Edits:
        """One flip as edits."""
        site, element, bit = flip
        return edits.make(tuple(each.name for each in self.sites), site, [element], 1 << bit)

    def next(self, step: int) -> Flip | None:
        """The candidate with the highest loss; ``None`` where no bit is left."""
        tried = self._candidates(self._chosen(), step)
        if not tried and len(self.flipped) < sum(site.size * site.bits for site in self.sites):
            tried = self._candidates(list(range(len(self.sites))), step)
        if not tried:
            return None
        losses = self.victim.losses([self.edits(flip) for flip in tried])
        self._remember(tried, losses)
        best = tried[int(np.argmax(losses))]
        del self.known[best]
        self.flipped.add(best)
        return best

    def _remember(self, tried: Sequence[Flip], losses: Floats) -> None:
        for site in {flip[0] for flip in tried}:
            self.promise[site] = -np.inf
        for flip, loss in zip(tried, losses.tolist(), strict=True):
            self.known[flip] = loss
            self.promise[flip[0]] = max(self.promise[flip[0]], loss)

    def _chosen(self) -> list[int]:
        """Sites to try in this step, in topological order; all of them in the first."""
        order = sorted(range(len(self.sites)), key=lambda i: (-self.promise.get(i, np.inf), i))
        untried = len(self.sites) - len(self.promise)
        return sorted(order[: max(self.asked.tensors, untried)])

    def _candidates(self, chosen: Sequence[int], step: int) -> list[Flip]:
        """Runners-up of earlier steps, then fresh ones, alike many in each site; sites in order."""
        ranked = sorted(
            (flip for flip in self.known if flip[0] in chosen),
            key=lambda flip: (-self.known[flip], flip),
        )
        again = ranked[: self.asked.candidates // 2]
        each = max(1, (self.asked.candidates - len(again)) // len(chosen))
        fresh = [flip for i in chosen for flip in self._fresh(i, each, step)]
        return sorted([*again, *fresh], key=lambda flip: flip[0])

    def _fresh(self, index: int, wanted: int, step: int) -> list[Flip]:
        """The flips of a site that look worst and were not tried yet."""
        site = self.sites[index]
        stored = self.victim.stored(site.name).reshape(-1)
        pool = self.key.generator(site.name, step).permutation(stored.size)
        slope = self.victim.gradient(site.name)
        if slope is not None:  # the steepest ones, and in random order where slopes are equal
            pool = pool[np.argsort(-np.abs(slope.reshape(-1)[pool]), kind="stable")]
        pool = pool[:_POOL]
        rise = changes(stored[pool], site)
        rise = np.abs(rise) if slope is None else rise * slope.reshape(-1)[pool][:, None]
        found: list[Flip] = []
        for place in np.argsort(-np.where(np.isfinite(rise), rise, -np.inf), None, kind="stable"):
            row, bit = divmod(int(place), site.bits)
            flip = (index, int(pool[row]), bit)
            if len(found) == wanted:
                break
            if flip not in self.flipped and flip not in self.known:
                found.append(flip)
        return found


def changes(stored: Array, site: Site) -> Floats:
    """By how much each flip changes a stored value, shape (elements, bits); integers by code."""
    width = site.bits
    unsigned = np.ascontiguousarray(stored).view(f"u{width // 8}")
    one = np.ones(width, dtype=unsigned.dtype) << np.arange(width, dtype=unsigned.dtype)
    flipped = (unsigned[:, None] ^ one).view(stored.dtype)
    with np.errstate(all="ignore"):  # a flip may make NaN of a number; signalling ones warn
        return np.asarray(_numbers(flipped, site) - _numbers(stored, site)[:, None])


def _numbers(stored: Array, site: Site) -> Floats:
    return values.decode(stored, site) if site.dtype == "bfloat16" else stored.astype(np.float64)
