"""A compiled IR, and what the plugin really does with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov

from hwbench.backend import Actual, Array, Artifact, Environment, Feeds, OpPrecision, Session, Site
from hwbench.errors import RequestError
from hwbench_openvino import probe
from hwbench_openvino.build import one_line
from hwbench_openvino.options import plugin_options
from hwbench_openvino.sites import XML, sites

# int8 names the precision of the operators that are not quantised: without a hint the CPU plugin
# would run them in bf16 where the CPU has it.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
PRECISIONS = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "i8": "int8",
    "u8": "int8",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
}
WEIGHT_BEARING = (
    "Convolution",
    "Deconvolution",
    "DeformableConvolution",
    "FullyConnected",
    "MatMul",
    "RNNCell",
    "RNNSeq",
)
# As kernels are named, rising.
ISA = ("asimd", "sve", "sse42", "avx", "avx2", "avx512", "avx512_amx")
_KERNEL_ISA = re.compile("|".join(sorted(ISA, key=len, reverse=True)))


def open_session(artifact: Artifact) -> OpenVINOSession:
    """See ``Backend.open``.

    Raises:
        RuntimeError: the plugin refuses the artifact, which damaged scales can bring about.
    """
    core = ov.Core()
    device = probe.require(core, artifact.environment)
    set_options(core, device, artifact.environment)
    try:
        compiled = core.compile_model(artifact.folder / XML, device)
    except RuntimeError as error:
        raise RuntimeError(f"OpenVINO cannot load the artifact: {one_line(error)}") from error
    return OpenVINOSession(artifact, compiled)


class OpenVINOSession(Session):
    """One infer request of a compiled model."""

    def __init__(self, artifact: Artifact, compiled: ov.CompiledModel) -> None:
        self.inputs = artifact.inputs
        self.outputs = artifact.outputs
        self._artifact = artifact
        self._compiled: ov.CompiledModel | None = compiled
        self._request: ov.InferRequest | None = compiled.create_infer_request()

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See ``Session.run``.

        Raises:
            RuntimeError: an input is missing or unknown, or an output has not the shape it must
                have.
        """
        if self._request is None:
            raise RuntimeError("this session is closed")
        arrays = self._arrays(feeds)
        self._request.infer(arrays, share_inputs=True)
        results = {
            spec.name: np.array(self._request.get_tensor(spec.name).data) for spec in self.outputs
        }
        self._check(arrays, results)
        return results

    @property
    def actual(self) -> Actual:
        """See ``Session.actual``. Read from the plugin's runtime model.

        Precisions are known at load; some kernels are chosen at the first run (``undef`` before).
        """
        if self._compiled is None:
            raise RuntimeError("this session is closed")
        ops = tuple(_ops(self._compiled, sites(self._artifact)))
        return Actual(
            version=ov.__version__,
            device=self._artifact.environment.device,
            provider="+".join(self._compiled.get_property("EXECUTION_DEVICES")),
            threads=_threads(self._compiled),
            isa=_isa(ops),
            ops=ops,
        )

    def close(self) -> None:
        """See ``Session.close``."""
        self._request = None
        self._compiled = None

    def _arrays(self, feeds: Feeds) -> dict[str, Array]:
        known = {spec.name: spec.dtype for spec in self.inputs}
        if feeds.keys() != known.keys():
            raise RuntimeError(f"the model takes {', '.join(known)}, not {', '.join(feeds)}")
        for name, dtype in known.items():
            if feeds[name].dtype != dtype:
                raise RuntimeError(f"input {name!r} takes {dtype}, not {feeds[name].dtype}")
        return {name: np.asarray(feeds[name], order="C") for name in known}

    def _check(self, arrays: Mapping[str, Array], results: Mapping[str, Array]) -> None:
        """OpenVINO 2026.4 returns outputs without rows, and no error, on some capped CPUs."""
        free = [arrays[s.name] for s in self.inputs if s.shape and s.shape[0] is None]
        for spec in self.outputs:
            wanted = list(spec.shape)
            if wanted and wanted[0] is None and free:
                wanted[0] = len(free[0])
            shape = results[spec.name].shape
            fits = len(shape) == len(wanted) and all(
                size in (None, real) for size, real in zip(wanted, shape, strict=True)
            )
            if not fits or not results[spec.name].size:
                raise RuntimeError(
                    f"OpenVINO gave output {spec.name!r} the shape {shape} instead of"
                    f" {tuple('?' if size is None else size for size in wanted)}"
                )


