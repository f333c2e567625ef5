"""ONNX to IR: converted and folded by OpenVINO, quantised by NNCF, named after the ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from hwbench.backend import Artifact, Environment, Feeds, ModelSource, TensorSpec
from hwbench.errors import RequestError, Unsupported
from hwbench.manner import calibration_calls
from hwbench_openvino import probe
from hwbench_openvino.ir import Ir
from hwbench_openvino.names import OnnxNames
from hwbench_openvino.options import reduce_range
from hwbench_openvino.sites import XML, survey

CALIBRATION_ROWS = 300  # NNCF's own default; more rows hardly move the ranges
MESSAGE = 500  # characters of a runtime's message that are kept


def build(
    model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
) -> Artifact:
    """See ``Backend.build``."""
    probe.require(ov.Core(), environment)
    probe.require_builder(environment.precision)
    if model.onnx is None:
        raise Unsupported("openvino takes onnx models only")
    names = OnnxNames(Path(model.onnx))
    network = _converted(model.name, model.onnx)
    inputs, outputs = _signature(network, names)
    if environment.precision == "int8":
        network = _quantised(network, inputs, calibration, reduce_range(environment))
    ov.save_model(network, folder / XML, compress_to_fp16=environment.precision == "fp16")
    ir = Ir(folder / XML)
    ir.renumber(names.given)
    table = survey(ir, names)
    ir.save(folder / XML)
    meta = {"sites": table, "openvino": ov.__version__}
    return Artifact(folder, environment, inputs, outputs, meta)


def _converted(name: str, path: str) -> ov.Model:
    from openvino.frontend import OpConversionFailure

    try:
        return ov.convert_model(path)
    except (OpConversionFailure, RuntimeError) as error:
        raise Unsupported(f"OpenVINO cannot convert {name}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """A runtime's message without the source positions that OpenVINO puts before it."""
    text = re.sub(r"Exception from \S+|Check '.*' failed at \S+", "", str(error))
    return " ".join(text.split())[:MESSAGE] or type(error).__name__


def _signature(
    network: ov.Model, names: OnnxNames
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs; the outputs get the names they have in the ONNX file."""
    for port, name in zip(network.outputs, names.outputs, strict=True):
        port.get_tensor().add_names({name})
    inputs = tuple(_spec(port, port.get_any_name()) for port in network.inputs)
    outputs = tuple(
        _spec(port, name) for port, name in zip(network.outputs, names.outputs, strict=True)
    )
    return inputs, outputs


def _spec(port: Any, name: str) -> TensorSpec:
    if port.get_element_type() == ov.Type.bf16:
        raise Unsupported(f"{name!r} is bfloat16, which NumPy does not have: use a float32 model")
    shape = tuple(
        None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
    )
    return TensorSpec(name, shape, np.dtype(port.get_element_type().to_dtype()).name)


def _quantised(
    network: ov.Model,
    inputs: tuple[TensorSpec, ...],
    calibration: Feeds | None,
    reduced: bool,
) -> ov.Model:
    """NNCF's post-training quantisation with its defaults: 7-bit weights in the first layer only.

    With ``reduced`` in all layers.

    Raises:
        RequestError: calibration rows are missing.
        Unsupported: NNCF cannot quantise this model.
    """
    if any(op.get_type_name() == "FakeQuantize" for op in network.get_ops()):
        return network  # quantised already
    if not calibration:
        raise RequestError("int8 needs calibration rows", hint="give the data a calibration part")
    rows = list(calibration_calls(inputs, calibration, 1, CALIBRATION_ROWS))
    with _quiet():
        import nncf

        try:
            fix = nncf.OverflowFix.ENABLE if reduced else None
            return nncf.quantize(
                network,
                nncf.Dataset(rows),
                subset_size=len(rows),
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
            )
        except (RuntimeError, nncf.UnsupportedModelError, nncf.ValidationError) as error:
            raise Unsupported(f"NNCF cannot quantise this model: {one_line(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars and notes from a worker's output; warnings still come."""
    log = logging.getLogger("nncf")
    level = log.level
    with contextlib.redirect_stdout(io.StringIO()):
        log.setLevel(logging.WARNING)
        try:
            yield
        finally:
            log.setLevel(level)
