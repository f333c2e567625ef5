"""The user's arrays to a prepared dataset: read, checked and preprocessed once, in the parent."""

from __future__ import annotations

import hashlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hwbench.backend import Array, TensorSpec
from hwbench.builtin import DIGITS_DATA
from hwbench.dataset import Dataset
from hwbench.errors import RequestError
from hwbench.registry import nearest
from hwbench.spec.models import DataSpec, Labels, Preprocess

CALIBRATION_ROWS = 512

# What NumPy and zipfile raise on a damaged archive.
_DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def prepare(
    spec: DataSpec, signature: tuple[TensorSpec, ...] | None, *, real_labels: bool = False
) -> Dataset:
    """Read, check and preprocess the data of a spec.

    Args:
        spec: with absolute paths.
        signature: the model's inputs where they are known beforehand (ONNX), to check names,
            shapes and dtypes against; else names come from ``spec.inputs``.
        real_labels: labels are the targets of a regression, not class indices.

    Raises:
        RequestError: one line naming the file, the array and what to do.
    """
    path = DIGITS_DATA if spec.builtin else Path(str(spec.npz))
    arrays = _read(path)
    spec = spelled_out(spec, signature)
    wanted = _wanted(spec, signature, arrays, path)
    inputs = _inputs(spec, wanted, arrays, path, spec.limit, signature)
    n_samples = len(next(iter(inputs.values())))
    labels = _labels(spec, arrays, path, n_samples, real_labels)
    calibration = _calibration(spec, wanted, arrays, signature)
    return Dataset(inputs, labels, calibration, _digest(inputs, labels, calibration))


def spelled_out(spec: DataSpec, signature: tuple[TensorSpec, ...] | None) -> DataSpec:
    """The spec with what it leaves to the shipped data written out."""
    return _builtin(spec, signature) if spec.builtin else spec


def _builtin(spec: DataSpec, signature: tuple[TensorSpec, ...] | None) -> DataSpec:
    """The shipped digits: pixels 0..16 to 0..1, labelled, with calibration rows."""
    name = signature[0].name if signature else "input"
    return spec.model_copy(
        update={
            "inputs": spec.inputs or {name: "x_test"},
            "labels": spec.labels or Labels(array="y_test"),
            "preprocess": spec.preprocess or {"*": Preprocess(scale=1 / 16)},
        }
    )


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            return _arrays(file, path)
    except FileNotFoundError:
        raise RequestError("no such file.", where=str(path), hint="check data.npz.") from None
    except _DAMAGE as error:
        if "Object arrays" in str(error):
            what = "holds Python objects (pickle), which are never loaded."
        elif "pickle" in str(error):  # what NumPy takes anything for that it does not know
            what = "cannot be read as npz (it is no archive of arrays)."
        else:
            what = f"cannot be read as npz ({error})."
        raise RequestError(what, where=str(path), hint="write it again with np.savez.") from None


def _arrays(file: BinaryIO, path: Path) -> dict[str, Array]:
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise RequestError("holds a single array.", where=str(path), hint="save with np.savez.")
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy hands out the bytes of what is no array
            raise ValueError(f"{name!r} is no array")
    return arrays


def _wanted(
    spec: DataSpec,
    signature: tuple[TensorSpec, ...] | None,
    arrays: Mapping[str, Array],
    path: Path,
) -> dict[str, str]:
    """Array name by model input, in the model's order."""
    names = [each.name for each in signature] if signature else list(spec.inputs) or ["input"]
    wanted = dict(spec.inputs)
    if not wanted and len(names) == 1:
        wanted = {names[0]: "x"}
    elif not wanted:
        wanted = {name: name for name in names}
    for name in wanted:
        if name not in names:
            hint = nearest(name, names)
            raise RequestError(f"the model has no input {name!r}.", where="data.inputs", hint=hint)
    for name in names:
        if name not in wanted:
            hint = f"add `inputs: {{{name}: ARRAY}}`; arrays: {', '.join(arrays)}."
            raise RequestError(
                f"model input {name!r} has no array.", where="data.inputs", hint=hint
            )
        if wanted[name] not in arrays:
            hint = nearest(wanted[name], arrays)
            raise RequestError(f"no array {wanted[name]!r}.", where=str(path), hint=hint)
    return {name: wanted[name] for name in names}


