"""Networks of known shape with seeded weights, as torch modules: speed needs no training."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models import CIFAR, CLASSES
from hwbench.backend import ModelSource


class Block(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, inside: int, channels: int, stride: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(inside, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.short = nn.Sequential()
        if stride != 1 or inside != channels:
            conv = nn.Conv2d(inside, channels, 1, stride, bias=False)
            self.short = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(N, inside, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.short(x))


class ResNet20(nn.Module):
    """ResNet-20 in its CIFAR shape: three stages of 16, 32 and 64 channels."""

    output_names = ("logits",)

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        blocks, inside = list[nn.Module](), 16
        for stage, channels in enumerate((16, 32, 64)):
            for position in range(3):
                blocks.append(Block(inside, channels, 2 if stage and not position else 1))
                inside = channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inside, CLASSES)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map images ``(N, 3, 32, 32)`` to logits ``(N, 10)``."""
        x = self.blocks(torch.relu(self.stem(input)))
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)
        logits: torch.Tensor = self.fc(x)
        return logits


def resnet20_module() -> nn.Module:
    """ResNet-20 with He-normal weights and batch statistics that differ by channel."""
    model, rng = ResNet20(), torch.Generator().manual_seed(20)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            spread = (2 / module.weight[0].numel()) ** 0.5
            nn.init.normal_(module.weight, 0, spread, generator=rng)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.8, 1.2, generator=rng)
            nn.init.normal_(module.bias, 0, 0.1, generator=rng)
            nn.init.normal_(module.running_mean, 0, 0.1, generator=rng)
            nn.init.uniform_(module.running_var, 0.8, 1.2, generator=rng)
    return model


def resnet20() -> ModelSource:
    """ResNet-20 as the torch adapter takes it; batch normalisations are not folded."""
    return ModelSource("resnet20", (CIFAR,), torch="benchmarks.torch_models:resnet20_module")
