"""The user's arrays to a prepared dataset: read, checked and preprocessed once, in the parent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import prod
from typing import Any, Literal

import numpy as np

from hwbench import sources
from hwbench.backend import Array, TensorSpec
from hwbench.builtin import DIGITS_DATA
from hwbench.dataset import Dataset
from hwbench.errors import RequestError
from hwbench.manner import initial
from hwbench.registry import nearest
from hwbench.spec.models import DataSpec, Labels, Preprocess

LABELS = "y"  # in an archive that says nothing else
CALIBRATION_ROWS = 512
UNASKED = -100  # label of a token that no class is asked of, as in PyTorch's losses

BLOCK = 64  # rows that are preprocessed at a time, in float64

# What labels are: one class a sample, one a token, one real number a sample, or anything.
Meaning = Literal["classes", "tokens", "targets", "any"]


def meaning(kind: str) -> Meaning:
    """What labels are in a kind of task; see ``TaskSpec``."""
    found: dict[str, Meaning] = {"regression": "targets", "token-classification": "tokens"}
    return found.get(kind, "classes" if kind.endswith("classification") else "any")


def prepare(
    spec: DataSpec, signature: tuple[TensorSpec, ...] | None, *, labels: Meaning = "classes"
) -> Dataset:
    """Read, check and preprocess the data of a spec.

    Args:
        spec: with absolute paths.
        signature: the model's inputs where they are known beforehand (ONNX), to check names,
            shapes and dtypes against; else names come from ``spec.inputs``.
        labels: what they are.

    Raises:
        RequestError: one line naming the file, the array and what to do.
    """
    constants = initial(spec.constants, spec.state, signature or ())
    fed = signature and tuple(
        each for each in signature if each.name not in {*constants, *spec.state}
    )
    if signature is not None and not fed:
        raise RequestError("the model has no input for it.", where="data", hint="remove the data.")
    spec, place = spelled_out(spec, fed), spec.place
    arrays = _read(spec, place, spec.limit)
    spec = _all_columns(spec, fed, arrays)
    arrays = _with_joined(spec, arrays, place)
    wanted = _wanted(spec, fed, arrays, place)
    inputs = _inputs(spec, wanted, arrays, place, spec.limit, fed)
    n_samples = len(next(iter(inputs.values())))
    told = _labels(spec, arrays, place, n_samples, labels)
    calibration = _calibration(spec, wanted, arrays, fed)
    digest = _digest(inputs, told, calibration, constants, spec.state)
    return Dataset(inputs, told, calibration, digest, constants, spec.state)


def nothing() -> Dataset:
    """What a model without inputs is fed: one sample of no arrays."""
    return Dataset({}, None, None, _digest({}, None, None, {}, {}))


def _read(spec: DataSpec, place: str, limit: int | None) -> dict[str, Array]:
    if spec.builtin:
        return sources.npz.read(str(DIGITS_DATA))
    return sources.read(spec, place, limit)


def _all_columns(
    spec: DataSpec, signature: tuple[TensorSpec, ...] | None, arrays: Mapping[str, Array]
) -> DataSpec:
    """Without `inputs`, all columns of a table but the labels feed the only input."""
    if not spec.table or spec.inputs or "x" in arrays or (signature and len(signature) > 1):
        return spec
    used = [name for name in arrays if spec.labels is None or name != spec.labels.array]
    name = signature[0].name if signature else "input"
    return spec.model_copy(update={"inputs": {name: used}})


def _array_name(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _with_joined(spec: DataSpec, arrays: dict[str, Array], place: str) -> dict[str, Array]:
    """The arrays, and those joined from several columns."""
    lists = [value for value in spec.inputs.values() if isinstance(value, list)]
    joined = {_array_name(each): sources.table.joined(arrays, each, place) for each in lists}
    return {**arrays, **joined}


def spelled_out(spec: DataSpec, signature: tuple[TensorSpec, ...] | None) -> DataSpec:
    """The spec with what it leaves to the kind of data written out."""
    if spec.builtin:
        return _builtin(spec, signature)
    if spec.npz:
        return _archive(spec)
    return _pictures(spec, signature) if spec.images or spec.dataset else spec


def _archive(spec: DataSpec) -> DataSpec:
    """An array ``y`` that no input takes holds the labels, unless the spec says what does."""
    fed = [
        name
        for each in spec.inputs.values()
        for name in ([each] if isinstance(each, str) else each)
    ]
    if "labels" in spec.model_fields_set or LABELS in fed:
        return spec
    return spec.model_copy(update={"labels": Labels(array=LABELS, optional=True)})


def _pictures(spec: DataSpec, signature: tuple[TensorSpec, ...] | None) -> DataSpec:
    """Decoded images, uint8 with channels last, to what the model takes."""
    if spec.dataset and "transform" not in spec.model_fields_set:
        return spec  # there need not be images in it
    shape = signature[0].shape if signature else ()
    last = len(shape) == 4 and shape[3] == spec.transform.input_size[0] != shape[1]
    whole = bool(signature) and signature is not None and signature[0].dtype == "uint8"
    norm: dict[str, Any] = {"scale": 1 / 255, **spec.transform.model_dump(include={"mean", "std"})}
    norm = {key: v[0] if isinstance(v, list) and len(v) == 1 else v for key, v in norm.items()}
    step = Preprocess(layout=None if last else "NHWC->NCHW", **({} if whole else norm))
    update: dict[str, Any] = {"preprocess": spec.preprocess or {"*": step}}
    if spec.images and "labels" not in spec.model_fields_set:
        update["labels"] = Labels(array=sources.images.CLASSES, optional=True)
    return spec.model_copy(update=update)


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


def _wanted(
    spec: DataSpec,
    signature: tuple[TensorSpec, ...] | None,
    arrays: Mapping[str, Array],
    path: str,
) -> dict[str, str]:
    """Array name by model input, in the model's order."""
    names = [each.name for each in signature] if signature else list(spec.inputs) or ["input"]
    wanted = {name: _array_name(value) for name, value in spec.inputs.items()}
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
            raise RequestError(f"no array {wanted[name]!r}.", where=path, hint=hint)
    return {name: wanted[name] for name in names}


