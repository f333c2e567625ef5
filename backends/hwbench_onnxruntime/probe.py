"""What this ONNX Runtime can do on this machine."""

from __future__ import annotations

from hwbench.backend import SUPPORTED, Capability, Probe
from hwbench_onnxruntime import devices

# Tried: of 40 int8 tensors shared through add_initializer, 2 took a flip made after loading.
NO_LIVE = (
    "ONNX Runtime's kernels repack constant weights while loading and free or ignore the original"
    " buffers, and it gives no access to the packed ones"
)
CPU_FP16 = "on the CPU, weights are stored in fp16 and operators run in fp32 (allow: fp16-as-fp32)"
NO_BF16 = "ONNX Runtime has no bfloat16 kernels for Conv and Gemm on the CPU"
NO_INT8_REF = "int8-ref is torch's reference graph. Hint: ask for int8."

PRECISIONS = {
    "fp32": SUPPORTED,
    "fp16": Capability("supported", CPU_FP16),
    "bf16": Capability("unsupported", NO_BF16),
    "tf32": Capability("supported", "on cuda devices: float32 multiplied with 10-bit mantissas"),
    "int8": SUPPORTED,
    "int8-ref": Capability("unsupported", NO_INT8_REF),
}
FEATURES = {
    "live": Capability("unsupported", NO_LIVE),
    "suffix": SUPPORTED,
}


def probe() -> Probe:
    """See ``Backend.probe``."""
    import onnxruntime

    return Probe(onnxruntime.__version__, devices.devices(), PRECISIONS, FEATURES)
