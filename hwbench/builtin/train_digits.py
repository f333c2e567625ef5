"""Train the built-in digits classifier and write ``digits_cnn/`` anew.

``python -m hwbench.builtin.train_digits``: needs torch, onnx and scikit-learn; a minute on one
core. The same versions on the same kind of CPU give the same files.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwbench.builtin import DIGITS_DATA, DIGITS_ONNX, DIGITS_TRAINING, DIGITS_WEIGHTS

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

SEED = 20
EPOCHS = 120
BATCH = 50
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
SPLITS = {"train": 1000, "test": 597, "calibration": 200}
SCALE = 16.0  # the images count to 16
OPSET = 17  # what every runtime that is still in use reads
IR_VERSION = 8  # that of opset 17


@dataclass(frozen=True)
class Split:
    """Images, uint8 (n, 1, 8, 8) within 0..16, and labels, int64 (n,)."""

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64]


def split_rows(labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of scikit-learn's table per split: disjoint, stratified by class, fixed."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(labels.size)
    train, rest = train_test_split(
        rows, train_size=SPLITS["train"], stratify=labels, random_state=SEED
    )
    test, calibration = train_test_split(
        rest, train_size=SPLITS["test"], stratify=labels[rest], random_state=SEED
    )
    parts = {"train": train, "test": test, "calibration": calibration}
    return {name: np.sort(part) for name, part in parts.items()}


def load_splits() -> dict[str, Split]:
    """The three splits of scikit-learn's copy of the UCI digits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    return {name: Split(images[rows], labels[rows]) for name, rows in split_rows(labels).items()}


def to_input(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What the model is fed: float32 within 0..1."""
    return (images / SCALE).astype(np.float32)


def train(split: Split) -> nn.Module:
    """Train from the fixed seed, on one thread, with images shifted by up to a pixel."""
    import torch

    from hwbench_torch.digits import digits_cnn

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = digits_cnn()
    x, y = torch.from_numpy(to_input(split.x)), torch.from_numpy(split.y)
    steps = EPOCHS * -(-len(y) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(y)), BATCH):
            loss = torch.nn.functional.cross_entropy(model(_shifted(x[rows])), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def _shifted(x: Tensor) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel either way: 1,000 images alone are overfitted."""
    import torch

    count, pixels = len(x), torch.arange(8)
    down, right = torch.randint(0, 3, (2, count))
    padded = torch.nn.functional.pad(x[:, 0], (1, 1, 1, 1))
    rows, columns = (down[:, None] + pixels)[:, :, None], (right[:, None] + pixels)[:, None]
    return padded[torch.arange(count)[:, None, None], rows, columns][:, None]


def logits_of(model: nn.Module, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Logits (n, 10) of images as stored."""
    import torch

    with torch.no_grad():
        result: npt.NDArray[np.float32] = model(torch.from_numpy(to_input(images))).numpy()
    return result


def onnx_model(weights: Mapping[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """The same network as an ONNX graph, node by node, with torch's parameter names."""
    from onnx import TensorProto, checker, helper, numpy_helper

    graph = helper.make_graph(
        _nodes(),
        "digits_cnn",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(weights[name], name) for name in sorted(weights)],
    )
    model = helper.make_model(
        graph,
        producer_name="hwbench",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(model, full_check=True)
    return model


def _nodes() -> list[onnx.NodeProto]:
    return [
        _conv("conv1", "input"),
        _node("Relu", "relu1", "conv1"),
        _conv("conv2", "relu1"),
        _node("Relu", "relu2", "conv2"),
        _pool("pool1", "relu2"),
        _conv("conv3", "pool1"),
        _node("Relu", "relu3", "conv3"),
        _pool("pool2", "relu3"),
        _node("Flatten", "flatten", "pool2", axis=1),
        _gemm("fc1", "flatten", "fc1"),
        _node("Relu", "relu4", "fc1"),
        _gemm("fc2", "relu4", "logits"),
    ]


def _node(op_type: str, name: str, *inputs: str, output: str = "", **fields: Any) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(op_type, inputs, [output or name], name=name, **fields)


def _conv(name: str, source: str) -> onnx.NodeProto:
    parameters = f"{name}.weight", f"{name}.bias"
    return _node("Conv", name, source, *parameters, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _pool(name: str, source: str) -> onnx.NodeProto:
    return _node("MaxPool", name, source, kernel_shape=[2, 2], strides=[2, 2])


def _gemm(name: str, source: str, output: str) -> onnx.NodeProto:
    parameters = f"{name}.weight", f"{name}.bias"
    return _node("Gemm", name, source, *parameters, output=output, transB=1)


def _record(model: nn.Module, splits: Mapping[str, Split]) -> dict[str, Any]:
    """What ``training.json`` says."""
    correct = {
        name: int((logits_of(model, split.x).argmax(1) == split.y).sum())
        for name, split in splits.items()
    }
    packages = ("numpy", "onnx", "scikit-learn", "torch")
    return {
        "command": "python -m hwbench.builtin.train_digits",
        "seed": SEED,
        "epochs": EPOCHS,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "samples": SPLITS,
        "correct": correct,
        "test_accuracy": round(correct["test"] / SPLITS["test"], 6),
        "parameters": sum(each.numel() for each in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
    }


def _write_data(test: Split, calibration: Split) -> None:
    np.savez_compressed(
        DIGITS_DATA,
        x_test=test.x,
        y_test=test.y,
        x_calibration=calibration.x,
        y_calibration=calibration.y,
    )


def main() -> None:
    """Train, then write weights, ONNX file, data and the record of it."""
    from safetensors.numpy import save

    splits = load_splits()
    model = train(splits["train"])
    weights = {name: each.detach().numpy() for name, each in model.named_parameters()}
    record = _record(model, splits)
    DIGITS_WEIGHTS.write_bytes(save(weights))
    DIGITS_ONNX.write_bytes(onnx_model(weights).SerializeToString(deterministic=True))
    _write_data(splits["test"], splits["calibration"])
    DIGITS_TRAINING.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["correct"]))


if __name__ == "__main__":
    main()
