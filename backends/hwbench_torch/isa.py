"""Torch's switches for the instruction set, read when it is imported."""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.errors import Unsupported

# torch's own kernels, and oneDNN's within it
CEILINGS = {
    "sse4": ("default", "SSE41"),
    "avx2": ("avx2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE"),
}


def variables(ceiling: str) -> Mapping[str, str]:
    """See ``Backend.isa_variables``."""
    if ceiling not in CEILINGS:
        raise Unsupported(f"torch has no ceiling {ceiling!r}, only {', '.join(CEILINGS)}")
    kernels, onednn = CEILINGS[ceiling]
    return {"ATEN_CPU_CAPABILITY": kernels, "ONEDNN_MAX_CPU_ISA": onednn}