def set_options(core: ov.Core, device: str, environment: Environment) -> None:
    """Set the deployed options on the plugin, one by one, so that a wrong one is named.

    Raises:
        RequestError: the plugin does not know an option or does not take its value.
    """
    listed = core.get_property(device, "SUPPORTED_PROPERTIES")
    known = sorted(name for name, access in listed.items() if access != "RO")
    for name, value in _options(environment).items():
        if name not in known:
            what = f"OpenVINO's {device} plugin has no option {name!r}."
            raise RequestError(what, hint=f"it has {', '.join(known)}.")
        try:
            core.set_property(device, {name: value})
        except (RuntimeError, TypeError) as error:
            what = f"OpenVINO does not take {name}={value!r}: {one_line(error)}"
            raise RequestError(what) from error


def _options(environment: Environment) -> dict[str, Any]:
    """What is set where the environment does not say otherwise; ``None`` leaves unset."""
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": HINTS[environment.precision],
        "PERFORMANCE_HINT": "LATENCY",
    }
    if environment.device == "cpu":
        options["INFERENCE_NUM_THREADS"] = environment.threads
        options["NUM_STREAMS"] = 1
        # Workers side by side must not be pinned to the same cores.
        options["ENABLE_CPU_PINNING"] = False
    options.update(plugin_options(environment))
    return {name: value for name, value in options.items() if value is not None}


def _ops(compiled: ov.CompiledModel, known: Sequence[Site]) -> Iterator[OpPrecision]:
    """The weight-bearing operators of the runtime model, in execution order."""
    by_name = {site.name: site for site in known if site.kind == "weight"}
    by_layer = {site.layer: site for site in reversed(list(by_name.values()))}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {name: _text(value) for name, value in node.get_rt_info().items()}
        if info.get("layerType") not in WEIGHT_BEARING:
            continue
        site = _fed_by(node, by_name) or _comes_from(info["originalLayersNames"], by_layer)
        if site is not None:
            yield OpPrecision(
                site.layer,
                site.op_type,
                PRECISIONS.get(site.dtype, site.dtype),
                _executed(info),
                info.get("primitiveType", ""),
            )


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _fed_by(node: Any, by_name: Mapping[str, Site]) -> Site | None:
    for port in node.inputs():
        name = port.get_source_output().get_node().get_friendly_name()
        if name in by_name:
            return by_name[name]
    return None


def _comes_from(layers: str, by_layer: Mapping[str, Site]) -> Site | None:
    """The site of a layer that was fused into the operator, by the layers' names."""
    for name in layers.split(","):
        for layer in (name, name.removesuffix("/DequantizationMultiply")):
            if layer in by_layer:
                return by_layer[layer]
    return None


def _executed(info: Mapping[str, str]) -> str:
    """The kernel's own precision: ``runtimePrecision`` names the stored weights in some cases."""
    kernel = info.get("primitiveType", "").rpartition("_")[2].lower()
    runtime = info.get("runtimePrecision", "")
    return PRECISIONS.get(kernel) or PRECISIONS.get(runtime) or runtime or "unknown"


def _isa(ops: tuple[OpPrecision, ...]) -> str:
    """The instruction sets in the kernels' names, highest first."""
    found = {match[0] for op in ops if (match := _KERNEL_ISA.search(op.kernel))}
    return "+".join(sorted(found, key=ISA.index, reverse=True)) or "unknown"


def _threads(compiled: ov.CompiledModel) -> int | None:
    """``None`` where the plugin has no such thing as threads."""
    if "INFERENCE_NUM_THREADS" not in compiled.get_property("SUPPORTED_PROPERTIES"):
        return None
    return int(compiled.get_property("INFERENCE_NUM_THREADS"))
