"""The built-in small model: a convolutional classifier of 8x8 digit images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn


class DigitsCnn(nn.Module):
    """Three convolutions and two linear layers over 8x8 grey images.

    Input ``input`` is float32 ``(N, 1, 8, 8)`` in 0..1; output ``logits`` is ``(N, 10)``.
    """

    output_names: ClassVar[tuple[str, ...]] = ("logits",)

    def __init__(self) -> None:
        """Build the layers with torch's default initial weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.fc1 = nn.Linear(128, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map images ``(N, 1, 8, 8)`` to logits ``(N, 10)``."""
        x = torch.relu(self.conv1(input))
        x = torch.relu(self.conv2(x))
        x = torch.max_pool2d(x, 2)
        x = torch.relu(self.conv3(x))
        x = torch.max_pool2d(x, 2)
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        logits: torch.Tensor = self.fc2(x)
        return logits


def digits_cnn() -> nn.Module:
    """Return an untrained model; weights come from a file beside it."""
    return DigitsCnn()
