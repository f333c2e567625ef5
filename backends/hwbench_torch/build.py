"""From a factory of modules to an artifact: load, export, quantise, store."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from hwbench.backend import Artifact, Environment, Feeds, ModelSource, TensorSpec
from hwbench.errors import RequestError, Unsupported
from hwbench_torch.probe import DTYPES, QUANTISED, require
from hwbench_torch.sites import PROGRAM, WEIGHTS, operators, table

EXAMPLE_BATCH = 2  # an example of 1 would fix the batch dimension
CALIBRATION_BATCH = 32
OPSET = 18
STORED_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
Tensors = tuple[torch.Tensor, ...]


def build(
    model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
) -> Artifact:
    """See ``Backend.build``."""
    require(environment)
    dtype = DTYPES[environment.precision]
    module: nn.Module = load_module(model).to(dtype)
    examples = example_inputs(model.inputs, dtype)
    outputs = output_names(module, examples)
    program = export(module, model.inputs, examples)
    _require_free_batch(program, model.inputs, dtype)
    names = site_names(program, {})
    if environment.precision in QUANTISED:
        program, names = _quantised(program, model.inputs, examples, calibration)
    artifact = Artifact(
        folder,
        environment,
        model.inputs,
        _output_specs(program, outputs),
        {"sites": table(program, names), "operators": operators(program, names), "names": names},
    )
    _store(program, names, folder)
    artifact.save()
    return artifact


def convert(model: ModelSource, to: str, folder: Path) -> ModelSource:
    """See ``Backend.convert``: torch to ONNX, weights inside the file below 2 GB."""
    if to != "onnx":
        raise Unsupported(f"torch does not convert models to {to}, only to onnx")
    module = load_module(model)
    examples = example_inputs(model.inputs, torch.float32)
    path = folder / f"{model.name}.onnx"
    size = sum(each.numel() * each.element_size() for each in module.state_dict().values())
    with _quiet():
        torch.onnx.export(
            module,
            examples,
            path,
            input_names=[spec.name for spec in model.inputs],
            output_names=list(output_names(module, examples)),
            dynamic_shapes=_named_dimensions(model.inputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=size >= 2**31,
            verbose=False,
        )
    return replace(model, onnx=str(path), torch=None, weights=None)


def load_module(model: ModelSource) -> nn.Module:
    """The model's module in inference mode, its weights loaded.

    Raises:
        Unsupported: the model has no torch form.
        RequestError: the factory or the weights cannot be had.
    """
    if model.torch is None:
        raise Unsupported(
            "torch cannot import ONNX files. Hint: give the model as torch: package.module:factory"
        )
    factory = _factory(model.torch)
    # A factory without a weights file draws random weights: the same in every build.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = factory()
    if not isinstance(module, nn.Module):
        raise RequestError(f"gave a {type(module).__name__}, not an nn.Module.", where=model.torch)
    if model.weights is not None:
        _load_weights(module, Path(model.weights))
    return module.eval().requires_grad_(False)


def _factory(reference: str) -> Any:
    """The callable that ``package.module:factory`` names."""
    module_name, colon, attribute = reference.partition(":")
    if not (module_name and colon and attribute):
        raise RequestError("is not package.module:factory.", where=f"torch: {reference}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, something it imports is not
        raise RequestError(
            f"there is no module {error.name}.",
            where=f"torch: {reference}",
            hint="install it, or put its folder on PYTHONPATH.",
        ) from error
    if not callable(getattr(module, attribute, None)):
        known = [name for name in vars(module) if not name.startswith("_")]
        raise RequestError(
            f"{module_name} has no callable {attribute}.",
            where=f"torch: {reference}",
            hint=f"it has {', '.join(known[:8])}.",
        )
    return getattr(module, attribute)


def _load_weights(module: nn.Module, path: Path) -> None:
    """Load a weights file strictly: no missing, no unexpected, no differently shaped tensor."""
    given = _read_weights(path)
    wanted = module.state_dict()
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
            for name in wanted
            if name in given and given[name].shape != wanted[name].shape
        ],
    }
    found = [f"{len(bad)} {what} ({', '.join(bad[:3])})" for what, bad in problems.items() if bad]
    if found:
        raise RequestError(
            f"the weights do not fit the module: {'; '.join(found)}.",
            where=str(path),
            hint="the file must be the state_dict of what the factory returns.",
        )
    module.load_state_dict(given)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from a safetensors file or a pickle of tensors alone."""
    if not path.is_file():
        raise RequestError("there is no such weights file.", where=str(path))
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise RequestError(f"is no safetensors file: {error}.", where=str(path)) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(
            "holds more than tensors, or is no torch.save file; such pickles are refused.",
            where=str(path),
            hint="save module.state_dict(), best as .safetensors.",
        ) from error
    tensors: dict[str, torch.Tensor] = content.get("state_dict", content)
    return tensors


