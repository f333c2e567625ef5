"""Model sources: which file or factory stands behind a spec's model, and its signature."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.backend import ModelSource, TensorSpec
from hwbench.builtin import DIGITS_ONNX, DIGITS_WEIGHTS
from hwbench.errors import RequestError
from hwbench.files import regular
from hwbench.registry import nearest
from hwbench.spec.models import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

BUILTIN_FACTORY = "hwbench_torch.digits:digits_cnn"
_ZIP, _PROTO = b"PK\x03\x04", 0x80  # torch.save's archive; opcode that begins a pickle
LIBRARIES = ("timm", "torchvision", "hf")


def check_allowed(models: dict[str, ModelSpec], allow_code: bool) -> None:
    """Refuse a spec that would run the user's code, unless that is allowed."""
    for name, model in models.items():
        if model.torch and not allow_code:
            raise RequestError(
                f"model {name!r} runs code from {model.torch}.",
                where="model.torch",
                hint="if you trust it, add --allow-code.",
            )


def signature(model: ModelSpec) -> tuple[TensorSpec, ...] | None:
    """The inputs a file declares (not its initializers); ``None`` for a factory or a library.

    Raises:
        RequestError: no such file, or not an ONNX model or exported program.
    """
    if model.pt2 is not None:
        from hwbench import programfile

        return programfile.signature(Path(model.pt2))
    path = str(DIGITS_ONNX) if model.builtin else model.onnx
    return None if path is None else _onnx_inputs(Path(path))


def n_classes(model: ModelSpec, output: str | None) -> int | None:
    """Size of the last dimension of an ONNX output (default: the first); ``None`` if not told."""
    path = str(DIGITS_ONNX) if model.builtin else model.onnx
    if path is None:
        return None
    outputs = {each.name: each for each in _load(Path(path)).graph.output}
    if output is not None and output not in outputs:
        hint = nearest(output, outputs)
        raise RequestError(f"the model has no output {output!r}.", where="task.output", hint=hint)
    chosen = outputs[output] if output else next(iter(outputs.values()))
    dims = chosen.type.tensor_type.shape.dim
    return (dims[-1].dim_value or None) if len(dims) else None


def check_outputs(model: ModelSpec, names: Iterable[str], where: str) -> None:
    """Refuse names of outputs that an ONNX model does not have."""
    for name in names:
        if model.onnx is None:
            raise RequestError("only ONNX files carry a state.", where=where)
        known = [each.name for each in _load(Path(model.onnx)).graph.output]
        if name not in known:
            hint = nearest(name, known)
            raise RequestError(f"the model has no output {name!r}.", where=where, hint=hint)


def _onnx_inputs(path: Path) -> tuple[TensorSpec, ...]:
    proto = _load(path)
    held = {each.name for each in proto.graph.initializer}
    return tuple(_tensor(each, path) for each in proto.graph.input if each.name not in held)


