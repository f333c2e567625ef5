"""Temperature and voltage as a bit error rate, by the user's own measured table."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

from hwbench import edits
from hwbench.backend import Site
from hwbench.scenario import EditPerturbation, parameter
from hwbench.seeds import Key
from hwbench_scenarios.bitflip import BitFlip

RATE = "ber"


@dataclass(frozen=True)
class _ByTable(EditPerturbation):
    """Bit flips at the rate that a table gives for an operating point.

    Between the table's points the logarithm of the rate is interpolated linearly; outside them
    nothing is known, and it is refused. Rates that differ in nothing but the operating point draw
    nested flips, like ``bitflip``.
    """

    table: str = parameter("", "CSV with the operating point and `ber`, errors per bit; or example")
    target: Literal["weights", "inputs"] = parameter("weights", "what is hit")

    def __post_init__(self) -> None:
        """Refuse a table that cannot be read, and a point outside of it."""
        if not self.table:
            raise ValueError("table is missing: which rates hold is for a measurement to say")
        _ = self.rate

    @property
    def rate(self) -> float:
        """The bit error rate at this operating point."""
        return interpolated(
            _points(_found(self.table, self.name), self.severity_name), self.severity
        )

    @property
    def unit(self) -> Literal["pattern", "sample"]:
        """See ``Scenario.unit``."""
        return self.flips.unit

    @property
    def flips(self) -> BitFlip:
        """The bit flips this comes to."""
        return BitFlip(target=self.target, rate=self.rate)

    @property
    def identity(self) -> dict[str, Any]:
        """That of the bit flips: the same chip at another temperature, or at a rate given."""
        return replace(self.flips, rate=0.0).identity

    def draw(self, sites: Sequence[Site], key: Key, row: int = edits.NO_ROW) -> edits.Edits:
        """See ``EditPerturbation.draw``."""
        return self.flips.draw(sites, key, row)


@dataclass(frozen=True)
class Temperature(_ByTable):
    """Bit flips at the rate that a table gives for a temperature."""

    name: ClassVar[str] = "temperature"
    severities: ClassVar[tuple[str, ...]] = ("celsius",)
    example: ClassVar[str] = "{temperature: {table: example, celsius: [25, 85]}, patterns: 20}"

    celsius: float | None = parameter(None, "temperature of the memory", "°C")


@dataclass(frozen=True)
class Voltage(_ByTable):
    """Bit flips at the rate that a table gives for a supply voltage."""

    name: ClassVar[str] = "voltage"
    severities: ClassVar[tuple[str, ...]] = ("volts",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "{voltage: {table: example, volts: [0.8, 0.7]}, patterns: 20}"

    volts: float | None = parameter(None, "supply voltage of the memory", "V")


def _found(table: str, name: str) -> Path:
    """The user's file, or the one that is shipped to show the form."""
    if table == "example":
        return Path(__file__).parent / "tables" / f"ber_by_{name}.csv"
    return Path(table).expanduser()


@cache
def _points(path: Path, column: str) -> tuple[tuple[float, float], ...]:
    """(operating point, rate), rising.

    Raises:
        ValueError: no such file, columns or numbers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"table {path} cannot be read ({error})") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    try:
        points = sorted((float(row[column]), float(row[RATE])) for row in rows)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"table {path} needs numbers in columns {column} and {RATE}") from None
    rates_hold = all(0 < rate <= 1 and math.isfinite(at) for at, rate in points)
    if len({at for at, _ in points}) < max(2, len(points)) or not rates_hold:
        raise ValueError(f"table {path} needs two distinct points or more, rates above 0 up to 1")
    return tuple(points)


def interpolated(points: Sequence[tuple[float, float]], at: float) -> float:
    """The rate at a point: its logarithm is linear between neighbours.

    Raises:
        ValueError: the point lies outside the table.
    """
    low, high = points[0][0], points[-1][0]
    if not low <= at <= high:
        raise ValueError(f"{at:g} is outside the table, which goes from {low:g} to {high:g}")
    for (left, first), (right, second) in pairwise(points):
        if at <= right:
            share = (at - left) / (right - left)
            return math.exp((1 - share) * math.log(first) + share * math.log(second))
    raise AssertionError("unreachable: the last point bounds the range")
