"""Devices of ONNX Runtime: which provider computes where, and with which of its options.

Written from ONNX Runtime's documentation and header files. On a machine without an NVIDIA GPU only
the decisions here can be tried, not the providers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwbench.backend import GPU_MEMORY, Environment

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
KINDS = {"cuda": CUDA, "tensorrt": TENSORRT}
RECORD = "session.record_ep_graph_assignment_info"
MIB = 2**20


def devices() -> tuple[str, ...]:
    """``cpu``, and each GPU by each provider that the installed package and the driver know."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    cards = range(len(list(Path("/dev").glob("nvidia[0-9]*"))))
    kinds = [kind for kind, provider in KINDS.items() if provider in available]
    return ("cpu", *(f"{kind}:{number}" for kind in kinds for number in cards))


def provider_of(
    environment: Environment, variables: Mapping[str, str] = os.environ
) -> tuple[str, dict[str, str]]:
    """Execution provider of an environment's device, and the provider's options.

    Without ``use_tf32`` the CUDA provider multiplies float32 as TF32 wherever the card can.
    """
    kind, _, number = environment.device.partition(":")
    if kind == "cpu":
        return CPU, {}
    limit = variables.get(GPU_MEMORY)
    chosen = {"device_id": number or "0"}
    if kind == "cuda":
        chosen["use_tf32"] = "1" if environment.precision == "tf32" else "0"
        if limit:
            chosen["gpu_mem_limit"] = str(int(float(limit) * MIB))
            chosen["arena_extend_strategy"] = "kSameAsRequested"  # doubling would meet it too early
    else:
        chosen["trt_fp16_enable"] = str(int(environment.precision == "fp16"))
        chosen["trt_int8_enable"] = str(int(environment.precision == "int8"))
        if limit:
            chosen["trt_max_workspace_size"] = str(int(float(limit) * MIB))
    return KINDS[kind], chosen


def ran_on(
    environment: Environment,
    providers: Sequence[str],
    weighty: Iterable[str],
    assigned: Mapping[str, str],
) -> str:
    """The device that the operators with weights run on, from what the session says of itself.

    Args:
        environment: as asked.
        providers: of the session, the first preferred.
        weighty: names of the operators with weights.
        assigned: provider by operator.

    Returns:
        The asked device, or ``cpu`` where the runtime fell back to the processor: for the whole
        session, because the provider could not be loaded, or for an operator with weights.
    """
    wanted, _ = provider_of(environment)
    on_cpu = CPU in {assigned.get(name) for name in weighty}
    fell_back = wanted != CPU and (providers[0] != wanted or on_cpu)
    return "cpu" if fell_back else environment.device


def assignments(session: Any) -> dict[str, str]:
    """Provider by operator of a session that was made with ``RECORD``."""
    return {
        node.name: graph.ep_name
        for graph in session.get_provider_graph_assignment_info()
        for node in graph.get_nodes()
    }


def executed(precision: str, options: Mapping[str, Mapping[str, str]]) -> str:
    """The precision of an operator, knowing what the session says of its providers.

    Args:
        precision: by the types that the operator reads.
        options: ``InferenceSession.get_provider_options()``.
    """
    tf32 = options.get(CUDA, {}).get("use_tf32") == "1"
    return "tf32" if precision == "fp32" and tf32 else precision
