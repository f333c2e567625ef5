"""Networks of known shape with seeded weights, written as ONNX files: speed needs no training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.images import images as images
from hwbench.backend import ModelSource, TensorSpec

CIFAR = TensorSpec("input", (None, 3, 32, 32), "float32")
CLASSES = 10

Floats = npt.NDArray[np.float32]


@dataclass
class _Writer:
    """Collects nodes and weights; each layer method gives the name of its output."""

    rng: np.random.Generator
    folded: bool
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, Floats] = field(default_factory=dict)

    def add(self, op_type: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def weight(self, name: str, array: npt.NDArray[np.floating]) -> str:
        self.weights[name] = array.astype(np.float32)
        return name

    def he(self, name: str, shape: tuple[int, ...], gain: float = 2.0) -> str:
        spread = np.sqrt(gain / np.prod(shape[1:]))
        return self.weight(name, self.rng.normal(0, spread, shape))

    def conv(self, x: str, name: str, shape: tuple[int, int, int, int], stride: int = 1) -> str:
        """Convolution and batch normalisation, the latter folded into a bias if asked."""
        weight, pad = self.he(f"{name}.weight", shape), shape[2] // 2
        bias = [self.weight(f"{name}.bias", self.rng.normal(0, 0.1, shape[0]))]
        x = self.add(
            "Conv",
            [x, weight, *(bias if self.folded else [])],
            name,
            pads=[pad] * 4,
            strides=[stride] * 2,
            kernel_shape=list(shape[2:]),
        )
        return x if self.folded else self.norm(x, f"{name}.bn", shape[0], bias[0])

    def norm(self, x: str, name: str, channels: int, bias: str) -> str:
        statistics = [
            self.weight(f"{name}.scale", self.rng.uniform(0.8, 1.2, channels)),
            bias,
            self.weight(f"{name}.mean", self.rng.normal(0, 0.1, channels)),
            self.weight(f"{name}.var", self.rng.uniform(0.8, 1.2, channels)),
        ]
        return self.add("BatchNormalization", [x, *statistics], name)

    def block(self, x: str, name: str, channels: int, inside: int, stride: int) -> str:
        """Two 3x3 convolutions beside an identity, or a 1x1 convolution where the shape changes."""
        y = self.conv(x, f"{name}.conv1", (channels, inside, 3, 3), stride)
        y = self.add("Relu", [y], f"{name}.relu1")
        y = self.conv(y, f"{name}.conv2", (channels, channels, 3, 3))
        if stride != 1 or inside != channels:
            x = self.conv(x, f"{name}.short", (channels, inside, 1, 1), stride)
        return self.add("Relu", [self.add("Add", [y, x], f"{name}.add")], f"{name}.relu2")


def resnet20(folder: Path, *, folded: bool = True, seed: int = 20) -> ModelSource:
    """ResNet-20 in its CIFAR shape (3x32x32, ten classes, three stages of 16, 32 and 64 channels).

    Args:
        folder: where ``resnet20.onnx`` is written.
        folded: whether batch normalisations are folded into the convolutions already.
        seed: of the He-normal weights.
    """
    net = _Writer(np.random.default_rng(seed), folded)
    x = net.add("Relu", [net.conv("input", "stem", (16, 3, 3, 3))], "stem.relu")
    inside = 16
    for stage, channels in enumerate((16, 32, 64)):
        for position in range(3):
            stride = 2 if stage and not position else 1
            x = net.block(x, f"stage{stage}.{position}", channels, inside, stride)
            inside = channels
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x], "pool")], "flatten")
    bias = net.weight("fc.bias", np.zeros(CLASSES))
    inputs = [x, net.he("fc.weight", (CLASSES, inside), 1.0), bias]
    net.nodes.append(helper.make_node("Gemm", inputs, ["logits"], "fc", transB=1))
    return _save(net, folder / "resnet20.onnx")


def _save(net: _Writer, path: Path) -> ModelSource:
    graph = helper.make_graph(
        net.nodes,
        path.stem,
        [helper.make_tensor_value_info(CIFAR.name, TensorProto.FLOAT, ["batch", *CIFAR.shape[1:]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in net.weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(path))
    return ModelSource(path.stem, (CIFAR,), onnx=str(path))
