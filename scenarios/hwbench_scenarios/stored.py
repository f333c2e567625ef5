"""What the fault models of stored bits share: how many, which channels, which bits of a word."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench import edits, fields
from hwbench.backend import Site, TensorSpec
from hwbench.errors import Unsupported
from hwbench.scenario import EditPerturbation, parameter
from hwbench.seeds import Key
from hwbench_scenarios import places
from hwbench_scenarios.places import Places

EXPOSURE = (
    "resident: the same fault in every inference; transient: each has its own draw, a sample of"
    " inputs and activations, a batch for weights; if absent weights are resident, others transient"
)

Masks = npt.NDArray[np.uint64]
Hits = tuple[Places, Masks]  # flat element and mask, one entry per edited element


@dataclass(frozen=True)
class Checked(EditPerturbation):
    """The end of the chain in which every part refuses what means nothing to it."""

    def __post_init__(self) -> None:
        """Nothing is refused here."""


@dataclass(frozen=True)
class Exposed(Checked):
    """What is hit, and for how long."""

    target: Literal["weights", "inputs", "activations"] = parameter("weights", "what is hit")
    exposure: Literal["resident", "transient"] | None = parameter(None, EXPOSURE)

    @property
    def resident(self) -> bool:
        """Stored tensors keep a fault unless asked otherwise; data passes."""
        return (self.exposure or ("resident" if self.target == "weights" else "")) == "resident"

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """``sample`` where every sample has a draw of its own."""
        return "pattern" if self.resident or self.target == "weights" else "sample"

    @property
    def variant(self) -> str:
        """The exposure, where it is not the usual one."""
        return self.exposure or ""


@dataclass(frozen=True)
class Drawn(Exposed):
    """Faults at a rate, or a fixed number of them, nested in either.

    Class attributes:
        noun: what is counted, for messages.
        per: what a place is, for messages.
    """

    severities: ClassVar[tuple[str, ...]] = ("rate", "count")
    noun: ClassVar[str] = "flips"
    per: ClassVar[str] = "bit"

    rate: float | None = parameter(None, "probability of a fault, per bit (or word, or run)")
    count: int | None = parameter(None, "faults per pattern, at distinct places")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise ValueError(f"rate is a probability per {self.per}, 0 to 1, not {self.rate:g}")
        if self.count is not None and self.count < 0:
            raise ValueError(f"count is a number of {self.noun}, 0 or more, not {self.count}")

    @property
    def op(self) -> edits.Op:
        """What is done to the masked bits."""
        return edits.Op.FLIP

    @abstractmethod
    def places(self, site: Site) -> int:
        """How many places of a site a fault can begin at."""

    @abstractmethod
    def hit(self, site: Site, at: Places, key: Key) -> Hits:
        """What faults at some distinct places (in the order drawn) do to a site.

        ``key`` is this pattern's and site's.
        """

    def draw(self, sites: Sequence[Site], key: Key, row: int = edits.NO_ROW) -> edits.Edits:
        """The faults of one pattern, over the sites in the order given."""
        names = tuple(site.name for site in sites)
        sizes = [self.places(site) for site in sites]
        if sites and not any(sizes):
            raise nowhere(self.name, names)
        if self.rate is not None:
            found = places.at_rate(sizes, names, self.rate, key)
        else:
            found = places.counted(sizes, int(self.count or 0), key, self.noun, self.per)
        parts = [
            edits.make(names, index, *self.hit(site, at, key.child(site.name)), self.op, row)
            for index, (site, at) in enumerate(zip(sites, found, strict=True))
        ]
        return edits.concatenate(parts) if parts else edits.none(names)


def nowhere(scenario: str, sites: Sequence[str]) -> Unsupported:
    """The refusal of sites that have none of the places asked for."""
    listed = ", ".join(map(repr, sites[:3])) + (", ..." if len(sites) > 3 else "")
    return Unsupported(
        f"{scenario} finds no place in {listed}."
        f" Hint: bits, field, channels or a length ask for what these tensors do not have"
    )


@dataclass(frozen=True)
class Channelled(Checked):
    """Restricted to some channels of each tensor."""

    channels: tuple[int, ...] | None = parameter(None, "only these channels; a list, from 0")
    axis: int | None = parameter(
        None, "axis of channels; if absent the last one of a MatMul's weights, else the first"
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.channels is not None and (not self.channels or min(self.channels) < 0):
            raise ValueError(f"channels are numbered from 0, not {list(self.channels)}")
        if self.axis is not None and self.channels is None:
            raise ValueError("axis belongs to channels, which are not given")

    def elements(self, site: Site) -> places.Elements:
        """The elements that can be hit."""
        usual = -1 if site.op_type == "MatMul" else 0
        return places.elements(site.shape, self.channels, usual if self.axis is None else self.axis)


@dataclass(frozen=True)
class InBits(Checked):
    """Restricted to some bits of each element."""

    bits: tuple[int, ...] | None = parameter(
        None, "only these bits of an element; a list, 0 is the lowest"
    )
    field: Literal["sign", "exponent", "mantissa"] | None = parameter(
        None, "only this field of floating-point elements"
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.bits is not None and self.field is not None:
            raise ValueError("give bits or field, not both")
        if self.bits is not None and (not self.bits or min(self.bits) < 0):
            raise ValueError(f"bits are numbered from 0, not {list(self.bits)}")
        if self.bits is not None and max(self.bits) > 63:
            raise ValueError(f"bits end at 63, not at {max(self.bits)}")

    @property
    def variant(self) -> str:
        """The bits asked for, so that cells that differ in them are told apart."""
        bits = "" if self.bits is None else "bit" + ".".join(map(str, self.bits))
        return "-".join(filter(None, (self.field or bits, super().variant)))

    def refuses(self, tensor: TensorSpec) -> str:
        """An input without the bits asked for; stored tensors are known to the worker alone."""
        if self.eligible(Site(tensor.name, "input", tensor.dtype, ())):
            return ""
        asked = self.field or f"bits {', '.join(map(str, self.bits or ()))}"
        return f"{tensor.name!r} is {tensor.dtype}, which has no {asked}. Hint: give other bits"

    def eligible(self, site: Site) -> tuple[int, ...]:
        """The bits of this site's elements that can be hit, ascending."""
        if self.field is not None:
            return fields.fields(site.dtype).get(self.field, ())
        if self.bits is not None:
            return tuple(sorted({bit for bit in self.bits if bit < site.bits}))
        return tuple(range(site.bits))


def merged(element: Places, mask: Masks) -> Hits:
    """One entry per element, its masks joined: where faults overlap, they do not cancel out."""
    unique, inverse = np.unique(element, return_inverse=True)
    joined = np.zeros(unique.size, dtype=np.uint64)
    np.bitwise_or.at(joined, inverse, mask)
    return unique, joined


def bit_mask(bit: Places) -> Masks:
    """Masks of single bits."""
    return np.left_shift(np.uint64(1), bit.astype(np.uint64))
