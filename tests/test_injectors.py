"""The fault injection benchmark: its draws, and that its check catches a tool that is wrong."""

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("torch", reason="other people's injectors run on torch")

import torch
from torch import Tensor, nn

from benchmarks.injectors.measured import spread
from benchmarks.injectors.peer import Driver, Fault, Injector, Rig, flip, layers_of
from benchmarks.networks import NETWORKS, Network


def _small() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 5)).eval()


class Right(Injector):
    """Flips in place and flips back."""

    name = "right"

    def __init__(self, module: nn.Module, network: Network) -> None:
        self.module = module
        self.hit: Fault | None = None

    def weight(self, fault: Fault, x: Tensor) -> Tensor:
        self._restore()
        self._flip(fault)
        self.hit = fault
        return self._run(x)

    def neurons(self, faults: Sequence[Fault], shape: torch.Size, x: Tensor) -> Tensor:
        self._restore()

        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            for each in faults:
                flip(output, each.row * shape[1:].numel() + each.element, self._bit(each))

        handle = layers_of(self.module)[faults[0].layer].register_forward_hook(hook)
        result = self._run(x)
        handle.remove()
        return result

    @property
    def faulty(self) -> nn.Module:
        return self.module

    def intact(self, x: Tensor) -> tuple[nn.Module, Tensor]:
        self._restore()
        return self.module, self._run(x)

    def _restore(self) -> None:
        if self.hit is not None:
            self._flip(self.hit)
        self.hit = None

    def _flip(self, fault: Fault) -> None:
        flip(layers_of(self.module)[fault.layer].weight, fault.element, self._bit(fault))

    def _bit(self, fault: Fault) -> int:
        return fault.bit

    def _run(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = self.module(x)
        return result


class WrongBit(Right):
    def _bit(self, fault: Fault) -> int:
        return (fault.bit + 1) % 32


class Stays(Right):
    def _restore(self) -> None:
        self.hit = None


class NeverLands(Right):
    def _flip(self, fault: Fault) -> None:
        return None

    def neurons(self, faults: Sequence[Fault], shape: torch.Size, x: Tensor) -> Tensor:
        return self._run(x)


def _driver(tool: type[Injector]) -> Driver:
    rig = Rig.of(tool, Network("small", _small, (3, 8, 8), 4))
    return Driver(rig, np.random.default_rng(0), faults=12, checks=4)


def test_a_right_tool_passes():
    driver = _driver(Right)
    for bench in (driver.weights(alike=True), driver.weights(alike=False), driver.neurons(4)):
        assert bench.checked
        assert bench.wrong == 0


@pytest.mark.parametrize("tool", [WrongBit, Stays, NeverLands])
def test_a_wrong_tool_is_caught_at_weights(tool):
    bench = _driver(tool).weights(alike=True)
    assert bench.wrong == bench.checked > 0


@pytest.mark.parametrize("tool", [WrongBit, NeverLands])
def test_a_wrong_tool_is_caught_at_outputs(tool):
    bench = _driver(tool).neurons(4)
    assert bench.wrong == bench.checked > 0


def test_layers_are_hit_in_proportion():
    rng, sizes = np.random.default_rng(0), np.array([100, 0, 300, 600])
    for layers, alike, share in (
        (9, False, [0.1, 0.0, 0.3, 0.6]),
        (2, False, [0.1, 0.0, 0.3, 0.6]),
        (9, True, [0.25] * 4),
        (2, True, [0.25] * 4),
    ):
        counts = np.zeros(4)
        for _ in range(2000):
            for layer, count in spread(sizes, 8, layers, rng, alike=alike):
                counts[layer] += count
        assert counts.sum() == 2000 * 8
        assert counts / counts.sum() == pytest.approx(share, abs=0.02)


# As published: ResNet-20 269,722 without its two 1x1 shortcuts (2,752), ResNet-50 25,557,032.
@pytest.mark.parametrize(
    ("name", "layers", "parameters"),
    [("resnet20", 22, 269_722 + 2_752), ("resnet50", 54, 25_557_032)],
)
def test_networks_are_what_their_names_say(name, layers, parameters):
    module = NETWORKS[name].factory()
    assert len(layers_of(module)) == layers
    assert sum(each.numel() for each in module.parameters()) == parameters