def example_inputs(
    inputs: Sequence[TensorSpec], dtype: torch.dtype, batch: int = EXAMPLE_BATCH
) -> Tensors:
    """Zeros in the inputs' shapes, other free dimensions small; floats in ``dtype``."""
    return tuple(
        as_input(np.zeros(_example_shape(spec, batch), np.dtype(spec.dtype)), dtype)
        for spec in inputs
    )


def as_input(array: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of an array's values, in ``dtype`` if they are floating-point."""
    writeable = array if array.flags.writeable else array.copy()  # torch warns of read-only memory
    tensor = torch.from_numpy(np.ascontiguousarray(writeable))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _example_shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    free = 64 if len(spec.shape) > 3 else 16  # images survive five halvings
    sizes = [free if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[0] is None:
        sizes[0] = batch
    return tuple(sizes)


def output_names(module: nn.Module, examples: Tensors) -> tuple[str, ...]:
    """Names of the outputs, which torch itself does not have.

    In this order: the keys, where the module returns a mapping; its attribute ``output_names``;
    ``output``, or ``output_0`` and so on.

    Raises:
        Unsupported: the module returns something else than tensors.
        RequestError: ``output_names`` does not fit what the module returns.
    """
    result = _tried(module, examples)
    named = dict(result) if isinstance(result, Mapping) else None
    values = list(named.values()) if named is not None else result
    values = values if isinstance(values, list | tuple) else [values]
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise Unsupported("the module must return a tensor, or a flat tuple or mapping of tensors")
    if named is not None:
        return tuple(str(name) for name in named)
    default = [f"output_{i}" for i in range(len(values))] if len(values) > 1 else ["output"]
    names = tuple(getattr(module, "output_names", default))
    if len(names) != len(values):
        raise RequestError(f"output_names {names} name {len(values)} outputs.")
    return names


def _tried(module: nn.Module, examples: Tensors) -> Any:
    """What the module returns for ``examples``; it must leave its own tensors alone."""
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = {name: tensor._version for name, tensor in held.items()}
    with torch.no_grad():
        result = module(*examples)
    changed = [name for name, version in before.items() if held[name]._version != version]
    if changed:
        raise Unsupported(f"the module changes {changed[0]} while it infers: runs would differ")
    return result


def export(module: nn.Module, inputs: Sequence[TensorSpec], examples: Tensors) -> ExportedProgram:
    """The module's program; torch keeps those free dimensions of ``inputs`` free that it can.

    Raises:
        Unsupported: torch.export cannot follow the module.
    """
    free = tuple(
        {axis: Dim.AUTO for axis, size in enumerate(spec.shape) if size is None} for spec in inputs
    )
    try:
        with _quiet():
            return torch.export.export(module, examples, dynamic_shapes=free)
    except (TorchDynamoException, GuardOnDataDependentSymNode) as error:
        first = str(error).strip().splitlines()[0]
        raise Unsupported(f"torch.export cannot follow the module: {first}") from error


def _require_free_batch(
    program: ExportedProgram, inputs: Sequence[TensorSpec], dtype: torch.dtype
) -> None:
    """Run the program, with its own checks, on another batch size than it was exported with."""
    if not any(spec.shape and spec.shape[0] is None for spec in inputs):
        return
    try:
        with torch.no_grad():
            program.module()(*example_inputs(inputs, dtype, EXAMPLE_BATCH + 1))
    except (AssertionError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise Unsupported(f"the module fixes its batch dimension: {first}") from error


def _named_dimensions(inputs: Sequence[TensorSpec]) -> tuple[dict[int, Any], ...]:
    """Dimensions for the ONNX file; the batch is called so."""
    return tuple(
        {
            axis: "batch" if axis == 0 else Dim.DYNAMIC
            for axis, size in enumerate(spec.shape)
            if size is None
        }
        for spec in inputs
    )


def site_names(program: ExportedProgram, renamed: Mapping[str, str]) -> dict[str, str]:
    """Site name by stored tensor of the program; tensors that share memory share a name."""
    names: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for spec in program.graph_signature.input_specs:
        if spec.target is None:
            continue
        if spec.kind not in STORED_KINDS:
            raise Unsupported(f"the module holds {spec.target}, which is not a tensor")
        value = _tensor(program, spec.target)
        memory = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        name = renamed.get(spec.target, spec.target)
        names[spec.target] = seen.setdefault(memory, name) if value.numel() else name
    return names


def _tensor(program: ExportedProgram, target: str) -> torch.Tensor:
    held = program.state_dict if target in program.state_dict else program.constants
    value = held[target]
    assert isinstance(value, torch.Tensor)
    return value


def _quantised(
    program: ExportedProgram,
    inputs: Sequence[TensorSpec],
    examples: Tensors,
    calibration: Feeds | None,
) -> tuple[ExportedProgram, dict[str, str]]:
    if calibration is None:
        raise RequestError("int8 needs calibration data.", hint="give the model calibration rows.")
    batches = calibration_batches(inputs, calibration)
    with _quiet():
        from hwbench_torch.quantise import quantise

        module, renamed = quantise(program, batches)
    result = export(module, inputs, examples)
    return result, site_names(result, renamed)


def calibration_batches(inputs: Sequence[TensorSpec], rows: Feeds) -> Iterator[Tensors]:
    """The calibration rows as batches of tensors, in the order of ``inputs``."""
    columns = [as_input(np.asarray(rows[spec.name]), torch.float32) for spec in inputs]
    for start in range(0, len(columns[0]), CALIBRATION_BATCH):
        yield tuple(column[start : start + CALIBRATION_BATCH] for column in columns)


def _output_specs(program: ExportedProgram, names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Outputs as a session gives them: low-precision floats are widened to float32."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    arguments = [spec.arg for spec in program.graph_signature.output_specs]
    tensors = [values[each.name] for each in arguments if isinstance(each, TensorArgument)]
    return tuple(
        TensorSpec(
            name,
            tuple(size if isinstance(size, int) else None for size in value.shape),
            "float32" if value.is_floating_point() else str(value.dtype).removeprefix("torch."),
        )
        for name, value in zip(names, tensors, strict=True)
    )


def _store(program: ExportedProgram, names: Mapping[str, str], folder: Path) -> None:
    """Write weights and program apart: damaging the weights leaves the program alone."""
    weights: dict[str, torch.Tensor] = {}
    for target, name in names.items():
        value = _tensor(program, target).detach()
        # A copy: safetensors refuses tensors that share memory or are not contiguous.
        weights[name] = value.clone(memory_format=torch.contiguous_format)
        _hollow(program, target)
    save_file(weights, folder / WEIGHTS)
    with _quiet():
        torch.export.save(program, folder / PROGRAM)


def _hollow(program: ExportedProgram, target: str) -> None:
    """Put a tensor of one stored element in place of the real one: shape and dtype stay."""
    held: dict[str, Any] = program.state_dict if target in program.state_dict else program.constants
    value = held[target]
    hollow = torch.zeros((), dtype=value.dtype).expand(value.shape)
    is_parameter = isinstance(value, nn.Parameter)
    held[target] = nn.Parameter(hollow, requires_grad=False) if is_parameter else hollow


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of torch's own export and quantisation code, which nobody here can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
