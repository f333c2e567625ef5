"""Other people's injectors on torch modules: one driver, and a check that trusts none of them.

Every fault is one random bit of one fp32 number. The check repeats it on a copy that the tool has
never seen: the bit is flipped by hand, the whole network is run, and the outputs are compared byte
by byte; the bit must have been flipped in the tool's own model, and be back afterwards.
"""

from __future__ import annotations

import argparse
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.images import images
from benchmarks.injectors.measured import (
    LAYERS,
    NEURONS,
    ONE_NEURON,
    PARAMETERS,
    Bench,
    Turn,
    alone,
    spread,
    wait_for_turn,
)
from benchmarks.networks import NETWORKS, Network

BITS = 32
Layer = nn.Conv2d | nn.Linear
HIT = (nn.Conv2d, nn.Linear)


class Fault(NamedTuple):
    """A flipped bit: of a layer's weight, or of its output in a row of the batch."""

    layer: int
    element: int
    bit: int
    row: int = -1


class Injector(ABC):
    """A tool, driven as its documentation does it."""

    name: str

    @abstractmethod
    def __init__(self, module: nn.Module, network: Network) -> None:
        """Take over a module of its own."""

    @abstractmethod
    def weight(self, fault: Fault, x: Tensor) -> Tensor:
        """The network's outputs with one fault in a weight; what an earlier fault did is gone."""

    @abstractmethod
    def neurons(self, faults: Sequence[Fault], shape: torch.Size, x: Tensor) -> Tensor:
        """The network's outputs with faults in one layer's output, which has this shape."""

    @property
    @abstractmethod
    def faulty(self) -> nn.Module:
        """The module that was run last."""

    @abstractmethod
    def intact(self, x: Tensor) -> tuple[nn.Module, Tensor]:
        """A module that should be as it was, and its outputs."""


def flip(tensor: Tensor, element: int, bit: int) -> None:
    """Flip a bit of a contiguous fp32 tensor in place."""
    assert tensor.is_contiguous()
    numbers = tensor.detach().view(torch.int32).view(-1)
    numbers[element] ^= -(2**31) if bit == BITS - 1 else 1 << bit


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two fp32 tensors are equal to the byte."""
    return torch.equal(a.detach().view(torch.int32), b.detach().view(torch.int32))


def layers_of(module: nn.Module) -> list[Layer]:
    """Convolutions and linear layers in the order of their registration and execution."""
    return [each for each in module.modules() if isinstance(each, HIT)]


@dataclass
class Rig:
    """A tool on a network, beside a module that the tool never sees."""

    injector: Injector
    network: Network
    reference: nn.Module
    x: Tensor

    @classmethod
    def of(cls, tool: type[Injector], network: Network) -> Rig:
        """Both modules have the same seeded weights."""
        x = torch.from_numpy(images(network.batch, network.shape))
        return cls(tool(network.factory(), network), network, network.factory(), x)

    def forward(self) -> Tensor:
        """The bare forward pass."""
        with torch.no_grad():
            result: Tensor = self.reference(self.x)
        return result

    def outputs(self) -> list[torch.Size]:
        """Shapes of the layers' outputs."""
        seen: list[Tensor] = []
        handles = [
            each.register_forward_hook(lambda _m, _i, output: seen.append(output))
            for each in layers_of(self.reference)
        ]
        self.forward()
        for handle in handles:
            handle.remove()
        return [each.shape for each in seen]

    def right_weight(self, fault: Fault) -> bool:
        """Whether a weight fault landed, gave the right outputs, and went away."""
        made = self.injector.weight(fault, self.x)
        copied = copy.deepcopy(self.reference)
        flip(layers_of(copied)[fault.layer].weight, fault.element, fault.bit)
        with torch.no_grad():
            wanted = copied(self.x)
        landed = self._same_state(self.injector.faulty, copied)
        return landed and same(made, wanted) and self._restored()

    def right_neurons(self, faults: Sequence[Fault], shape: torch.Size) -> bool:
        """The same for faults in one layer's output."""
        seen, clean, hit = list[Tensor](), list[Tensor](), faults[0].layer
        size = shape[1:].numel()

        def by_hand(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            clean.append(output.clone())
            for each in faults:
                flip(output, each.row * size + each.element, each.bit)
            return output

        made = self._watched(lambda: self.injector.neurons(faults, shape, self.x), hit, seen)
        handle = layers_of(self.reference)[hit].register_forward_hook(by_hand)
        wanted = self.forward()
        handle.remove()
        for each in faults:
            flip(clean[0], each.row * size + each.element, each.bit)
        return same(seen[-1], clean[0]) and same(made, wanted) and self._restored()

    def _watched(self, run: Callable[[], Tensor], layer: int, seen: list[Tensor]) -> Tensor:
        """Run, and keep the layer's output; a tool may run a module that it makes on the way.

        Outputs are kept by reference and read afterwards: both tools write into them.
        """
        passed = list[tuple[nn.Module, Tensor]]()
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, _inputs, output: passed.append((module, output))
        )
        try:
            made = run()
        finally:
            handle.remove()
        hit = layers_of(self.injector.faulty)[layer]
        seen.extend(output for module, output in passed if module is hit)
        return made

    def _restored(self) -> bool:
        module, outputs = self.injector.intact(self.x)
        return self._same_state(module, self.reference) and same(outputs, self.forward())

    def _same_state(self, a: nn.Module, b: nn.Module) -> bool:
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        return all(same(one, other) for one, other in pairs)


