"""A commented spec to start from."""

from __future__ import annotations

import os
from pathlib import Path


def template(model: Path | None, data: Path | None, base: Path) -> str:
    """A spec for a model and data file, or for the built-in ones; paths relative to ``base``."""
    return _TEXT.format(model=_model(model, base), data=_data(data, base))


def _relative(path: Path, base: Path) -> str:
    return os.path.relpath(path.resolve(), base.resolve())


def _model(model: Path | None, base: Path) -> str:
    if model is None:
        return "model: {builtin: digits-cnn}    # yours: {onnx: model.onnx}"
    return f'model: {{onnx: "{_relative(model, base)}"}}'


def _data(data: Path | None, base: Path) -> str:
    npz = (
        "builtin: digits    # yours: `npz: test.npz`"
        if data is None
        else f'npz: "{_relative(data, base)}"'
    )
    labels = "  labels: y                      # class indices; leave out to compare outputs only\n"
    return f"  {npz}\n{'' if data is None else labels}"


_TEXT = """\
# hwbench spec. Check with `hwbench plan FILE`, run with `hwbench sweep FILE`.
name: my-model
{model}
data:
{data}\
  # inputs: {{input: x}}             # model input <- array (default: the only input <- x)
  # calibration: calib.npz           # same arrays; needed for int8
  # preprocess: {{layout: NHWC->NCHW, scale: 0.0039215686}}   # ((x - offset) * scale - mean) / std
  # limit: 512                       # first so many samples
  batch: 64
environments:                        # lists expand to their product
  - {{backend: onnxruntime, precision: [fp32, int8]}}
  - {{backend: openvino, precision: [fp32, int8]}}
# baseline: onnxruntime-cpu-fp32-t1  # default: the first environment
scenarios:
  - clean
  - {{bitflip: {{target: weights, rate: [1.0e-6, 1.0e-5]}}, patterns: 20}}   # flips per stored bit
  - {{noise: {{target: inputs, snr_db: [40, 20, 10]}}, patterns: 3}}
latency: {{processes: 5, min_duration_s: 1}}   # false to leave it out; see docs/latency.md
# gates:                             # what must hold, for `hwbench qualify`; see docs/gates.md
#   - {{metric: accuracy, versus: clean, max: 0.01, scenario: bitflip, severity: 1.0e-6}}
#   - {{metric: latency_p99_ms, max: 20}}
deadline_s: 300                      # a worker silent for so long is ended: a timeout
# budget: 30m                        # fewer patterns rather than longer
seed: 0
"""
