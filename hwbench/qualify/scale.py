"""Every metric as harm: a number that is worse the larger it is, so that one rule decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hwbench.spec.gates import DECIBELS, RISING, SOAKS, TIMES, GateSpec


@dataclass(frozen=True)
class Scale:
    """A monotone map between a metric and harm.

    Attributes:
        to: from the metric.
        back: to the metric.
    """

    to: Callable[[float], float]
    back: Callable[[float], float]

    def interval(self, low: float, high: float) -> tuple[float, float]:
        """Limits of harm as limits of the metric, the lower one first."""
        ends = self.back(low), self.back(high)
        return min(ends), max(ends)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


PLAIN = Scale(lambda x: x, lambda x: x)
MISSING = Scale(lambda x: 1 - x, lambda x: 1 - x)
TURNED = Scale(lambda x: -x, lambda x: -x)
LOG = Scale(math.log, _exp)
SLOWNESS = Scale(lambda x: -math.log(x), lambda x: _exp(-x))


def of_gate(gate: GateSpec) -> Scale:
    """The scale that a gate's metric is judged on."""
    rising = gate.metric in RISING and gate.versus == "absolute"
    if gate.metric in TIMES:
        return SLOWNESS if rising else LOG
    if gate.metric in SOAKS:
        return LOG
    if gate.metric in DECIBELS:
        return TURNED
    return MISSING if rising else PLAIN
