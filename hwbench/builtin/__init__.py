"""The model and the data that ship with hwbench, so that a first sweep needs nothing else.

A convolutional classifier of 8x8 digit images (22,954 parameters), as an ONNX file and as weights
for the torch factory, which agree; 597 held-out images and 200 for calibration.
``digits_cnn/README.md`` says where the images come from.

Attributes:
    DIGITS_ONNX: ``input`` float32 (N, 1, 8, 8) within 0..1 to ``logits`` (N, 10).
    DIGITS_WEIGHTS: the same weights as safetensors, named as torch names them.
    DIGITS_DATA: an ``.npz`` with ``x_test`` uint8 (597, 1, 8, 8) within 0..16 (divide by 16 for
        the model), ``y_test`` int64 (597,), and ``x_calibration``, ``y_calibration`` with 200
        images. The model was trained on none of them.
    DIGITS_TRAINING: a JSON file: how it was trained, and its accuracy on ``x_test``.
"""

from __future__ import annotations

from pathlib import Path

_DIGITS = Path(__file__).parent / "digits_cnn"

DIGITS_ONNX = _DIGITS / "model.onnx"
DIGITS_WEIGHTS = _DIGITS / "weights.safetensors"
DIGITS_DATA = _DIGITS / "digits.npz"
DIGITS_TRAINING = _DIGITS / "training.json"
