"""The single faults of a case on a deployment: what a campaign shares out, and what became of them.

Pure: sites and rows in, the campaign and the next faults out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwbench.backend import Site
from hwbench.campaign import ANY_SITE, Campaign, Progress, Stratum, outcome, pooled
from hwbench.case import Case, Goal
from hwbench.errors import Unsupported
from hwbench.job import Assigned
from hwbench.scenario import SingleFaultPerturbation


@dataclass(slots=True)
class Tally:
    """What a pattern did, summed over the batches that have a record.

    Attributes:
        batches: with a record.
        n_sdc: samples whose decision changed silently.
        n_lost: samples whose decision changed or broke, or that have none: the trial failed.
    """

    batches: int = 0
    n_sdc: int = 0
    n_lost: int = 0

    def add(self, record: Mapping[str, Any], n_samples: int, batch: int) -> None:
        """One more batch; a trial that failed (null counts) has no decisions at all.

        Args:
            record: a row of ``records`` with at least ``batch``, ``n_sdc`` and ``n_due``.
            n_samples: scored samples of the dataset.
            batch: samples per batch.
        """
        n_sdc, size = record["n_sdc"], min(batch, n_samples - record["batch"] * batch)
        self.batches += 1
        self.n_sdc += n_sdc or 0
        self.n_lost += size if n_sdc is None else n_sdc + (record["n_due"] or 0)

    def counted(self, goal: Goal) -> int:
        """Samples that count for an estimand: what is silent, or all harm where it is critical."""
        return self.n_lost if goal.estimand == "critical" else self.n_sdc


def tallies(records: Iterable[Mapping[str, Any]], n_samples: int, batch: int) -> dict[int, Tally]:
    """What each pattern of a cell did, from its records: at most one per pattern and batch."""
    found: dict[int, Tally] = {}
    for each in records:
        found.setdefault(each["pattern"], Tally()).add(each, n_samples, batch)
    return found


@dataclass(frozen=True)
class Population:
    """The strata of a case's faults on one deployment.

    Attributes:
        campaign: over the strata.
        members: sites of each stratum.
        goal: of the case.
    """

    campaign: Campaign
    members: tuple[tuple[str, ...], ...]
    goal: Goal

    def progress(self, tallies: Mapping[int, Tally], n_batches: int, n_samples: int) -> Progress:
        """Where the campaign stands; patterns count from 0 up to the first that is not finished."""
        known: list[float] = []
        while (found := tallies.get(len(known))) and found.batches >= n_batches:
            known.append(outcome(self.goal.estimand, found.counted(self.goal), n_samples))
        return self.campaign.progress(known)

    def assigned(self, progress: Progress, patterns: Iterable[int]) -> dict[int, Assigned]:
        """The faults of some patterns; the next round's are there, too."""
        found = {}
        for pattern in patterns:
            stratum, n = progress.faults[pattern]
            found[pattern] = Assigned(self.members[stratum], self.campaign.strata[stratum].field, n)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, read back by ``from_json``."""
        strata = [
            {**asdict(each), "sites": members}
            for each, members in zip(self.campaign.strata, self.members, strict=True)
        ]
        return {"goal": asdict(self.goal), "strata": strata}


def from_json(content: Mapping[str, Any]) -> Population:
    """A population from its JSON form."""
    strata = [Stratum(each["site"], each["field"], each["size"]) for each in content["strata"]]
    members = tuple(tuple(each["sites"]) for each in content["strata"])
    return _made(strata, members, Goal(**content["goal"]))


def _made(
    strata: Sequence[Stratum], members: tuple[tuple[str, ...], ...], goal: Goal
) -> Population:
    campaign = Campaign(tuple(strata), goal.estimand, goal.margin, goal.confidence, goal.per_round)
    return Population(campaign, members, goal)


def population(case: Case, sites: Sequence[Site]) -> Population:
    """Strata by site and bit field, pooled within a field until a round can hold them.

    Raises:
        Unsupported: there is no such fault on these sites.
    """
    goal, (layer,) = case.campaign, case.layers
    assert goal is not None
    assert isinstance(layer.scenario, SingleFaultPerturbation)
    sizes = layer.scenario.strata([site for site in sites if layer.sites.keeps(site)])
    if not sizes:
        raise Unsupported(
            f"{case.id} finds no single fault to sample: {layer.sites}."
            " Hint: bits, fields or sites ask for what this deployment does not have"
        )
    few = pooled((Stratum(*key, size) for key, size in sizes.items()), goal.per_round)
    own = {(each.site, each.field) for each in few if each.site != ANY_SITE}
    members = tuple(
        (each.site,)
        if each.site != ANY_SITE
        else tuple(
            site for site, field in sizes if field == each.field and (site, field) not in own
        )
        for each in few
    )
    return _made(few, members, goal)
