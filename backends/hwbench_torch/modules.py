"""The user's module: from a factory, an exported program or a library, and a weights file."""

from __future__ import annotations

import importlib
import pickle
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch._export.serde.serialize import SerializeError

from hwbench import programfile
from hwbench.backend import ModelSource
from hwbench.errors import RequestError, Unsupported
from hwbench_torch import libraries


def load_module(model: ModelSource) -> nn.Module:
    """The model's module in inference mode, its weights loaded.

    Raises:
        Unsupported: the model has no torch form.
        RequestError: the factory or the weights cannot be had.
    """
    if model.pt2 is not None:
        return _program(Path(model.pt2))
    # A factory without a weights file draws random weights: the same in every build.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _made(model)
    if model.weights is not None:
        _load_weights(module, Path(model.weights))
    return module.eval().requires_grad_(False)


def _made(model: ModelSource) -> nn.Module:
    if model.library is not None:
        names = [each.name for each in model.inputs]
        return libraries.load(model.library, names, untrained=model.weights is not None)
    if model.torch is None:
        raise Unsupported(
            "torch cannot import ONNX files. Hint: give the model as torch: package.module:factory"
        )
    module = _factory(model.torch)()
    if not isinstance(module, nn.Module):
        raise RequestError(f"gave a {type(module).__name__}, not an nn.Module.", where=model.torch)
    return module


def _program(path: Path) -> nn.Module:
    """The module of an exported program; torch is given a copy that was looked through."""
    with tempfile.TemporaryDirectory() as scratch, quiet():
        copy = Path(scratch) / "program.pt2"
        programfile.copy_checked(path, copy)
        try:
            program = torch.export.load(copy)
        except (RuntimeError, SerializeError, AssertionError, KeyError, TypeError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            hint = f"save it again with torch {torch.__version__}."
            raise RequestError(
                f"torch cannot load it ({first}).", where=str(path), hint=hint
            ) from error
        # A program cannot be told to infer: it does what it did when it was exported.
        return program.module(check_guards=False).requires_grad_(False)


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
        with quiet():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(
            "holds more than tensors, or is no torch.save file; such pickles are refused.",
            where=str(path),
            hint="save module.state_dict(), best as .safetensors.",
        ) from error
    tensors: dict[str, torch.Tensor] = content.get("state_dict", content)
    return tensors


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of torch's own export and quantisation code, which nobody here can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
