"""ResNet-20 and ResNet-50 as torch modules with seeded weights, for every tool alike.

Imports torch and nothing else, since other tools' environments hold nothing else. Architectures
after He et al., CVPR 2016; the stride of a bottleneck sits in its 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_BRANCH_GAIN = 0.3  # of a branch's last normalisation: sums of many branches stay of one scale


@dataclass(frozen=True)
class Network:
    """A network and the batch it is measured with."""

    name: str
    factory: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch: int


def unit(inside: int, outside: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution and its normalisation."""
    conv = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outside)]


class Residual(nn.Module):
    """A branch beside an identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, branch: list[nn.Module], inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        changes = stride != 1 or inside != outside
        self.shortcut = nn.Sequential(*(unit(inside, outside, 1, stride) if changes else []))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, channels, height, width) to the same with the block's channels."""
        result: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return result


def basic(inside: int, width: int, stride: int) -> Residual:
    """Two 3x3 convolutions."""
    branch = [*unit(inside, width, 3, stride), nn.ReLU(inplace=True), *unit(width, width, 3)]
    return Residual(branch, inside, width, stride)


def bottleneck(inside: int, width: int, stride: int) -> Residual:
    """A 1x1, a 3x3 and a widening 1x1 convolution."""
    branch = [
        *unit(inside, width, 1),
        nn.ReLU(inplace=True),
        *unit(width, width, 3, stride),
        nn.ReLU(inplace=True),
        *unit(width, 4 * width, 1),
    ]
    return Residual(branch, inside, 4 * width, stride)


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def resnet20() -> nn.Module:
    """ResNet-20 in its CIFAR shape: 3x32x32, ten classes."""
    layers, inside = [*unit(3, 16, 3), nn.ReLU(inplace=True)], 16
    for stage, width in enumerate((16, 32, 64)):
        for position in range(3):
            layers.append(basic(inside, width, 2 if stage and not position else 1))
            inside = width
    return _seeded(nn.Sequential(*layers, *_head(inside, 10)), 20)


def resnet50() -> nn.Module:
    """ResNet-50: 3x224x224, a thousand classes."""
    layers: list[nn.Module] = [*unit(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inside = 64
    for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
        for position in range(depth):
            layers.append(bottleneck(inside, width, 2 if stage and not position else 1))
            inside = 4 * width
    return _seeded(nn.Sequential(*layers, *_head(inside, 1000)), 50)


def _seeded(module: nn.Module, seed: int) -> nn.Module:
    """He-normal weights and statistics near those of normalised activations; in eval mode."""
    rng = torch.Generator().manual_seed(seed)
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            spread = (2.0 / each.weight[0].numel()) ** 0.5
            nn.init.normal_(each.weight, 0.0, spread, rng)
        elif isinstance(each, nn.Linear):
            nn.init.normal_(each.weight, 0.0, each.in_features**-0.5, rng)
            nn.init.zeros_(each.bias)
        elif isinstance(each, nn.BatchNorm2d):
            _statistics(each, rng)
    for each in module.modules():
        if isinstance(each, Residual):
            last = each.branch[-1]
            assert isinstance(last, nn.BatchNorm2d)
            last.weight.data.mul_(_BRANCH_GAIN)
    return module.eval()


def _statistics(norm: nn.BatchNorm2d, rng: torch.Generator) -> None:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    nn.init.uniform_(norm.weight, 0.8, 1.2, rng)
    nn.init.normal_(norm.bias, 0.0, 0.1, rng)
    nn.init.normal_(mean, 0.0, 0.1, rng)
    nn.init.uniform_(var, 0.8, 1.2, rng)


NETWORKS = {
    each.name: each
    for each in (
        Network("resnet20", resnet20, (3, 32, 32), 64),
        Network("resnet50", resnet50, (3, 224, 224), 8),
    )
}
