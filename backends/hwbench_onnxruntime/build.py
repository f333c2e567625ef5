"""ONNX file to artifact: fold, then quantise or convert; nothing here depends on this CPU.

Only the BASIC optimisations are written down. What lies beyond them (NCHWc) fits the instruction
set of the machine that optimised, and gives silently wrong results on a lesser one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnx import ModelProto

from hwbench import onnxfile
from hwbench.backend import Array, Artifact, Environment, Feeds, ModelSource
from hwbench.errors import RequestError, Unsupported
from hwbench.manner import calibration_calls
from hwbench_onnxruntime import devices, options, probe

CALIBRATION_BATCH = 32
PER_CHANNEL_OPSET = 13  # the first with a DequantizeLinear per channel


def build(
    model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
) -> Artifact:
    """See ``Backend.build``."""
    _check(model, environment)
    proto = onnxfile.load(Path(str(model.onnx)))
    if environment.precision == "int8":
        proto = _quantised(proto, environment, calibration)
    else:
        proto = folded(proto)
    if environment.precision == "fp16":
        proto = _half(proto)
    onnxfile.save(proto, folder / "model.onnx")
    inputs, outputs = onnxfile.signature(proto)
    return Artifact(folder, environment, inputs, outputs, {"file": "model.onnx"})


def _check(model: ModelSource, environment: Environment) -> None:
    """Refuse what cannot be had, before any work is done."""
    capability = probe.PRECISIONS.get(environment.precision)
    if capability is None:
        known = ", ".join(probe.PRECISIONS)
        raise Unsupported(f"onnxruntime has no precision {environment.precision!r} (has {known})")
    if capability.status == "unsupported":
        raise Unsupported(capability.reason)
    if environment.precision == "tf32" and not environment.device.startswith("cuda"):
        raise Unsupported("onnxruntime runs tf32 on cuda devices only")
    if environment.device not in devices.devices():
        known = ", ".join(devices.devices())
        raise Unsupported(f"this ONNX Runtime has no device {environment.device!r} (has {known})")
    if model.onnx is None:
        raise Unsupported(f"onnxruntime takes ONNX files, and {model.name!r} is none")
    options.session_entries(environment)
    options.quantize_options(environment)


def folded(model: ModelProto) -> ModelProto:
    """The model after ONNX Runtime's BASIC optimisations (constants and BN folded)."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "folded.onnx"
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(target)
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 3
        ort.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        return onnxfile.load(target)


def _half(model: ModelProto) -> ModelProto:
    """Weights and arithmetic in fp16, inputs and outputs as they were."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if _is_quantised(model):
        raise Unsupported("the model is quantised already. Hint: ask for int8.")
    converted = convert_float_to_float16(model, keep_io_types=True)
    assert isinstance(converted, ModelProto)
    return converted


def _quantised(
    model: ModelProto, environment: Environment, calibration: Feeds | None
) -> ModelProto:
    """Static QDQ; a model that already holds quantised tensors is taken as it is."""
    model = folded(_modern(model))
    if _is_quantised(model):
        return model
    if not _quantisable(model):
        raise Unsupported("no operator of the main graph has a weight that could be quantised")
    if not calibration:
        hint = "name calibration rows in the spec's data, or ask for fp32."
        raise RequestError("int8 needs calibration rows.", where="data.calibration", hint=hint)
    chosen = options.quantize_options(environment)
    with tempfile.TemporaryDirectory() as scratch:
        inputs, _ = onnxfile.signature(model)
        calls = calibration_calls(inputs, calibration, CALIBRATION_BATCH)
        return _quantise_static(model, calls, chosen, Path(scratch))


def _is_quantised(model: ModelProto) -> bool:
    nodes = (node for graph in onnxfile.graphs(model.graph) for node in graph.node)
    return any(node.op_type == "DequantizeLinear" for node in nodes)


def _modern(model: ModelProto) -> ModelProto:
    """The model in an opset that has per-channel DequantizeLinear."""
    from onnx import version_converter

    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset >= PER_CHANNEL_OPSET:
        return model
    return version_converter.convert_version(model, PER_CHANNEL_OPSET)


def _quantisable(model: ModelProto) -> bool:
    """Whether the quantiser, which does not enter subgraphs, finds a weight."""
    main = {node.name for node in model.graph.node}
    kinds = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    return any(op.name in main and op.op_type in kinds for op in onnxfile.operators(model))


def _quantise_static(
    model: ModelProto, batches: Iterator[dict[str, Array]], chosen: dict[str, Any], scratch: Path
) -> ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, shaped, target = (str(scratch / f"{name}.onnx") for name in ("plain", "shaped", "int8"))
    onnxfile.save(model, Path(plain))
    # The graph is folded already; the symbolic shape inference needs a package of its own.
    quant_pre_process(plain, shaped, skip_optimization=True, skip_symbolic_shape=True)
    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    quantize_static(
        shaped,
        target,
        _reader(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=chosen.get("per_channel", True),
        reduce_range=chosen.get("reduce_range", False),
        activation_type=types[chosen.get("activation_type", "uint8")],
        weight_type=QuantType.QInt8,
        calibrate_method=methods[chosen.get("calibrate_method", "minmax")],
    )
    return onnxfile.load(Path(target))


def _reader(batches: Iterator[dict[str, Array]]) -> Any:
    """What ``quantize_static`` pulls its batches from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Array] | None:
            return next(batches, None)

    return Reader()