@dataclass
class Driver:
    """Times a tool, a bare forward pass before every run, and checks some of its faults."""

    rig: Rig
    rng: np.random.Generator
    faults: int
    checks: int
    turn: Turn = alone

    def weights(self, *, alike: bool) -> Bench:
        """Faults in weights, every layer alike or every parameter alike."""
        layers = layers_of(self.rig.reference)
        sizes = np.array([each.weight.numel() for each in layers])
        hit = spread(sizes, self.faults, len(sizes), self.rng, alike=alike)
        drawn = [self._drawn(layer, int(sizes[layer])) for layer, n in hit for _ in range(n)]
        bench, injector, x = Bench(), self.rig.injector, self.rig.x
        self._time(bench, [partial(injector.weight, each, x) for each in drawn], 1)
        for index in self.rng.permutation(len(drawn))[: self.checks]:
            bench.check(self.rig.right_weight(drawn[index]))
        return bench

    def neurons(self, each: int) -> Bench:
        """Faults in layers' outputs, every layer alike, ``each`` (one a row) in one run."""
        shapes, rows = self.rig.outputs(), len(self.rig.x)
        groups = list[tuple[list[Fault], torch.Size]]()
        for layer in self.rng.integers(len(shapes), size=max(2, self.faults // 3)):
            size = shapes[layer][1:].numel()
            hit = np.arange(rows) if each > 1 else self.rng.integers(rows, size=1)
            drawn = [self._drawn(int(layer), size, int(row)) for row in hit]
            groups.append((drawn, shapes[layer]))
        bench, injector, x = Bench(), self.rig.injector, self.rig.x
        self._time(bench, [partial(injector.neurons, *group, x) for group in groups], each)
        for group in groups[: self.checks]:
            bench.check(self.rig.right_neurons(*group), len(group[0]))
        return bench

    def _time(self, bench: Bench, runs: Sequence[Callable[[], Tensor]], each: int) -> None:
        bench.ready.time(runs[0])
        for index, run in enumerate(runs):
            self.turn(index / len(runs))
            bench.forward.time(self.rig.forward)
            bench.injected.time(run)
            bench.faults += each

    def _drawn(self, layer: int, size: int, row: int = -1) -> Fault:
        return Fault(layer, int(self.rng.integers(size)), int(self.rng.integers(BITS)), row)


def main(tool: type[Injector], notes: dict[str, str]) -> None:
    """Measure a tool and tell the parent.

    Args:
        tool: the injector.
        notes: by target, what a reader must know of how it was driven.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--faults", type=int, required=True)
    parser.add_argument("--checks", type=int, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    network = NETWORKS[asked.network]
    driver = Driver(Rig.of(tool, network), np.random.default_rng(0), asked.faults, asked.checks)
    kinds: dict[str, Callable[[], Bench]] = {
        PARAMETERS: lambda: driver.weights(alike=False),
        LAYERS: lambda: driver.weights(alike=True),
        ONE_NEURON: lambda: driver.neurons(1),
        NEURONS: lambda: driver.neurons(network.batch),
    }
    for target, run in kinds.items():
        note, driver.turn = notes.get(target, ""), partial(wait_for_turn, target)
        run().measured(tool.name, "torch fp32", network.name, target, note).tell()
