"""ONNX Runtime and the instruction set."""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.errors import Unsupported


def variables(ceiling: str) -> Mapping[str, str]:
    """See ``Backend.isa_variables``."""
    raise Unsupported(
        f"onnxruntime has no switch for the instruction set: its kernels follow the CPU, so"
        f" {ceiling} needs a CPU without more. Hint: isa: haswell emulates one"
    )
