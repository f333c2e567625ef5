"""MLPerf Tiny's ResNet-8 for CIFAR-10 in torch, batch normalisation folded: gradients for attacks.

``through: benchmarks.resnet8:resnet8`` with the safetensors of the same network gives the logits
of its ONNX file to 2e-5.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional


class Conv(nn.Module):
    """A convolution padded as TensorFlow pads: below and to the right where it strides."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2 * (stride == 1))
        self.uneven = kernel == 3 and stride == 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(x, (0, 1, 0, 1)) if self.uneven else x
        found: torch.Tensor = self.c(padded)
        return found


class ResNet8(nn.Module):
    """Three residual stages of 16, 32 and 64 channels; input float32 (N, 3, 32, 32), 0..255."""

    output_names: ClassVar[tuple[str, ...]] = ("logits",)

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 16, 3)
        self.a1, self.b1 = Conv(16, 16, 3), Conv(16, 16, 3)
        self.a2, self.b2, self.s2 = Conv(16, 32, 3, 2), Conv(32, 32, 3), Conv(16, 32, 1, 2)
        self.a3, self.b3, self.s3 = Conv(32, 64, 3, 2), Conv(64, 64, 3), Conv(32, 64, 1, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(input))
        x = torch.relu(x + self.b1(torch.relu(self.a1(x))))
        x = torch.relu(self.s2(x) + self.b2(torch.relu(self.a2(x))))
        x = torch.relu(self.s3(x) + self.b3(torch.relu(self.a3(x))))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet8() -> nn.Module:
    """Untrained; weights come from a file."""
    return ResNet8()
