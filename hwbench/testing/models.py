"""A small convolutional classifier with fixed weights, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwbench.backend import ModelSource, TensorSpec

CLASSES = 10
INPUT = TensorSpec("input", (None, 3, 12, 12), "float32")
OUTPUT = "logits"

Floats = npt.NDArray[np.float32]


def weights() -> dict[str, Floats]:
    """Weights in PyTorch's and ONNX's common layout, by ``layer.tensor``, the same every time."""
    rng = np.random.default_rng(20)

    def layer(name: str, *shape: int) -> dict[str, Floats]:
        fan_in = int(np.prod(shape[1:]))
        weight = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        bias = rng.normal(0, 0.1, shape[0]).astype(np.float32)
        return {f"{name}.weight": weight, f"{name}.bias": bias}

    return {
        **layer("conv1", 8, 3, 3, 3),
        **layer("conv2", 16, 8, 3, 3),
        **layer("fc", CLASSES, 16),
    }


def samples(count: int, seed: int = 0) -> Floats:
    """``count`` inputs, shape (count, 3, 12, 12): smooth images, so that classes differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (count, 3, 4, 4))
    fine = rng.normal(0, 0.2, (count, 3, 12, 12))
    return (coarse.repeat(3, axis=2).repeat(3, axis=3) + fine).astype(np.float32)


def conv_net(folder: Path) -> ModelSource:
    """Conv-Relu-Conv(stride 2)-Relu-GlobalAveragePool-Flatten-Gemm as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node(
            "Conv", ["input", "conv1.weight", "conv1.bias"], ["c1"], "conv1", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node(
            "Conv",
            ["r1", "conv2.weight", "conv2.bias"],
            ["c2"],
            "conv2",
            pads=[1, 1, 1, 1],
            strides=[2, 2],
        ),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], [OUTPUT], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "conv_net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "conv_net.onnx"
    onnx.save(model, str(path))
    return ModelSource("conv_net", (INPUT,), onnx=str(path))
