"""From a module to an artifact: export, quantise, store."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._pytree import tree_leaves

from hwbench.backend import Artifact, Environment, Feeds, ModelSource, TensorSpec
from hwbench.errors import RequestError, Unsupported
from hwbench_torch.modules import load_module, quiet
from hwbench_torch.probe import DTYPES, QUANTISED, REDUCE_RANGE, require
from hwbench_torch.sites import PROGRAM, WEIGHTS, operators, table

EXAMPLE_BATCH = 2  # an example of 1 would fix the batch dimension
EXAMPLE_SIZE = 16
OTHER_BATCH, OTHER_SIZE = 3, 8
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
    _require_free(program, module, model.inputs, environment)
    names = site_names(program, {})
    if environment.precision in QUANTISED:
        reduced = bool(environment.options.get(REDUCE_RANGE))
        program, names = _quantised(program, model.inputs, examples, calibration, reduced)
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
    with quiet():
        torch.onnx.export(
            module,
            examples,
            path,
            input_names=[spec.name for spec in model.inputs],
            output_names=list(output_names(module, examples)),
            dynamic_shapes=_nested(module, _named_dimensions(model.inputs)),
            opset_version=OPSET,
            dynamo=True,
            external_data=size >= 2**31,
            verbose=False,
        )
    return replace(model, onnx=str(path), torch=None, weights=None, pt2=None, library=None)


def example_inputs(
    inputs: Sequence[TensorSpec],
    dtype: torch.dtype,
    batch: int = EXAMPLE_BATCH,
    free: int = EXAMPLE_SIZE,
) -> Tensors:
    """Zeros in the inputs' shapes; floats in ``dtype``.

    Args:
        inputs: the model's inputs.
        dtype: of the floating-point ones.
        batch: size of a free first dimension.
        free: size of other free dimensions; four times that of images, which are halved often.
    """
    shapes = [_example_shape(spec, batch, free) for spec in inputs]
    return tuple(
        as_input(np.zeros(shape, np.dtype(spec.dtype)), dtype)
        for shape, spec in zip(shapes, inputs, strict=True)
    )


def as_input(array: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of an array's values, in ``dtype`` if they are floating-point."""
    writeable = array if array.flags.writeable else array.copy()  # torch warns of read-only memory
    tensor = torch.from_numpy(np.ascontiguousarray(writeable))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _example_shape(spec: TensorSpec, batch: int, free: int) -> tuple[int, ...]:
    other = 4 * free if len(spec.shape) > 3 else free
    sizes = [other if size is None else size for size in spec.shape]
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
        with quiet():
            return torch.export.export(module, examples, dynamic_shapes=_nested(module, free))
    except (TorchDynamoException, GuardOnDataDependentSymNode) as error:
        first = str(error).strip().splitlines()[0]
        raise Unsupported(f"torch.export cannot follow the module: {first}") from error


def _nested(module: nn.Module, free: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dimensions in the structure of ``forward``'s own arguments: ``*arguments`` are one."""
    kinds = [each.kind for each in inspect.signature(module.forward).parameters.values()]
    return (free,) if kinds == [inspect.Parameter.VAR_POSITIONAL] else free


def _require_free(
    program: ExportedProgram,
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    environment: Environment,
) -> None:
    """Compare program and module at other sizes: torch may have fixed what should be free."""
    others = example_inputs(inputs, DTYPES[environment.precision], OTHER_BATCH, OTHER_SIZE)
    # The program's own checks are stricter than need be: they fix the length of a sequence that
    # an LSTM reads. A session does without them; torchao's quantisation does not.
    checked = environment.precision in QUANTISED
    call = program.module(check_guards=False) if checked else partial(_call_unchecked, program)
    try:
        with torch.no_grad():
            expected, found = tree_leaves(module(*others)), tree_leaves(call(*others))
    except (AssertionError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise Unsupported(f"a free dimension of the inputs is fixed: {first}") from error
    if not all(map(_close, found, expected)):
        raise Unsupported("torch.export fixes a free dimension of the inputs: outputs differ")


def _call_unchecked(program: ExportedProgram, *inputs: torch.Tensor) -> Any:
    """The program's graph on its stored tensors and ``inputs``, as a session calls it."""
    given = iter(inputs)
    targets = [spec.target for spec in program.graph_signature.input_specs]
    return program.graph_module(
        *(next(given) if each is None else _tensor(program, each) for each in targets)
    )


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for what another order of additions does: fused kernels stay out of programs."""
    if found.shape != expected.shape:
        return False
    scale = expected.double().abs().amax() if expected.numel() else 0.0
    return bool(torch.allclose(found.double(), expected.double(), atol=0.05 * float(scale)))


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
    reduced: bool,
) -> tuple[ExportedProgram, dict[str, str]]:
    if calibration is None:
        raise RequestError("int8 needs calibration data.", hint="give the model calibration rows.")
    batches = calibration_batches(inputs, calibration)
    with quiet():
        from hwbench_torch.quantise import quantise

        module, renamed = quantise(program, batches, reduced)
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
    with quiet():
        torch.export.save(program, folder / PROGRAM)


def _hollow(program: ExportedProgram, target: str) -> None:
    """Put a tensor of one stored element in place of the real one: shape and dtype stay."""
    held: dict[str, Any] = program.state_dict if target in program.state_dict else program.constants
    value = held[target]
    hollow = torch.zeros((), dtype=value.dtype).expand(value.shape)
    is_parameter = isinstance(value, nn.Parameter)
    held[target] = nn.Parameter(hollow, requires_grad=False) if is_parameter else hollow
