"""What torch can do on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil

import torch

from hwbench.backend import SUPPORTED, Capability, Environment, Probe
from hwbench.errors import RequestError, Unsupported

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
    "int8-ref": torch.float32,
}  # of the floating-point part of a program
QUANTISED = ("int8", "int8-ref")
REDUCE_RANGE = "quantize.reduce_range"  # 7-bit activations: sums of products fit 16 bits
COMPILE = "compile"  # by inductor, whole
OPTIONS = ("mkldnn", COMPILE, REDUCE_RANGE)


def probe() -> Probe:
    """Version, devices and capabilities, found by trying where torch has no answer."""
    return Probe(torch.__version__, devices(), precisions(), features())


def devices() -> tuple[str, ...]:
    """``cpu`` and every CUDA device that torch sees."""
    return ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())))


def precisions() -> dict[str, Capability]:
    """Per precision name, whether it can be built and run here."""
    return {
        "fp32": SUPPORTED,
        "tf32": SUPPORTED
        if torch.cuda.is_available()
        else Capability("unsupported", "tf32 exists on CUDA devices only, and torch sees none"),
        "bf16": _tried(torch.bfloat16),
        "fp16": _tried(torch.float16),
        "int8": _int8(),
        "int8-ref": _quantiser(),
    }


def features() -> dict[str, Capability]:
    """The optional parts of a session."""
    packed = Capability("unsupported", "inductor packs the weights when it compiles")
    fused = Capability("unsupported", "a compiled program cannot be cut: whole runs")
    return {
        "live": SUPPORTED,
        "live:int8": packed,
        "suffix": SUPPORTED,
        "suffix:int8": fused,
        "live:compile": packed,
        "suffix:compile": fused,
        "compile": _compiler(),
    }


def require(environment: Environment) -> None:
    """Raise unless ``environment`` can be had here.

    Raises:
        Unsupported: the device or the precision is absent, with the reason.
        RequestError: an option that this adapter does not know.
    """
    unknown = [name for name in environment.options if name not in OPTIONS]
    if unknown:
        hint = f"options of torch: {', '.join(OPTIONS)}."
        raise RequestError(f"torch has no option {', '.join(unknown)}.", hint=hint)
    if environment.device not in devices():
        raise Unsupported(f"torch sees no {environment.device}, only {', '.join(devices())}")
    capability = precisions().get(environment.precision)
    if capability is None:
        raise Unsupported(f"torch adapter has no precision {environment.precision}")
    if capability.status == "unsupported":
        raise Unsupported(capability.reason)
    if environment.precision in ("int8", "tf32"):
        _require_match(environment)
    if environment.options.get(COMPILE):
        _require_compilable(environment)


def compiled(environment: Environment) -> bool:
    """Whether inductor runs the program: it then cannot be cut, and its weights are packed."""
    return environment.precision == "int8" or bool(environment.options.get(COMPILE))


def _require_compilable(environment: Environment) -> None:
    if environment.precision == "int8-ref":
        raise Unsupported("int8-ref compiled is int8. Hint: ask for int8.")
    capability = _compiler()
    if capability.status == "unsupported":
        raise Unsupported(capability.reason)


def _require_match(environment: Environment) -> None:
    wanted = "cpu" if environment.precision == "int8" else "cuda"
    if not environment.device.startswith(wanted):
        raise Unsupported(f"torch runs {environment.precision} on {wanted} only")


def _tried(dtype: torch.dtype) -> Capability:
    """Whether the CPU has a convolution and a matrix product in ``dtype``."""
    ones = torch.ones(2, 2, 2, 2, dtype=dtype)
    try:
        torch.conv2d(ones, ones)
        torch.nn.functional.linear(ones, ones[0, 0])
    except RuntimeError as error:  # "... not implemented for 'Half'"
        return Capability("unsupported", str(error).splitlines()[0])
    return SUPPORTED


def _quantiser() -> Capability:
    if importlib.util.find_spec("torchao") is None:
        return Capability(
            "unsupported", "torchao is not installed. Hint: pip install 'hwbench[quantize]'"
        )
    return SUPPORTED


def _compiler() -> Capability:
    """Whether inductor finds a C++ compiler; it honours ``CXX`` as inductor does."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    if any(shutil.which(name) for name in names if name):
        return SUPPORTED
    return Capability("unsupported", "inductor needs a C++ compiler. Hint: install g++ or set CXX")


def _int8() -> Capability:
    if platform.machine() not in ("x86_64", "AMD64"):
        return Capability("unsupported", "torchao lowers int8 to kernels of x86 CPUs only")
    absent = [each for each in (_quantiser(), _compiler()) if each.status != "supported"]
    return absent[0] if absent else SUPPORTED
