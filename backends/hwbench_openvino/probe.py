"""What OpenVINO can do on this machine."""

from __future__ import annotations

import importlib.util

import openvino as ov

from hwbench.backend import SUPPORTED, Capability, Environment, Probe
from hwbench.errors import Unsupported

# What a plugin lists in OPTIMIZATION_CAPABILITIES when it computes in a precision.
CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
NNCF_HINT = 'nncf is not installed. Hint: pip install "hwbench[quantize]"'


def probe() -> Probe:
    """Version, devices and capabilities, as the plugins tell them."""
    core = ov.Core()
    available = devices(core)
    first = "cpu" if "cpu" in available else next(iter(available), "cpu")
    return Probe(ov.__version__, tuple(available), precisions(core, first), features())


def devices(core: ov.Core) -> dict[str, str]:
    """Names an environment may ask for (``gpu:1``) to OpenVINO's own (``GPU.1``)."""
    return {name.lower().replace(".", ":"): name for name in core.available_devices}


def precisions(core: ov.Core, device: str) -> dict[str, Capability]:
    """Per precision name, whether it can be built and run on ``device``."""
    return {name: _precision(core, device, name) for name in CAPABILITIES}


def features() -> dict[str, Capability]:
    """The optional parts of a session."""
    live = (
        "OpenVINO's plugins repack weights into buffers of their own at load"
        " and give no access to them"
    )
    return {"live": Capability("unsupported", live), "suffix": SUPPORTED}


def require(core: ov.Core, environment: Environment) -> str:
    """OpenVINO's name of the asked device.

    Raises:
        Unsupported: the device or the precision is absent, with the reason.
    """
    device = _require_device(core, environment)
    if environment.precision not in CAPABILITIES:
        known = ", ".join(CAPABILITIES)
        raise Unsupported(f"openvino has no precision {environment.precision!r} (has {known})")
    capability = _runs(core, environment.device, environment.precision)
    if capability.status == "unsupported":
        raise Unsupported(capability.reason)
    return device


def require_builder(precision: str) -> None:
    """What builds artifacts and does not run them: a board runs what another machine quantised.

    Raises:
        Unsupported: it is not installed, with the command.
    """
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        raise Unsupported(NNCF_HINT)


def _require_device(core: ov.Core, environment: Environment) -> str:
    available = devices(core)
    if environment.device not in available:
        names = ", ".join(available) or "no device"
        raise Unsupported(f"OpenVINO sees no {environment.device!r} here, only {names}")
    return available[environment.device]


def _precision(core: ov.Core, device: str, name: str) -> Capability:
    """Whether a precision can be built and run."""
    found = _runs(core, device, name)
    if found.status != "unsupported":
        try:
            require_builder(name)
        except Unsupported as gap:
            return Capability("unsupported", gap.reason)
    return found


def _runs(core: ov.Core, device: str, name: str) -> Capability:
    """Whether a device runs a precision."""
    known = devices(core)
    if device not in known:
        return Capability("unsupported", f"OpenVINO sees no {device!r} here")
    listed = core.get_property(known[device], "OPTIMIZATION_CAPABILITIES")
    if CAPABILITIES[name] not in listed:
        has = ", ".join(sorted(listed))
        reason = f"OpenVINO's {known[device]} plugin has no {name} on this hardware (it has {has})"
        return Capability("unsupported", reason)
    return SUPPORTED
