"""A loaded model, and what ONNX Runtime made of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto

from hwbench import cpuid, onnxbytes, onnxfile
from hwbench.backend import Actual, Array, Artifact, Feeds, OpPrecision, Session
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.onnxfile import Operator
from hwbench_onnxruntime import devices, options, probe
from hwbench_onnxruntime.sites import path_of

# From most to least capable; the kernels are chosen at run time and not reported.
_X86 = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "avx", "sse4_1")
_ARM = ("i8mm", "sve", "asimddp", "asimd")
_ERRORS_ONLY = 3
EXTERNAL = "session.optimized_model_external_initializers_file_name"
EXTERNAL_SIZE = "session.optimized_model_external_initializers_min_size_in_bytes"


class OnnxRuntimeSession(Session):
    """An ``InferenceSession`` with every optimisation, as deployed."""

    def __init__(self, artifact: Artifact) -> None:
        self.inputs = artifact.inputs
        self.outputs = artifact.outputs
        self._artifact = artifact
        self._session = load(artifact, settings_of(artifact))

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See ``Session.run``."""
        names = [each.name for each in self.outputs]
        results = self._session.run(names, dict(feeds))
        # What ONNX Runtime returns may lie in its own memory.
        return {name: np.array(array) for name, array in zip(names, results, strict=True)}

    @cached_property
    def actual(self) -> Actual:
        """See ``Session.actual``. Loads the model a second time."""
        device, operators = _ran(self._artifact)
        return Actual(
            version=ort.__version__,
            device=device,
            provider=self._session.get_providers()[0],
            threads=self._session.get_session_options().intra_op_num_threads,
            # An emulated CPU is not the one that the system tells of.
            isa=cpu_isa(Path("/proc/cpuinfo"), cpuid.read()),
            ops=operators,
        )

    def live(self, edits: Edits) -> None:
        """See ``Session.live``: not to be had here."""
        raise Unsupported(probe.NO_LIVE)

    def close(self) -> None:
        """See ``Session.close``."""
        del self._session


def settings_of(artifact: Artifact) -> Any:
    """Session options as deployed."""
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.intra_op_num_threads = artifact.environment.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = _ERRORS_ONLY
    for key, value in options.session_entries(artifact.environment).items():
        settings.add_session_config_entry(key, value)
    return settings


def load(artifact: Artifact, settings: Any) -> Any:
    """An ``InferenceSession`` on the asked provider, or on the processor if that cannot be loaded.

    ONNX Runtime falls back with a warning; ``actual`` tells where the operators really are.
    """
    environment = artifact.environment
    if environment.device.startswith("tensorrt") and environment.precision == "fp32":
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # TensorRT has no option of its own
    provider, parameters = devices.provider_of(environment)
    session = ort.InferenceSession(
        str(path_of(artifact)), settings, providers=[provider], provider_options=[parameters]
    )
    session.disable_fallback()  # a run that fails must fail, not move to the CPU
    return session


def _ran(artifact: Artifact) -> tuple[str, tuple[OpPrecision, ...]]:
    """Where the operators with weights run, and how: as the session itself records it."""
    environment = artifact.environment
    if environment.device == "cpu":
        return "cpu", tuple(_operators(artifact))
    settings = settings_of(artifact)
    settings.add_session_config_entry(devices.RECORD, "1")
    session = load(artifact, settings)
    assigned, told = devices.assignments(session), session.get_provider_options()
    kept = onnxfile.operators(onnxbytes.skeleton(path_of(artifact)))
    ops = tuple(
        OpPrecision(op.name, op.op_type, op.stored, devices.executed(op.executed, told))
        for op in kept
    )
    weighty = [op.name for op in kept]
    return devices.ran_on(environment, session.get_providers(), weighty, assigned), ops


def _operators(artifact: Artifact) -> Iterator[OpPrecision]:
    """Weight-bearing operators of the graph that is executed, after every optimisation."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "optimised.onnx"
        settings = settings_of(artifact)
        settings.optimized_model_filepath = str(target)
        # Weights go into a file of their own, and stay out of memory.
        settings.add_session_config_entry(EXTERNAL, "weights.bin")
        settings.add_session_config_entry(EXTERNAL_SIZE, "1024")
        load(artifact, settings)
        executed = onnx.load(str(target), load_external_data=False)
    kept = onnxbytes.skeleton(path_of(artifact))
    origins = _origins(kept)
    every = "+".join(sorted({op.stored for op in onnxfile.operators(kept)}))
    for op in onnxfile.operators(executed):
        origin = _origin(op, origins)
        kernel = f"{op.domain}.{op.op_type}" if op.domain else op.op_type
        if origin is None:
            yield OpPrecision(op.name, op.op_type, every, op.executed, kernel)
        else:
            yield OpPrecision(origin.name, origin.op_type, origin.stored, op.executed, kernel)


def _origins(model: ModelProto) -> dict[str, Operator]:
    """The artifact's operator behind each name that its optimised form may carry.

    Fusion names an operator after the last tensor of what it swallowed (``relu_3_nchwc``), so
    tensors are traced back to the nearest operator with a weight.
    """
    held = onnxfile.operators(model)
    result = {name: op for op in held for name in op.outputs}
    for node in model.graph.node:
        behind = [result[name] for name in node.input if name in result]
        for name in node.output if behind else ():
            # The last operand is the one computed just before, which is what fusion joins.
            result.setdefault(name, behind[-1])
    return {**result, **{op.name: op for op in held if op.name}}


def _origin(op: Operator, origins: dict[str, Operator]) -> Operator | None:
    for name in (op.name, *op.outputs):
        plain = name.removeprefix("InsertedPrecisionFreeCast_").removesuffix("_nchwc")
        plain = plain.split("_token_")[0]
        if plain in origins:
            return origins[plain]
    return None


def cpu_isa(path: Path, cpu: cpuid.Cpu | None = None) -> str:
    """The CPU's widest instruction set that ONNX Runtime has kernels for.

    ONNX Runtime does not say which kernels it chose: this is what it could choose from.
    """
    flags = set(cpu.flags) if cpu else _told_flags(path)
    best = next((name for name in (*_X86, *_ARM) if name in flags), None)
    return f"{best} (cpu)" if best else "unknown"


def _told_flags(path: Path) -> set[str]:
    """Flags of the CPU that the system tells of."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()
    }
