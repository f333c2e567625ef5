"""Fixtures of several test files: a backend that fails on request, and a small sweep for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from hwbench import registry

FAKES = Path(__file__).parent / "fakes"
FEATURES, CLASSES, SAMPLES, BATCH = 6, 3, 20, 8

# Shared machines are slow at times; speed is not what properties are about.
settings.register_profile("hwbench", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("hwbench")


@pytest.fixture
def fake_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Registers the backend ``fake``, here and in workers; returns the cache's folder."""
    cache = tmp_path / "cache"
    monkeypatch.syspath_prepend(str(FAKES))
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FAKES), before])))
    monkeypatch.setenv("HWBENCH_CACHE", str(cache))
    registry._group.cache_clear()
    yield cache
    registry._group.cache_clear()


@dataclass(frozen=True)
class Rig:
    """A linear classifier with its data in a folder."""

    folder: Path
    cache: Path

    @property
    def model(self) -> Path:
        return self.folder / "linear.onnx"

    @property
    def data(self) -> Path:
        return self.folder / "rows.npz"

    def spec(self, **changes: Any) -> Any:
        """A sweep of noise and flips, without latency."""
        from hwbench.spec import Spec

        content: dict[str, Any] = {
            "model": {"onnx": str(self.model)},
            "data": {"npz": str(self.data), "labels": "y", "batch": BATCH},
            "environments": [{"backend": "fake"}],
            "scenarios": [
                {"noise": {"snr_db": [10, 0]}, "patterns": 2},
                {"bitflip": {"rate": 0.005}, "patterns": 3},
            ],
            "latency": False,
            "deadline_s": 60,
        }
        return Spec.model_validate({**content, **changes})


@pytest.fixture
def rig(fake_path: Path, tmp_path: Path) -> Rig:
    made = Rig(tmp_path, fake_path)
    write_model(made.model)
    write_data(made.data)
    return made


def write_model(path: Path, seed: int = 1) -> None:
    """``logits = x @ weight.T + bias``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    tensors = {"weight": rng.normal(size=(CLASSES, FEATURES)), "bias": rng.normal(size=CLASSES)}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["logits"], "fc", transB=1)],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(path))


def write_data(path: Path, seed: int = 2) -> None:
    """Rows, and labels that the classifier meets by chance only."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    np.savez(path, x=rows, y=rng.integers(CLASSES, size=SAMPLES))
