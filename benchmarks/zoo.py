"""Every real model at hand, on every runtime, clean and with one flipped weight bit: a table.

    python -m benchmarks.zoo [NAME ...]

Each line runs, or is unsupported with the runtime's own reason. Models and data lie beside the
checkout (shared/assets) and are none of the project's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hwbench import engine
from hwbench.collect import collect
from hwbench.execute import Stop
from hwbench.spec import Spec

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
BACKENDS = ("onnxruntime", "openvino", "torch")
WINDOW, CONTEXT = 512, 64  # Silero VAD at 16 kHz
KINDS = ["weight", "bias", "scale"]
ROWS = 16  # of inputs that are made up


@dataclass(frozen=True)
class Entry:
    """One model: how it is fed, and what its authors say of it.

    Attributes:
        model: path below the assets.
        data: keys of the spec's data.
        top1: published share of right answers on exactly these samples, or ``None``.
        arrays: makes the archive where the assets have none that fits.
        kind: of the task.
        torch: a factory of the same network and its weights below the assets: a second model.
    """

    model: str
    data: dict[str, Any]
    top1: float | None = None
    arrays: Any = None
    kind: str = "classification"
    torch: dict[str, str] = field(default_factory=dict)


def _archive(name: str, calibration: str | None = None, **more: Any) -> dict[str, Any]:
    found = {"npz": str(ASSETS / "data" / name), **more}
    if calibration:
        found["calibration"] = str(ASSETS / "data" / calibration)
    return found


def speech() -> dict[str, Any]:
    """Windows of 512 samples behind the 64 before them."""
    pcm = np.load(ASSETS / "data/speech_16k_20s.npz")["pcm"].astype(np.float32) / 32768
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), pcm])
    starts = range(0, len(pcm) - WINDOW + 1, WINDOW)
    return {"x": np.stack([padded[at : at + CONTEXT + WINDOW] for at in starts])}


def _random(*shape: int) -> dict[str, Any]:
    rows = np.random.default_rng(0).uniform(-1, 1, size=(ROWS, *shape))
    return {"x": rows.astype(np.float32)}


def _counts() -> dict[str, Any]:
    """Small numbers: from negative ones this loop does not end."""
    return {"x": np.arange(ROWS, dtype=np.int32)}


CHANNELS_FIRST = {"layout": "NHWC->NCHW"}
ZOO = {
    "resnet8": Entry(
        "models/resnet8_cifar10_mlperftiny.onnx",
        _archive(
            "cifar10_test_lossless_1017.npz",
            "cifar10_train_calib_500.npz",
            labels="y",
            preprocess=CHANNELS_FIRST,
        ),
        0.8800,
        torch={
            "torch": "benchmarks.resnet8:resnet8",
            "weights": "models/resnet8_cifar10_mlperftiny.safetensors",
        },
    ),
    "dscnn": Entry(
        "models/dscnn_kws_mlperftiny.onnx",
        _archive(
            "kws01_mfcc_1000.npz",
            "kws01_mfcc_1000.npz",
            labels="y",
            preprocess={"offset": 83, "scale": 0.5847029},
        ),
        0.901,
    ),
    "mobilenet": Entry(
        "models/mobilenet_v1_0.5_160.onnx",
        _archive(
            "imagenet_sample_160_125.npz",
            "imagenet_sample_160_125.npz",
            labels={"array": "y", "offset": 1},
            preprocess={**CHANNELS_FIRST, "offset": 128, "scale": 1 / 128},
            batch=25,
        ),
        0.704,
    ),
    "mnist": Entry(
        "models/mnist_cnn_lltfi.onnx",
        _archive(
            "mnist_train_calib_500.npz",
            "mnist_train_calib_500.npz",
            preprocess={"shape": [28, 28, 1], "scale": 1 / 255},
        ),
    ),
    "sms": Entry(
        "models/sms_transformer.onnx",
        _archive("sms_test_1000.npz", "sms_train_calib_300.npz", labels="y", batch=50),
        0.982,
    ),
    "silero": Entry(
        "awkward/silero_vad_op16.onnx",
        {
            "inputs": {"input": "x"},
            "constants": {"sr": 16000},
            "state": {"state": "stateN"},
            "batch": 125,
        },
        arrays=speech,
        kind="other",
    ),
    "ultraface": Entry(
        "awkward/ultraface_rfb320.onnx", {}, arrays=lambda: _random(3, 240, 320), kind="other"
    ),
    "ext_weights": Entry(
        "awkward/ext/ext_weights.onnx", {}, arrays=lambda: _random(3), kind="other"
    ),
    "loop": Entry("awkward/polygraphy_loop.onnx", {}, arrays=_counts, kind="other"),
    "qdq_conv": Entry("awkward/polygraphy_qdq_conv.onnx", {}, kind="other"),
}


def _as_floats(archive: str, folder: Path) -> str:
    """The archive with real pixels: a factory does not tell that it takes no integers."""
    with np.load(archive) as held:
        np.savez(folder / Path(archive).name, x=held["x"].astype(np.float32), y=held["y"])
    return str(folder / Path(archive).name)


def spec(name: str, entry: Entry, folder: Path) -> Spec:
    """Clean, and one bit of one weight flipped, in fp32 and int8 on every runtime."""
    data = dict(entry.data)
    if entry.arrays:
        data["npz"] = str(folder / f"{name}.npz")
        np.savez(data["npz"], **entry.arrays())
        data.setdefault("calibration", data["npz"])
    models: dict[str, Any] = {name: {"onnx": str(ASSETS / entry.model)}}
    if entry.torch:
        weights = str(ASSETS / entry.torch["weights"])
        own = {**data, **{key: _as_floats(data[key], folder) for key in ("npz", "calibration")}}
        models[f"{name}-torch"] = {**entry.torch, "weights": weights, "data": own}
    return Spec.model_validate(
        {
            "name": name,
            "models": models,
            "data": data or None,
            "environments": [{"backend": list(BACKENDS), "precision": ["fp32", "int8"]}],
            "scenarios": ["clean", {"bitflip": {"count": 1}, "sites": {"kinds": KINDS}}],
            "task": {"kind": entry.kind},
            "latency": False,
            "deadline_s": 60,
        }
    )


def lines(name: str, entry: Entry, folder: Path) -> Iterator[dict[str, Any]]:
    """One sweep's cells, the expected accuracy beside the measured."""
    options = engine.Options(allow_code=True, output=folder / name, workers=1)
    store = engine.start(spec(name, entry, folder), options, engine.Silent(), Stop())
    tables = collect(store)
    drift = tables["drift"].set_index(["model", "environment", "scenario"])
    for cell in tables["cells"].to_dict("records"):
        clean = cell["scenario"] == "clean"
        place: Any = (cell["model"], cell["environment"], cell["scenario"])
        found = drift.loc[place]
        yield {
            "model": cell["model"],
            "environment": cell["environment"],
            "case": "clean" if clean else "bit flip",
            "status": cell["status"],
            "top-1 %": None if pd.isna(found["accuracy"]) else 100 * found["accuracy"],
            "told %": None if entry.top1 is None or not clean else 100 * entry.top1,
            "reason": "" if pd.isna(cell["note"]) else cell["note"],
        }


def main() -> None:
    """Print the table of the models that are named, or of all."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = sys.argv[1:] or list(ZOO)
    pd.set_option("display.width", 250, "display.max_colwidth", 110, "display.max_rows", 500)
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen:
            table = pd.DataFrame(lines(name, ZOO[name], Path(scratch)))
            print(table.to_string(index=False, float_format="%.2f", na_rep=""), flush=True)


if __name__ == "__main__":
    main()
