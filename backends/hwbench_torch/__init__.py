"""hwbench adapter for PyTorch: exported programs run eagerly, int8 kernels through inductor."""

from __future__ import annotations

from hwbench_torch.adapter import TorchBackend

__all__ = ["TorchBackend"]
