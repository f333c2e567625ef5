"""What a tool's process tells, and what every tool shares: draws, stopwatch, and taking turns.

Imports NumPy only: other tools' environments hold little else.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Turn = Callable[[float], None]  # given the share that is done
Integers = npt.NDArray[np.int64]

PARAMETERS, LAYERS = "weights/parameters", "weights/layers"
NEURONS, ONE_NEURON = "neurons, one a row", "neurons, one a run"


@dataclass(frozen=True)
class Measured:
    """One kind of fault in one deployment.

    Attributes:
        tool: whose injector.
        deployment: what runs the network, and in which precision.
        network: its name.
        target: how faults were drawn.
        faults: how many were timed.
        fault_ms: CPU time of one.
        fault_wall_ms: the same by the clock.
        forward_ms: CPU time of the same deployment's bare forward pass, interleaved; median.
        forward_wall_ms: the same by the clock.
        ready_s: CPU time of what is done once and is not in ``fault_ms``.
        wrong: faults that did not land, gave other bytes than the independent run, or stayed.
        checked: faults that were compared.
        note: what a reader must know.
        failed: the process ended before it had told everything; why is in ``note``.
    """

    tool: str
    deployment: str
    network: str
    target: str
    faults: int = 0
    fault_ms: float = 0.0
    fault_wall_ms: float = 0.0
    forward_ms: float = 0.0
    forward_wall_ms: float = 0.0
    ready_s: float = 0.0
    wrong: int = 0
    checked: int = 0
    note: str = ""
    failed: bool = False

    @property
    def per_second(self) -> float:
        """Faults per second of CPU time."""
        return 1e3 / self.fault_ms if self.faults else 0.0

    @property
    def multiple(self) -> float:
        """Faults in the time of a bare forward pass."""
        return self.forward_ms / self.fault_ms if self.faults else 0.0

    @property
    def wall_multiple(self) -> float:
        """The same by the clock."""
        return self.forward_wall_ms / self.fault_wall_ms if self.faults else 0.0

    def tell(self) -> None:
        """Write one line for the parent."""
        print(json.dumps(asdict(self)), flush=True)


def wait_for_turn(target: str, done: float) -> None:
    """Let the other tools work: tell the parent how far a target is, and wait for its word.

    A machine's speed drifts by tens of per cent in half a minute, so tools are not compared one
    after the other: each does a little in turn, and none while another does.

    Args:
        target: how faults are drawn.
        done: share of them that is done.
    """
    print(json.dumps({"target": target, "done": done}), flush=True)
    sys.stdin.readline()


def alone(done: float) -> None:
    """No other tool waits."""


@dataclass
class Clock:
    """CPU and wall time of repeated work, in milliseconds."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], T]) -> T:
        """Do the work once and add its time."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.cpu.append(1e3 * (time.process_time() - cpu))
        self.wall.append(1e3 * (time.perf_counter() - wall))
        return result


@dataclass
class Bench:
    """The clocks and counts of one kind of fault."""

    ready: Clock = field(default_factory=Clock)
    forward: Clock = field(default_factory=Clock)
    injected: Clock = field(default_factory=Clock)
    faults: int = 0
    wrong: int = 0
    checked: int = 0

    def check(self, right: bool, faults: int = 1) -> None:
        """Count a comparison of so many faults run together."""
        self.checked += faults
        self.wrong += 0 if right else faults

    def measured(
        self, tool: str, deployment: str, network: str, target: str, note: str = ""
    ) -> Measured:
        """What to tell of it."""
        return Measured(
            tool,
            deployment,
            network,
            target,
            self.faults,
            sum(self.injected.cpu) / self.faults,
            sum(self.injected.wall) / self.faults,
            median(self.forward.cpu),
            median(self.forward.wall),
            sum(self.ready.cpu) / 1e3,
            self.wrong,
            self.checked,
            note,
        )


def spread(
    sizes: Integers, faults: int, layers: int, rng: np.random.Generator, *, alike: bool
) -> list[tuple[int, int]]:
    """Which layers are hit, and how often: ``faults`` in all, by layer or by parameter.

    Few layers are a systematic sample with probabilities by weight and as many faults in each, so
    that the mean cost of a fault is estimated without bias and each layer is visited with as many
    faults as in a campaign.

    Args:
        sizes: parameters of each layer.
        faults: how many.
        layers: how many layers at most.
        rng: where randomness comes from.
        alike: every layer alike, else every parameter alike.

    Returns:
        Layer and number of faults, by ascending layer.
    """
    weight = np.ones(len(sizes)) if alike else sizes.astype(np.float64)
    share = weight / weight.sum()
    if layers >= len(sizes):
        counts = rng.multinomial(faults, share)
    else:
        at = (np.arange(layers) + rng.random()) / layers
        hit = np.searchsorted(np.cumsum(share), at, side="right").clip(max=len(sizes) - 1)
        counts = np.bincount(hit, minlength=len(sizes)) * max(1, faults // layers)
    return [(int(layer), int(counts[layer])) for layer in np.flatnonzero(counts)]