def _inputs(
    spec: DataSpec,
    wanted: Mapping[str, str],
    arrays: Mapping[str, Array],
    path: Path,
    limit: int | None,
    signature: tuple[TensorSpec, ...] | None,
) -> dict[str, Array]:
    result: dict[str, Array] = {}
    for position, (name, array_name) in enumerate(wanted.items()):
        where = f"{path}: {array_name}"
        target = signature[position] if signature else None
        raw = arrays[array_name]
        if raw.ndim == 0 or len(raw) == 0:
            raise RequestError(
                "has no samples.", where=where, hint="the first dimension counts samples."
            )
        step = spec.preprocess.get(name, spec.preprocess.get("*"))
        result[name] = _preprocess(raw[:limit], step, target, where)
        if target is not None:
            _check_shape(result[name], target, where)
    lengths = {name: len(array) for name, array in result.items()}
    if len(set(lengths.values())) > 1:
        raise RequestError(f"inputs differ in length: {lengths}.", where=str(path))
    return result


def _preprocess(
    raw: Array, step: Preprocess | None, target: TensorSpec | None, where: str
) -> Array:
    """Layout, then ``((x - offset) * scale - mean) / std``, in float64, to the model's dtype."""
    if raw.dtype.kind not in "biuf":
        hint = "numbers are expected."
        raise RequestError(f"has dtype {raw.dtype}.", where=where, hint=hint)
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        count = int(np.size(raw) - np.isfinite(raw).sum())
        hint = "remove these samples; faults are injected by scenarios, not by the data."
        raise RequestError(f"holds {count} NaN or infinite values.", where=where, hint=hint)
    dtype = np.dtype(target.dtype) if target else None
    if step is None:
        return _cast(raw, dtype, where)
    laid_out = _laid_out(raw, step, where)
    if step == Preprocess(layout=step.layout):  # no arithmetic: integers stay integers
        return _cast(laid_out, dtype, where)
    values = laid_out.astype(np.float64)
    channel_last = step.layout == "NCHW->NHWC"
    mean = _per_channel(step.mean, values, channel_last, where)
    std = _per_channel(step.std, values, channel_last, where)
    return _cast(((values - step.offset) * step.scale - mean) / std, dtype, where)


def _cast(values: Array, dtype: np.dtype[Any] | None, where: str) -> Array:
    if dtype is None:  # no signature: real data becomes float32, indices int64
        dtype = np.dtype(np.float32 if values.dtype.kind == "f" else np.int64)
    if dtype.kind in "iu" and values.dtype.kind == "f":
        hint = "the model takes integers; remove the preprocessing or check data.inputs."
        raise RequestError(f"is {values.dtype}, the model takes {dtype}.", where=where, hint=hint)
    if dtype.kind in "iu" and values.dtype.kind in "iu":
        _check_range(values, dtype, where)
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values.astype(dtype))
    if dtype.kind == "f" and not np.isfinite(result).all():
        hint = f"scale the data; the largest {dtype} is {np.finfo(dtype).max:g}."
        raise RequestError(f"overflows the model's {dtype}.", where=where, hint=hint)
    return result


def _check_range(values: Array, dtype: np.dtype[Any], where: str) -> None:
    """Refuse integers that would wrap around."""
    low, high, limits = int(values.min()), int(values.max()), np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        what = f"holds {low} to {high}, the model takes {dtype}, {limits.min} to {limits.max}."
        raise RequestError(what, where=where, hint="check data.inputs.")


def _laid_out(raw: Array, step: Preprocess, where: str) -> Array:
    if step.layout is None:
        return raw
    if raw.ndim != 4:
        raise RequestError(f"layout {step.layout} needs 4 dimensions, not {raw.ndim}.", where=where)
    return raw.transpose((0, 3, 1, 2) if step.layout == "NHWC->NCHW" else (0, 2, 3, 1))


def _per_channel(
    value: float | list[float], array: Array, channel_last: bool, where: str
) -> float | Array:
    if not isinstance(value, list):
        return value
    channels = array.shape[-1 if channel_last or array.ndim < 3 else 1]
    if len(value) != channels:
        what = f"mean and std list {len(value)} channels, the array has {channels}."
        raise RequestError(what, where=where, hint="check preprocess.layout.")
    shape = [1] * array.ndim
    shape[-1 if channel_last or array.ndim < 3 else 1] = channels
    return np.asarray(value, dtype=np.float64).reshape(shape)


