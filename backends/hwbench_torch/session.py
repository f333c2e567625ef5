"""A loaded program: eager where torch has kernels for its graph, compiled for int8."""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from hwbench.backend import (
    GPU_MEMORY,
    Actual,
    Array,
    Artifact,
    Environment,
    Feeds,
    OpPrecision,
    Session,
)
from hwbench.edits import Edits, apply, none
from hwbench.errors import Unsupported
from hwbench_torch.build import as_input, example_inputs
from hwbench_torch.evidence import compiled_operators, eager_operators
from hwbench_torch.probe import DTYPES, QUANTISED, compiled, require
from hwbench_torch.sites import PROGRAM, WEIGHTS, bits_dtype, header, site_named

Call = Callable[[Sequence[torch.Tensor]], Sequence[Any]]
Loss = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
RECOMPILE_LIMIT = 256  # batch shapes one session may see; past it torch would turn to eager


def open_session(artifact: Artifact) -> TorchSession:
    """See ``Backend.open``."""
    environment = artifact.environment
    require(environment)
    _one_interop_thread()
    program = load_program(artifact)
    weights = load_weights(artifact)
    _bound_gpu_memory(environment.device)
    if compiled(environment):
        return CompiledSession(artifact, program, weights)
    return TorchSession(artifact, program, weights)


def _bound_gpu_memory(device: str) -> None:
    """Keep to what a condition allows of the device's memory; torch raises what goes beyond it."""
    limit = os.environ.get(GPU_MEMORY)
    if limit and device.startswith("cuda"):
        whole = torch.cuda.get_device_properties(device).total_memory / 2**20
        torch.cuda.set_per_process_memory_fraction(min(1.0, float(limit) / whole), device)


def _one_interop_thread() -> None:
    # torch takes this once, before its first parallel work. Later it is also without effect:
    # a program's operators run one after the other in any case.
    if torch.get_num_interop_threads() != 1:
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(1)


def load_program(artifact: Artifact) -> ExportedProgram:
    """The program on the environment's device; shared by whoever asks again, not to be changed."""
    path = (artifact.folder / PROGRAM).resolve()
    stamp = path.stat()
    if artifact.environment.precision in QUANTISED:
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers its operators
    return _parsed(path, stamp.st_mtime_ns, stamp.st_size, artifact.environment.device)


# Reading a program takes longer than hundreds of inferences, and damaged artifacts share it.
@lru_cache(maxsize=4)
def _parsed(path: Path, modified: int, size: int, device: str) -> ExportedProgram:
    """A program's file, as it was when last modified at that time."""
    program: ExportedProgram = torch.export.load(path)
    return program if device == "cpu" else move_to_device_pass(program, device)


def load_weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    """The stored tensors by site name, in memory of their own and on the device."""
    device = artifact.environment.device
    return {name: each.to(device) for name, each in _from_file(artifact.folder / WEIGHTS)}


