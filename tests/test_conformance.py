"""The conformance suite on every in-tree backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwbench import registry
from hwbench.backend import ModelSource
from hwbench.testing import models
from hwbench.testing.conformance import BackendConformance
from hwbench.testing.reference import ReferenceBackend

if TYPE_CHECKING:
    from torch import nn


def torch_net() -> nn.Module:
    """The network of ``hwbench.testing.models`` in torch."""
    import torch
    from torch import nn

    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 8, 3, padding=1))
    net.add_module("relu1", nn.ReLU())
    net.add_module("conv2", nn.Conv2d(8, 16, 3, stride=2, padding=1))
    net.add_module("relu2", nn.ReLU())
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc", nn.Linear(16, models.CLASSES))
    net.load_state_dict({name: torch.from_numpy(w) for name, w in models.weights().items()})
    return net.eval()


def needs(name: str) -> pytest.MarkDecorator:
    """Skips a class where the runtime is not installed."""
    backend = registry.backend(name)
    missing = registry.missing_modules(backend)
    reason = f"{', '.join(missing)} not installed: {registry.install_hint(backend)}"
    return pytest.mark.skipif(bool(missing), reason=reason)


class TestReference(BackendConformance):
    backend = ReferenceBackend


@needs("onnxruntime")
class TestOnnxRuntime(BackendConformance):
    backend = type(registry.backend("onnxruntime"))


@needs("openvino")
class TestOpenVINO(BackendConformance):
    backend = type(registry.backend("openvino"))


@needs("torch")
class TestTorch(BackendConformance):
    backend = type(registry.backend("torch"))
    slow_precisions = ("int8", "int8-ref")

    def model_source(self, folder: Path) -> ModelSource:
        return ModelSource("conv_net", (models.INPUT,), torch=f"{__name__}:torch_net")