def _check_shape(array: Array, target: TensorSpec, where: str) -> None:
    expected = target.shape[1:]
    fits = array.ndim == len(target.shape) and all(
        want is None or want == have for want, have in zip(expected, array.shape[1:], strict=True)
    )
    if not fits:
        want = ", ".join("?" if each is None else str(each) for each in expected)
        have = ", ".join(map(str, array.shape[1:]))
        hint = "check preprocess.layout and which array feeds this input."
        what = f"rows have shape ({have}), input {target.name!r} takes ({want})."
        raise RequestError(what, where=where, hint=hint)


def _labels(
    spec: DataSpec, arrays: Mapping[str, Array], path: Path, n_samples: int, real: bool
) -> Array | None:
    if spec.labels is None:
        return None
    where = f"{path}: {spec.labels.array}"
    if spec.labels.array not in arrays:
        hint = nearest(spec.labels.array, arrays)
        raise RequestError(f"no array {spec.labels.array!r}.", where=str(path), hint=hint)
    labels = arrays[spec.labels.array][: spec.limit]
    if real:
        return _targets(labels, spec.labels.offset, n_samples, where)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        hint = "class indices are a vector of integers."
        what = f"labels have shape {labels.shape} and dtype {labels.dtype}."
        raise RequestError(what, where=where, hint=hint)
    if len(labels) != n_samples:
        what = f"{len(labels)} labels for {n_samples} samples."
        raise RequestError(what, where=where, hint="give one label per sample.")
    labels = labels.astype(np.int64) + spec.labels.offset
    if labels.min() < 0:
        raise RequestError(
            f"label {labels.min()} is negative.", where=where, hint="check the offset."
        )
    return labels


def _targets(labels: Array, offset: int, n_samples: int, where: str) -> Array:
    """Real numbers, one a sample, float64."""
    flat = labels.reshape(len(labels), -1) if labels.ndim else labels.reshape(1, 1)
    if labels.dtype.kind not in "iuf" or flat.shape[1] != 1:
        hint = "the targets of a regression are one number a sample."
        what = f"labels have shape {labels.shape} and dtype {labels.dtype}."
        raise RequestError(what, where=where, hint=hint)
    if len(flat) != n_samples:
        what = f"{len(flat)} labels for {n_samples} samples."
        raise RequestError(what, where=where, hint="give one label per sample.")
    targets = np.asarray(flat[:, 0].astype(np.float64) + offset)
    if not np.isfinite(targets).all():
        raise RequestError("holds NaN or infinite labels.", where=where, hint="remove them.")
    return targets


def check_labels(labels: Array | None, n_classes: int, where: str) -> None:
    """Refuse labels the model has no class for."""
    if labels is not None and labels.max() >= n_classes:
        what = f"label {labels.max()} is out of range: the model has {n_classes} classes."
        raise RequestError(what, where=where, hint="check data.labels and its offset.")


def _calibration(
    spec: DataSpec,
    wanted: Mapping[str, str],
    arrays: Mapping[str, Array],
    signature: tuple[TensorSpec, ...] | None,
) -> dict[str, Array] | None:
    if spec.builtin:
        wanted = dict.fromkeys(wanted, "x_calibration")
        return _inputs(spec, wanted, arrays, DIGITS_DATA, CALIBRATION_ROWS, signature)
    if spec.calibration is None:
        return None
    path = Path(spec.calibration)
    arrays = _read(path)
    for name in wanted.values():
        if name not in arrays:
            hint = f"the calibration set has the same arrays as the data; {nearest(name, arrays)}"
            raise RequestError(f"no array {name!r}.", where=str(path), hint=hint)
    return _inputs(spec, wanted, arrays, path, CALIBRATION_ROWS, signature)


def _digest(
    inputs: Mapping[str, Array],
    labels: Array | None,
    calibration: Mapping[str, Array] | None,
) -> str:
    content = hashlib.blake2b(digest_size=16)
    parts: dict[str, Array] = {f"input {name}": array for name, array in inputs.items()}
    parts.update({f"calibration {name}": array for name, array in (calibration or {}).items()})
    if labels is not None:
        parts["labels"] = labels
    for name, array in parts.items():
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()