def _load(path: Path) -> ModelProto:
    """The graph without external data.

    Raises:
        RequestError: no such file, or not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    _refuse_pickle(path)
    try:
        proto = onnx.load(str(regular(path)), load_external_data=False)
    except FileNotFoundError:
        raise RequestError("no such file.", where=str(path), hint="check model.onnx.") from None
    except (DecodeError, OSError, UnicodeDecodeError) as error:
        hint = "export the model again, or check the path."
        raise RequestError(f"is no ONNX model ({error}).", where=str(path), hint=hint) from None
    if not proto.graph.node or not proto.graph.output:
        lack = "no outputs" if proto.graph.node else "an empty graph"
        hint = "export the model again, or check the path."
        what = f"is no ONNX model (it has {lack})."
        raise RequestError(what, where=str(path), hint=hint)
    return proto


def _refuse_pickle(path: Path) -> None:
    """Say of what ``torch.save`` or ``pickle`` wrote that it is such a file."""
    if not regular(path).is_file():
        return
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(_ZIP) or (len(head) > 1 and head[0] == _PROTO and head[1] in range(2, 6)):
        raise RequestError(
            "is no ONNX model but an archive or a pickle, as torch.save writes them: they may run"
            " code and are never loaded.",
            where=str(path),
            hint="export it to ONNX, or by torch.export.save to .pt2 (model.pt2); a state dict is"
            " model.weights beside model.torch.",
        )


def _tensor(value: object, path: Path) -> TensorSpec:
    import numpy as np
    from onnx import ValueInfoProto, helper

    assert isinstance(value, ValueInfoProto)
    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        dtype = np.dtype(object)
    # Text, or numbers that NumPy has not by itself, such as bfloat16 (which may call itself float).
    if dtype.kind not in "biuf" or dtype.isbuiltin != 1:
        named = "is no tensor of numbers" if dtype.hasobject else f"is {dtype.name}"
        what = f"input {value.name!r} {named}, which NumPy cannot feed."
        raise RequestError(what, where=str(path), hint="export it with float32 inputs.")
    dims = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
    return TensorSpec(value.name, dims, dtype.name)


def source(name: str, model: ModelSpec, inputs: tuple[TensorSpec, ...]) -> ModelSource:
    """The model in every form it has."""
    if model.builtin:
        return ModelSource(name, inputs, str(DIGITS_ONNX), BUILTIN_FACTORY, str(DIGITS_WEIGHTS))
    return ModelSource(
        name, inputs, model.onnx, model.torch, model.weights, model.pt2, model.library
    )


def digest(model: ModelSource) -> str:
    """Content hash of the model's files, external data beside an ONNX file included.

    Raises:
        RequestError: a file is missing.
    """
    content = hashlib.blake2b(digest_size=16)
    content.update(f"{model.torch}".encode())
    beside = _external(Path(model.onnx)) if model.onnx else []
    for path in (model.onnx, model.weights, model.pt2, *beside):
        if path is not None:
            content.update(_file_digest(Path(path)))
    if model.library is not None:
        content.update(model.library.encode())
        folder = folder_of(model)
        for file in sorted(folder.rglob("*")) if folder else ():
            if file.is_file():
                content.update(_file_digest(file))
    return content.hexdigest()


def folder_of(model: ModelSource) -> Path | None:
    """The folder that ``hf:FOLDER`` names; ``None`` where a library finds the model by a name."""
    library, _, name = (model.library or "").partition(":")
    return Path(name) if library == "hf" and Path(name).is_absolute() else None


def unseen(model: ModelSource) -> bool:
    """Whether a library finds the model by a name: its contents may then change unnoticed."""
    return model.library is not None and folder_of(model) is None


def by_name(reference: str) -> dict[str, str]:
    """What the command line calls a model, as keys of a spec: a file, or ``LIBRARY:NAME``."""
    if reference.partition(":")[0] in LIBRARIES:
        return {"library": reference}
    path = Path(reference).resolve()
    return {"pt2" if path.suffix == ".pt2" else "onnx": str(path)}


def external_files(path: Path) -> list[Path]:
    """Files beside an ONNX model in which it keeps tensors; none of another file."""
    return _external(path) if path.suffix == ".onnx" else []


def _external(path: Path) -> list[Path]:
    """Files that an ONNX model names, wherever in it."""
    from onnx.external_data_helper import uses_external_data

    from hwbench import onnxfile

    names = {
        entry.value
        for tensor in onnxfile.tensors(_load(path))
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [_inside(path, name) for name in sorted(names)]


def _inside(model: Path, name: str) -> Path:
    """Where external data lies, refusing paths that leave the model's folder."""
    folder = model.parent.resolve()
    try:
        target = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # NUL bytes, endless links
        what = f"external data {name!r} is no path ({error})."
        raise RequestError(what, where=str(model), hint="export the model again.") from None
    if not target.is_relative_to(folder):
        what = f"external data {name!r} lies outside the model's folder."
        raise RequestError(what, where=str(model), hint="keep the data beside the model.")
    return target


def _file_digest(path: Path) -> bytes:
    try:
        with regular(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise RequestError(f"{reason}.", where=str(path), hint="check the model's path.") from None
