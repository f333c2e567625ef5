"""Options of an environment: checked here, because ONNX Runtime accepts misspelt keys silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwbench.backend import Environment
from hwbench.errors import RequestError
from hwbench.registry import nearest

QUANTIZE = "quantize."
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "quantize.per_channel": (True, False),
    "quantize.reduce_range": (True, False),
    "quantize.activation_type": ("uint8", "int8"),
    "quantize.calibrate_method": ("minmax", "entropy", "percentile"),
}
# Session config entries of ONNX Runtime 1.23 to 1.31 that change how a model is run on the CPU or
# CUDA. Names of SessionOptions attributes (intra_op_num_threads) are no entries: as such they
# would be ignored without a word, as is any misspelt key.
ENTRIES = frozenset(
    (
        "session.allow_released_opsets_only",
        "session.collect_node_memory_stats_to_file",
        "session.debug_layout_transformation",
        "session.disable_aot_function_inlining",
        "session.disable_cpu_ep_fallback",
        "session.disable_double_qdq_remover",
        "session.disable_model_compile",
        "session.disable_prepacking",
        "session.disable_qdq_constant_folding",
        "session.disable_quant_qdq",
        "session.dynamic_block_base",
        "session.enable_dq_matmulnbits_fusion",
        "session.enable_quant_qdq_cleanup",
        "session.fail_on_suboptimal_compiled_model",
        "session.force_spinning_stop",
        "session.graph_optimizations_loop_level",
        "session.inter_op.allow_spinning",
        "session.inter_op.spin_backoff_max",
        "session.inter_op.spin_duration_us",
        "session.intra_op.allow_spinning",
        "session.intra_op.spin_backoff_max",
        "session.intra_op.spin_duration_us",
        "session.intra_op_thread_affinities",
        "session.max_shape_override",
        "session.node_partition_config_file",
        "session.prepack.enable_parallel",
        "session.qdq_matmulnbits_accuracy_level",
        "session.qdq_matmulnbits_block_size",
        "session.qdqisint8allowed",
        "session.record_ep_graph_assignment_info",
        "session.save_external_prepacked_constant_initializers",
        "session.set_denormal_as_zero",
        "session.strict_shape_type_inference",
        "session.use_deterministic_compute",
        "session.use_device_allocator_for_initializers",
        "session.use_env_allocators",
        "session.x64quantprecision",
        "optimization.constant_folding_max_output_size_in_bytes",
        "optimization.disable_specified_optimizers",
        "optimization.enable_cast_chain_elimination",
        "optimization.enable_gelu_approximation",
        "mlas.disable_kleidiai",
        "mlas.enable_gemm_fastmath_arm64_bfloat16",
        "mlas.nchwc_depthwise_sliding",
        "mlas.nchwc_pointwise_conv_max_input_channel_batch",
        "mlas.qnbit.force_fp32",
        "mlas.use_lut_gemm",
    )
)


def session_entries(environment: Environment) -> dict[str, str]:
    """Session config entries of an environment, as the strings ONNX Runtime takes.

    Raises:
        RequestError: ONNX Runtime has no such key.
    """
    asked = {k: v for k, v in environment.options.items() if not k.startswith(QUANTIZE)}
    for key in asked:
        if key not in ENTRIES:
            what = f"ONNX Runtime has no session config entry {key!r}."
            raise RequestError(what, where="options", hint=nearest(key, ENTRIES))
    return {key: _text(value) for key, value in asked.items() if value is not None}


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def quantize_options(environment: Environment) -> dict[str, Any]:
    """The ``quantize.`` options of an environment, without the prefix.

    Raises:
        RequestError: no such option, or a value it does not take.
    """
    asked = {k: v for k, v in environment.options.items() if k.startswith(QUANTIZE)}
    for key, value in asked.items():
        if key not in _CHOICES:
            what = f"no quantisation option {key!r}."
            raise RequestError(what, where="options", hint=nearest(key, _CHOICES))
        if value is not None and value not in _CHOICES[key]:
            choices = ", ".join(str(choice).lower() for choice in _CHOICES[key])
            what = f"{key} is {value!r}."
            raise RequestError(what, where="options", hint=f"one of {choices}.")
    return {k.removeprefix(QUANTIZE): v for k, v in asked.items() if v is not None}
