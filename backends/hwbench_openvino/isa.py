"""OpenVINO's switches for the instruction set, read when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.errors import Unsupported

CEILINGS = {"sse4": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}


def variables(ceiling: str) -> Mapping[str, str]:
    """See ``Backend.isa_variables``.

    Both always together: with oneDNN capped alone, the plugin asks for kernels that it then does
    not get, and gives an output of no rows without an error (2026.4, bf16).
    """
    if ceiling not in CEILINGS:
        raise Unsupported(f"openvino has no ceiling {ceiling!r}, only {', '.join(CEILINGS)}")
    return {"ONEDNN_MAX_CPU_ISA": CEILINGS[ceiling], "OV_CPU_MAX_ISA": CEILINGS[ceiling]}
