"""A time budget, resolved once to smaller counts: never to fewer cells, never in silence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hwbench.errors import RequestError
from hwbench.plan import Deployment, Plan
from hwbench.spec import Spec
from hwbench.state import Place, State

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
RESERVE = 0.9  # estimates come from one clean pass
MIN_PROCESSES = 3  # below that no interval of latency can be given


def seconds(text: str) -> float:
    """``90s``, ``30m`` or ``2h`` in seconds.

    Raises:
        RequestError: anything else.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smh])\s*", text)
    if not match or float(match[1]) == 0:
        hint = "a number with s, m or h, such as 30m."
        raise RequestError(f"{text!r} is no time.", where="budget", hint=hint)
    return float(match[1]) * UNITS[match[2]]


@dataclass(frozen=True)
class Cost:
    """What the clean pass of an environment cost, in seconds."""

    start_s: float
    load_s: float
    batch_s: float


def costs(plan: Plan, state: State) -> dict[Place, Cost]:
    """What each clean pass told."""
    batches = {each.key: each.subject.n_batches for each in plan.deployments}
    found = {}
    for place, row in state.clean.items():
        load, run = row["load_ms"] / 1e3, row["run_ms"] / 1e3
        # The clean pass runs every batch, and the first one again to see that it repeats.
        found[place] = Cost(row["wall_s"] - load - run, load, run / (batches[place] + 1))
    return found


@dataclass(frozen=True)
class Resolved:
    """A spec whose counts fit the budget.

    Attributes:
        spec: with fewer patterns and processes.
        share: of the asked patterns that is run.
        estimate_s: estimated time of what is left, at the reduced counts.
        fits: whether that is within the budget; the smallest counts may not be.
    """

    spec: Spec
    share: float
    estimate_s: float
    fits: bool


def accuracy_s(plan: Plan, costs: dict[Place, Cost], share: float, workers: int) -> float:
    """Estimated time of the perturbed cells."""
    total = 0.0
    for each in plan.deployments:
        cost = costs.get(each.key)
        if cost is not None:
            total += cost.start_s + sum(
                _reduced(case.patterns, share) * _pattern_s(each, case.unit, cost)
                for case in plan.perturbed(each)
            )
    return total / workers


def latency_s(plan: Plan, costs: dict[Place, Cost], share: float) -> float:
    """Estimated time of the latency blocks."""
    latency = plan.spec.latency
    if latency is None:
        return 0.0
    arms = sum(case.latency for case in plan.cases) * len(latency.batch) * len(latency.use)
    once = sum(
        cost.start_s + 2 * cost.load_s + latency.warmup_s + latency.min_duration_s
        for cost in costs.values()
    )
    return _processes(latency.processes, share) * arms * once


def _pattern_s(deployment: Deployment, unit: str, cost: Cost) -> float:
    load = 2 * cost.load_s if unit == "pattern" else 0.0  # corrupting costs about a load
    return load + deployment.subject.n_batches * cost.batch_s


def _reduced(count: int, share: float) -> int:
    return max(1, int(count * share))


def _processes(count: int, share: float) -> int:
    return min(count, max(MIN_PROCESSES, int(count * share)))


def resolve(plan: Plan, costs: dict[Place, Cost], left_s: float, workers: int) -> Resolved:
    """The largest share of patterns and processes whose estimate fits into ``left_s``."""

    def estimate(share: float) -> float:
        return accuracy_s(plan, costs, share, workers) + latency_s(plan, costs, share)

    low, high = 0.0, 1.0
    if estimate(1.0) <= RESERVE * left_s:
        low = 1.0
    else:
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if estimate(middle) <= RESERVE * left_s else (low, middle)
    fits = estimate(low) <= left_s
    return Resolved(_with_share(plan.spec, low), low, estimate(low), fits)


def _with_share(spec: Spec, share: float) -> Spec:
    scenarios = [_scaled(entry, share) for entry in spec.scenarios]
    latency = spec.latency and spec.latency.model_copy(
        update={"processes": _processes(spec.latency.processes, share)}
    )
    return spec.model_copy(update={"scenarios": scenarios, "latency": latency, "budget": None})


def _scaled(entry: Any, share: float) -> Any:
    if isinstance(entry, list):
        return [_scaled(each, share) for each in entry]
    if isinstance(entry, dict) and "patterns" in entry:
        return {**entry, "patterns": _reduced(entry["patterns"], share)}
    return entry
