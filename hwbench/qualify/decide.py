"""The rule that turns limits into a verdict.

Pass where the upper limit of harm is at most the gate's limit. Fail where the lower limit is above
it, or where the interval has become narrower than the indifference zone and still reaches over the
limit: then the device is within the zone of it, and more data would only tell how little. Else
inconclusive. Limits hold at all looks together, so a device at the limit passes with a probability
of 1 - confidence at most, and one at the good end of the zone fails with no larger one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwbench.qualify.evidence import Evidence, Needs, Target
from hwbench.qualify.scale import Scale
from hwbench.spec.gates import GateSpec

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"


@dataclass(frozen=True)
class Decision:
    """A verdict on one gate and cell, in the metric's unit.

    Attributes:
        verdict: pass, fail or inconclusive.
        value: estimate.
        low: lower limit, or ``None`` where there is no interval.
        high: upper limit.
        note: why, in one line.
        needs: what would decide; ``None`` where it is decided.
    """

    verdict: str
    value: float
    low: float | None
    high: float | None
    note: str
    needs: Needs | None = None


def target(gate: GateSpec, scale: Scale) -> Target:
    """The ends of the gate's zone as harm."""
    return Target(scale.to(gate.limit), _good(gate, scale), 1 - gate.confidence)


def _good(gate: GateSpec, scale: Scale) -> float:
    try:
        return scale.to(gate.good)
    except ValueError:  # the logarithm of a zone as wide as the limit
        return -math.inf


def decide(
    gate: GateSpec, evidence: Evidence, scale: Scale, tests: int = 1, *, plan: bool = True
) -> Decision:
    """The verdict.

    Args:
        gate: the requirement.
        evidence: on it.
        scale: that the evidence is on.
        tests: verdicts that share the error of a wrong *fail* (Bonferroni). A wrong overall pass
            needs no such care: it takes a wrong pass of the very gate that is not kept.
        plan: whether to find out what would decide, which may take seconds.
    """
    aim = target(gate, scale)
    value = scale.back(evidence.value)
    found = evidence.bounds(aim.alpha / tests, aim.alpha)
    if isinstance(found, str):
        needs = evidence.needs(aim) if plan else None
        return Decision(INCONCLUSIVE, value, None, None, found, needs)
    low, high = found
    verdict, note = _verdict(low, high, aim)
    needs = evidence.needs(aim) if plan and verdict == INCONCLUSIVE else None
    return Decision(verdict, value, *scale.interval(low, high), note, needs)


def _verdict(low: float, high: float, aim: Target) -> tuple[str, str]:
    if high <= aim.limit:
        return PASS, "the interval keeps the limit"
    if low > aim.limit:
        return FAIL, "the interval lies beyond the limit"
    if high - low <= aim.zone and low > aim.good:
        return FAIL, "within the indifference zone of the limit: it cannot be shown to be kept"
    return INCONCLUSIVE, "the interval reaches over the limit"
