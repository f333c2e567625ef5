"""Modules from model libraries, by their own loaders: timm, torchvision, Hugging Face transformers.

The libraries are imported when one of their models is asked for. Where they keep downloads, and
whether they may go online, is theirs to say (``HF_HOME``, ``HF_HUB_OFFLINE``, ``TORCH_HOME``).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hwbench.errors import RequestError, Unsupported


def load(reference: str, inputs: Sequence[str], *, untrained: bool) -> nn.Module:
    """The module that ``LIBRARY:NAME`` names.

    Args:
        reference: such as ``timm:resnet18`` or ``hf:/path/of/a/folder``.
        inputs: names of the inputs in the order they will be given.
        untrained: leave the library's weights out, because others are loaded afterwards.

    Raises:
        RequestError: no such model, or its weights cannot be had.
        Unsupported: the library is not installed, or does not work here.
    """
    name, _, model = reference.partition(":")
    library = _imported(_MODULES[name])
    with _told(reference):
        return _LOADERS[name](library, model, inputs, untrained)


def _timm(library: Any, name: str, inputs: Sequence[str], untrained: bool) -> nn.Module:
    del inputs  # a classifier of images takes one
    module = library.create_model(name, pretrained=not untrained)
    assert isinstance(module, nn.Module)
    return module


def _torchvision(library: Any, name: str, inputs: Sequence[str], untrained: bool) -> nn.Module:
    del inputs
    module = library.models.get_model(name, weights=None if untrained else "DEFAULT")
    assert isinstance(module, nn.Module)
    return module


def _transformers(library: Any, name: str, inputs: Sequence[str], untrained: bool) -> nn.Module:
    """The architecture that the model's own configuration names; never code from its folder."""
    settings = library.AutoConfig.from_pretrained(name, trust_remote_code=False)
    if not settings.architectures:
        raise RequestError("its config.json names no architecture.", where=f"hf:{name}")
    kind = getattr(library, settings.architectures[0], None)
    if kind is None:
        what = f"transformers {library.__version__} has no {settings.architectures[0]}."
        raise RequestError(what, where=f"hf:{name}", hint="upgrade transformers.")
    settings.use_cache = False  # a cache of keys and values is state, and no result
    made = kind(settings) if untrained else kind.from_pretrained(name, config=settings)
    return Keyworded(made, _keywords(made, inputs))


def _keywords(module: Any, inputs: Sequence[str]) -> tuple[str, ...]:
    """Arguments of ``forward`` that the inputs are; a single input may have any name."""
    known = inspect.signature(module.forward).parameters
    absent = [name for name in inputs if name not in known]
    if not absent:
        return tuple(inputs)
    if len(inputs) == 1:
        return (str(module.main_input_name),)
    takes = ", ".join(list(known)[:8])
    what = f"the model has no input {absent[0]!r}."
    raise RequestError(what, where="data.inputs", hint=f"it takes {takes}.")


class Keyworded(nn.Module):
    """A module called with positional arguments that hands them on by name.

    What it gives is ``logits`` where there are any, else every tensor of the result.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._names = tuple(names)

    def forward(self, *arguments: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs by name."""
        given = dict(zip(self._names, arguments, strict=True))
        result: Mapping[str, Any] = self.model(**given, return_dict=True)
        if "logits" in result:
            return {"logits": result["logits"]}
        return {name: each for name, each in result.items() if isinstance(each, torch.Tensor)}


_MODULES = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}  # and extras
_LOADERS: Mapping[str, Callable[[Any, str, Sequence[str], bool], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _transformers,
}


def _imported(module: str) -> ModuleType:
    """The library, or why it cannot be had."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise Unsupported(f"{module} needs {error.name}, which is not installed") from error
        hint = f'pip install "hwbench[{module}]"'
        raise Unsupported(f"{module} is not installed. Hint: {hint}") from error
    except (ImportError, RuntimeError) as error:
        raise Unsupported(f"{module} is installed but broken: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    first = str(error).strip().splitlines()[0]
    if "torchvision::" not in first:
        return first
    return (
        f"{first}: torchvision {_version('torchvision')} was built for another torch than"
        f" {torch.__version__}. Hint: install both from one index, such as"
        " https://download.pytorch.org/whl/cpu"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


@contextmanager
def _told(reference: str) -> Iterator[None]:
    """A loader's own refusal (unknown name, offline, no weights there) in one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[:1]
        raise RequestError(
            f"cannot be loaded ({type(error).__name__}: {first[0] if first else 'no reason'}).",
            where=reference,
            hint="check the name; offline, the model must be in the library's cache.",
        ) from error
