"""A case: what happens in one cell, fully resolved. Lean, because workers import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

from hwbench.backend import Site
from hwbench.registry import scenario
from hwbench.scenario import Condition, Replacement, Scenario


@dataclass(frozen=True)
class SiteFilter:
    """Which sites a scenario may hit, by glob patterns and kinds.

    Attributes:
        include: names of sites (or of the model's inputs), of which one must match.
        exclude: names of which none may match.
        kinds: what the tensor is to the kernel that reads it.
        layers: names of the first consumer, of which one must match.
        op_types: types of the first consumer, in the runtime's words.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("weight",)
    layers: tuple[str, ...] = ("*",)
    op_types: tuple[str, ...] = ("*",)

    def keeps(self, site: Site) -> bool:
        """Whether a site passes."""
        consumer = _matches(site.layer, self.layers) and _matches(site.op_type, self.op_types)
        return site.kind in self.kinds and consumer and self.keeps_name(site.name)

    def keeps_name(self, name: str) -> bool:
        """Whether a name passes, whatever its kind: for the model's inputs."""
        return _matches(name, self.include) and not _matches(name, self.exclude)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Layer:
    """One scenario of a stack.

    ``prepared`` is the folder of what was computed beforehand; see ``hwbench.prepared``.
    """

    scenario: Scenario
    sites: SiteFilter = SiteFilter()
    residence: str = "artifact"
    prepared: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, read back by ``layer_from``."""
        return {
            "scenario": self.scenario.name,
            "parameters": asdict(self.scenario),
            "sites": asdict(self.sites),
            "residence": self.residence,
            "prepared": self.prepared,
        }


def layer_from(content: Mapping[str, Any]) -> Layer:
    """A layer from its JSON form."""
    given = content["parameters"].items()
    parameters = {key: tuple(v) if isinstance(v, list) else v for key, v in given}
    made = scenario(content["scenario"])(**parameters)
    filters = {key: tuple(value) for key, value in content["sites"].items()}
    prepared = content.get("prepared", "")
    return Layer(made, SiteFilter(**filters), content["residence"], prepared)


def case_id(name: str, severity_name: str, severity: float | None) -> str:
    """The id of a case; severities that differ give ids that differ."""
    if severity is None:
        return name
    short = f"{severity:g}"
    return f"{name}@{severity_name}={short if float(short) == severity else repr(severity)}"


def cell_id(model: str, environment: str, case: str) -> str:
    """The name of a cell in records, from its place and the id of its case."""
    return f"{model}/{environment}/{case}"


@dataclass(frozen=True)
class Goal:
    """How well a campaign is to know a rate: it runs until then.

    Attributes:
        estimand: ``sdc_per_sample``, ``any_sdc`` or ``critical``; see ``hwbench.campaign``.
        margin: half-width of the interval.
        confidence: coverage of the interval.
        per_round: faults between looks.
    """

    estimand: Literal["sdc_per_sample", "any_sdc", "critical"] = "sdc_per_sample"
    margin: float = 0.01
    confidence: float = 0.99
    per_round: int = 200

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not 0 < self.margin < 0.5:
            raise ValueError(f"margin is the half-width of a rate, 0 to 0.5, not {self.margin:g}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence lies between 0 and 1, not at {self.confidence:g}")
        if self.per_round < 20:
            raise ValueError(f"per_round is at least 20 faults, not {self.per_round}")


@dataclass(frozen=True)
class Case:
    """A scenario at one severity: an empty stack is ``clean``.

    Attributes:
        name: the same for all severities of a scenario.
        severity_name: parameter that is the severity, empty for clean.
        severity: its value.
        patterns: number of random draws; with a campaign, as many as it needs.
        latency: whether latency is measured in this cell.
        campaign: what is to be reached instead of a number of patterns, or ``None``.
    """

    name: str
    layers: tuple[Layer, ...] = ()
    severity_name: str = ""
    severity: float | None = None
    patterns: int = 1
    latency: bool = False
    campaign: Goal | None = None

    @cached_property
    def id(self) -> str:
        """``noise-inputs@snr_db=20``."""
        return case_id(self.name, self.severity_name, self.severity)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """What constrains the process."""
        return tuple(each.scenario for each in self.layers if isinstance(each.scenario, Condition))

    @property
    def searched(self) -> bool:
        """Whether its severity is to be found: it is then no cell, but a row of ``limits``."""
        return any(each.searched for each in self.conditions)

    @property
    def replacement(self) -> Replacement | None:
        """The data that stand in for the spec's; such a case is a clean run on them."""
        found = (each.scenario for each in self.layers if isinstance(each.scenario, Replacement))
        return next(found, None)

    @property
    def perturbed(self) -> bool:
        """Whether anything changes numbers."""
        return len(self.conditions) < len(self.layers)

    @property
    def constraint(self) -> str:
        """The conditions in words, ``memory(limit_mib=512)``; empty without."""
        return "+".join(
            f"{'-'.join(filter(None, (each.name, each.variant)))}"
            f"({each.severity_name}={each.severity:g})"
            for each in self.conditions
        )

    @property
    def unit(self) -> str:
        """``pattern`` where any layer's draw is shared by all samples."""
        shared = any(layer.scenario.unit == "pattern" for layer in self.layers)
        return "pattern" if shared else "sample"


CLEAN = Case("clean", latency=True)