def _from_file(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a safetensors file.

    Read, not mapped: the pages of a mapped file would be a second copy in memory, and a view into
    it is aligned as the file is, which kernels may differ by.
    """
    with path.open("rb") as file:
        for name, entry in header(path).items():
            tensor = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
            if tensor.numel():
                file.seek(entry.offset)
                file.readinto(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            yield name, tensor


class TorchSession(Session):
    """An exported program run eagerly, node by node, on tensors that can be changed in place."""

    provider = "eager"

    def __init__(
        self, artifact: Artifact, program: ExportedProgram, weights: dict[str, torch.Tensor]
    ) -> None:
        self.inputs = artifact.inputs
        self.outputs = artifact.outputs
        self._artifact = artifact
        self._program = program
        self._weights = weights
        self._spared: dict[str, torch.Tensor] = {}
        self._dtype = DTYPES[artifact.environment.precision]
        self._arguments: tuple[torch.Tensor, ...] | None = None  # of the last run
        self._call = self._prepare()

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See ``Session.run``."""
        arguments = tuple(
            as_input(feeds[spec.name], self._dtype).to(self._artifact.environment.device)
            for spec in self.inputs
        )
        self._arguments = arguments
        with settings(self._artifact.environment):
            results = self._call(arguments)
            self._synchronise()
        tensors = [each for each in results if isinstance(each, torch.Tensor)]
        named = zip(self.outputs, tensors, strict=True)
        return {spec.name: as_array(tensor) for spec, tensor in named}

    @property
    def actual(self) -> Actual:
        """See ``Session.actual``; runs once, on the shapes of the last run if there was one."""
        device = self._artifact.environment.device
        with settings(self._artifact.environment):
            operators = tuple(self._operators(self._example()))
            threads = torch.get_num_threads() if device == "cpu" else None
        return Actual(torch.__version__, device, self.provider, threads, _isa(device), operators)

    def live(self, edits: Edits) -> None:
        """See ``Session.live``: kernels read these tensors at every run, nothing is packed."""
        sites = {name: site_named(self._artifact, name) for name in edits.touched()}
        self._restore()
        for name, site in sites.items():
            tensor = self._weights[name]
            stored = self.loaded(name).view(bits_dtype(site))
            damaged = apply(stored, edits.at_site(name))
            self._spared[name] = tensor.clone()
            tensor.copy_(from_bits(damaged, tensor.dtype))

    def loaded(self, name: str) -> Array:
        """A copy of the bits, as unsigned integers, that the kernels read for site ``name``."""
        tensor = self._weights[name].cpu()
        width = tensor.element_size()
        signed = getattr(torch, f"int{8 * width}")
        bits: Array = tensor.view(signed).numpy().copy().view(f"u{width}")
        return bits

    def derivatives(self, feeds: Feeds, loss: Loss) -> dict[str, torch.Tensor]:
        """Of a loss over the outputs by name, per stored tensor of real numbers."""
        arguments = [as_input(feeds[spec.name], self._dtype) for spec in self.inputs]
        device = self._artifact.environment.device
        real = {name: each for name, each in self._weights.items() if each.is_floating_point()}
        with settings(self._artifact.environment), torch.inference_mode(False), torch.enable_grad():
            leaves = {name: each.detach().clone().requires_grad_() for name, each in real.items()}
            flat = self._flat([each.to(device) for each in arguments], leaves)
            results = self._program.graph_module(*flat)
            tensors = [each for each in results if isinstance(each, torch.Tensor)]
            names = [spec.name for spec in self.outputs]
            value = loss(dict(zip(names, tensors, strict=True)))
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return {name: g for name, g in zip(leaves, found, strict=True) if g is not None}

    def close(self) -> None:
        """See ``Session.close``."""
        self.live(none())
        self._weights.clear()
        del self._call, self._program
        self._arguments = None

    def _restore(self) -> None:
        for name, tensor in self._spared.items():
            self._weights[name].copy_(tensor)
        self._spared.clear()

    def _prepare(self) -> Call:
        """A function of the user's inputs."""
        graph = self._program.graph_module

        def call(arguments: Sequence[torch.Tensor]) -> Sequence[Any]:
            outputs: Sequence[Any] = graph(*self._flat(arguments))
            return outputs

        return call

    def _flat(
        self, arguments: Sequence[torch.Tensor], instead: Mapping[str, torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """The graph's own arguments: its stored tensors, then the user's inputs, as it asks.

        Tensors named in ``instead`` replace those that were loaded.
        """
        names = self._artifact.meta["names"]
        held = self._weights if instead is None else {**self._weights, **instead}
        given = iter(arguments)
        targets = (spec.target for spec in self._program.graph_signature.input_specs)
        return [next(given) if each is None else held[names[each]] for each in targets]

    def _operators(self, arguments: Sequence[torch.Tensor]) -> list[OpPrecision]:
        graph = self._program.graph_module
        return eager_operators(graph, self._flat(arguments), self._artifact)

    def _example(self) -> tuple[torch.Tensor, ...]:
        device = self._artifact.environment.device
        if self._arguments is not None:
            return self._arguments
        return tuple(each.to(device) for each in example_inputs(self.inputs, self._dtype))

    def _synchronise(self) -> None:
        if self._artifact.environment.device != "cpu":
            torch.cuda.synchronize(self._artifact.environment.device)


class CompiledSession(TorchSession):
    """A program compiled by inductor, once per batch shape; quantised ones to int8 kernels."""

    provider = "inductor"

    def live(self, edits: Edits) -> None:
        """Refused, unless there is nothing to do: kernels read packed copies."""
        if len(edits):
            raise Unsupported(
                "inductor folds and packs weights while it compiles, so there is no buffer to "
                "change. Hint: residence: artifact"
            )

    def _prepare(self) -> Call:
        lowered = torch.compile(self._unlifted(), dynamic=False, fullgraph=True)
        known: set[tuple[torch.Size, ...]] = set()

        def call(arguments: Sequence[torch.Tensor]) -> Sequence[Any]:
            shapes = tuple(each.shape for each in arguments)
            if shapes in known:
                return _as_sequence(lowered(*arguments))
            with _compiling():
                outputs = _as_sequence(lowered(*arguments))
            known.add(shapes)
            return outputs

        return call

    def _unlifted(self) -> torch.nn.Module:
        """The program as a module that owns its tensors: only those does inductor fold."""
        program = copy.deepcopy(self._program)
        for target, name in self._artifact.meta["names"].items():
            value = self._weights[name]
            if target in program.constants:
                program.constants[target] = value
            else:
                is_parameter = isinstance(program.state_dict[target], torch.nn.Parameter)
                own = torch.nn.Parameter(value, requires_grad=False) if is_parameter else value
                program.state_dict[target] = own
        return program.module(check_guards=False)

    def _operators(self, arguments: Sequence[torch.Tensor]) -> list[OpPrecision]:
        self._call(arguments)  # so that what is observed is the run, not the compilation
        return compiled_operators(lambda: self._call(arguments), self._artifact)


@contextmanager
def _compiling() -> Iterator[None]:
    """Inductor's settings while it compiles: weights folded, in this process, no fall-back."""
    with (
        warnings.catch_warnings(),
        inductor.patch(freezing=True, compile_threads=1),
        dynamo.patch(recompile_limit=RECOMPILE_LIMIT, fail_on_recompile_limit_hit=True),
    ):
        warnings.simplefilter("ignore")  # of inductor's own code
        yield


@contextmanager
def settings(environment: Environment) -> Iterator[None]:
    """What torch keeps per process, as an environment has it; without gradients."""
    if torch.get_num_threads() != environment.threads:
        torch.set_num_threads(environment.threads)
    if environment.device != "cpu":
        _allow_tf32(environment.precision == "tf32")
    with torch.inference_mode(), _mkldnn(environment.options.get("mkldnn")):
        yield


@contextmanager
def _mkldnn(enabled: bool | None) -> Iterator[None]:
    """The option ``mkldnn``: whether oneDNN's kernels are used; ``None`` leaves it alone."""
    if enabled is None:
        yield
    else:
        with torch.backends.mkldnn.flags(enabled=enabled):
            yield


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _isa(device: str) -> str:
    """The instruction set of torch's own kernels, and the ceiling oneDNN was given, if any."""
    if device != "cpu":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    ceiling = os.environ.get("ONEDNN_MAX_CPU_ISA")
    capability: str = torch.backends.cpu.get_cpu_capability()
    return f"{capability}, oneDNN at most {ceiling}" if ceiling else capability


def _as_sequence(outputs: Any) -> Sequence[Any]:
    """A program's outputs, flat: mappings give their values."""
    if isinstance(outputs, torch.Tensor):
        return (outputs,)
    return tuple(outputs.values()) if isinstance(outputs, Mapping) else tuple(outputs)


def as_array(tensor: torch.Tensor) -> Array:
    """An array of its own; floats of less than 32 bits are widened."""
    wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor
    array: Array = wide.cpu().numpy().copy()
    return array


def from_bits(bits: Array, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of the given bits."""
    return torch.from_numpy(bits.view(f"i{bits.dtype.itemsize}")).view(dtype)