def _inputs(
    spec: DataSpec,
    wanted: Mapping[str, str],
    arrays: Mapping[str, Array],
    path: str,
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
        raise RequestError(f"inputs differ in length: {lengths}.", where=path)
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
    laid_out = _laid_out(_shaped(raw, step, where), step, where)
    if step == Preprocess(layout=step.layout, shape=step.shape):  # integers stay integers
        return _cast(laid_out, dtype, where)
    channel_last = step.layout == "NCHW->NHWC"
    mean = _per_channel(step.mean, laid_out, channel_last, where)
    std = _per_channel(step.std, laid_out, channel_last, where)
    blocks = [
        _cast(((part.astype(np.float64) - step.offset) * step.scale - mean) / std, dtype, where)
        for part in (laid_out[at : at + BLOCK] for at in range(0, len(laid_out), BLOCK))
    ]
    return np.concatenate(blocks)


def _shaped(raw: Array, step: Preprocess, where: str) -> Array:
    if step.shape is None:
        return raw
    if prod(raw.shape[1:]) != prod(step.shape):
        what = f"rows have shape {raw.shape[1:]}, which is no {tuple(step.shape)}."
        raise RequestError(what, where=where, hint="check preprocess.shape.")
    return raw.reshape(len(raw), *step.shape)


def _cast(values: Array, dtype: np.dtype[Any] | None, where: str) -> Array:
    if dtype is None:  # no signature: real data and bytes (pictures) become float32, indices int64
        real = values.dtype.kind == "f" or values.dtype == np.uint8
        dtype = np.dtype(np.float32 if real else np.int64)
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
    # A model without a batch dimension is called with one sample at a time.
    bare = array.ndim == len(target.shape) + 1
    expected = target.shape if bare else target.shape[1:]
    fits = array.ndim - bare == len(target.shape) and all(
        want is None or want == have for want, have in zip(expected, array.shape[1:], strict=True)
    )
    if not fits:
        want = ", ".join("?" if each is None else str(each) for each in expected)
        have = ", ".join(map(str, array.shape[1:]))
        hint = "check preprocess.layout and which array feeds this input."
        what = f"rows have shape ({have}), input {target.name!r} takes ({want})."
        raise RequestError(what, where=where, hint=hint)


def _labels(
    spec: DataSpec, arrays: Mapping[str, Array], path: str, n_samples: int, kind: Meaning
) -> Array | None:
    if spec.labels is None or (spec.labels.optional and spec.labels.array not in arrays):
        return None
    where = f"{path}: {spec.labels.array}"
    if spec.labels.array not in arrays:
        hint = nearest(spec.labels.array, arrays)
        raise RequestError(f"no array {spec.labels.array!r}.", where=path, hint=hint)
    labels = arrays[spec.labels.array][: spec.limit]
    if kind == "targets":
        return _targets(labels, spec.labels.offset, n_samples, where)
    if kind == "classes" and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        hint = "class indices are a vector of integers; `labels: null` says that there are none."
        what = f"labels have shape {labels.shape} and dtype {labels.dtype}."
        raise RequestError(what, where=where, hint=hint)
    if kind == "tokens" and (labels.ndim != 2 or labels.dtype.kind not in "iu"):
        hint = "classes of tokens are a matrix of integers, one row a sample."
        what = f"labels have shape {labels.shape} and dtype {labels.dtype}."
        raise RequestError(what, where=where, hint=hint)
    if labels.ndim == 0 or len(labels) != n_samples:
        what = f"{len(labels) if labels.ndim else 1} labels for {n_samples} samples."
        raise RequestError(what, where=where, hint="give one label per sample.")
    return _classes(labels, spec.labels.offset, kind, where)


def _classes(labels: Array, offset: int, kind: Meaning, where: str) -> Array:
    """Class indices as int64, negative ones only where tokens may have none; else as they are."""
    if kind == "any":
        if labels.dtype.kind not in "biuf":
            hint = "numbers are expected; a metric of your own can look up the rest."
            raise RequestError(f"labels have dtype {labels.dtype}.", where=where, hint=hint)
        return labels
    labels = labels.astype(np.int64)
    if kind == "tokens":
        return np.where(labels < 0, UNASKED, labels + offset)
    labels = labels + offset
    if labels.min() < 0:
        what = f"label {labels.min()} is negative."
        raise RequestError(what, where=where, hint="check the offset.")
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
        return _inputs(spec, wanted, arrays, str(DIGITS_DATA), CALIBRATION_ROWS, signature)
    if spec.calibration is None:
        return None
    place = spec.calibration
    arrays = _with_joined(spec, _read(spec, place, CALIBRATION_ROWS), place)
    for name in wanted.values():
        if name not in arrays:
            hint = f"the calibration set has the same arrays as the data; {nearest(name, arrays)}"
            raise RequestError(f"no array {name!r}.", where=place, hint=hint)
    return _inputs(spec, wanted, arrays, place, CALIBRATION_ROWS, signature)


def _digest(
    inputs: Mapping[str, Array],
    labels: Array | None,
    calibration: Mapping[str, Array] | None,
    constants: Mapping[str, Array],
    state: Mapping[str, str],
) -> str:
    content = hashlib.blake2b(digest_size=16)
    parts: dict[str, Array] = {f"input {name}": array for name, array in inputs.items()}
    parts.update({f"calibration {name}": array for name, array in (calibration or {}).items()})
    parts.update({f"constant {name}": array for name, array in constants.items()})
    if labels is not None:
        parts["labels"] = labels
    content.update("".join(f"{name}={output};" for name, output in state.items()).encode())
    for name, array in parts.items():
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()
