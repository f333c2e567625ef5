"""A backend in plain NumPy: what other backends are compared with, and the shortest example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from hwbench.backend import (
    PRECISIONS,
    SUPPORTED,
    Actual,
    Array,
    Artifact,
    Backend,
    Capability,
    Environment,
    Feeds,
    ModelSource,
    OpPrecision,
    Probe,
    Session,
    Site,
)
from hwbench.edits import Edits
from hwbench.errors import Unsupported

_ONLY_FP32 = "the reference evaluator computes what the file says: fp32 only"
_NO_LIVE = "the reference evaluator shows no buffers"
_PRECISIONS = {name: Capability("unsupported", _ONLY_FP32) for name in PRECISIONS}
_PRECISIONS["fp32"] = SUPPORTED
_FEATURES = {
    "live": Capability("unsupported", _NO_LIVE),
    "suffix": Capability("unsupported", "the reference evaluator runs whole models"),
}
_FILE = "model.onnx"


class ReferenceBackend(Backend):
    """``onnx.reference`` (NumPy) as a backend: fp32, slow, independent of every runtime."""

    name: ClassVar[str] = "reference"
    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        import onnx

        return Probe(onnx.__version__, ("cpu",), _PRECISIONS, _FEATURES)

    def build(
        self, model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
    ) -> Artifact:
        """See ``Backend.build``: the ONNX file as it is, in storage form."""
        from hwbench import onnxfile

        if _PRECISIONS.get(environment.precision) != SUPPORTED:
            raise Unsupported(_ONLY_FP32)
        if environment.device != "cpu" or model.onnx is None:
            raise Unsupported("the reference evaluator runs ONNX files on the cpu")
        proto = onnxfile.load(Path(model.onnx))
        onnxfile.save(proto, folder / _FILE)
        inputs, outputs = onnxfile.signature(proto)
        return Artifact(folder, environment, inputs, outputs)

    def sites(self, artifact: Artifact) -> Sequence[Site]:
        """See ``Backend.sites``."""
        from hwbench import onnxfile

        return onnxfile.sites(onnxfile.read(artifact.folder / _FILE))

    def corrupt(self, artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
        """See ``Backend.corrupt``."""
        from hwbench import onnxfile

        model = onnxfile.read(artifact.folder / _FILE)
        onnxfile.corrupt(model, edits)
        onnxfile.write(model, folder / _FILE)
        return replace(artifact, folder=folder)

    def open(self, artifact: Artifact) -> Session:
        """See ``Backend.open``."""
        return ReferenceSession(artifact)

    def stored(self, artifact: Artifact, name: str) -> Array:
        """See ``Backend.stored``."""
        from hwbench import onnxfile

        return onnxfile.stored(onnxfile.tensor(onnxfile.read(artifact.folder / _FILE), name))


class ReferenceSession(Session):
    """One ``ReferenceEvaluator``."""

    def __init__(self, artifact: Artifact) -> None:
        from onnx.reference import ReferenceEvaluator

        from hwbench import onnxfile

        self.inputs = artifact.inputs
        self.outputs = artifact.outputs
        self._model = onnxfile.read(artifact.folder / _FILE)
        self._evaluator = ReferenceEvaluator(self._model)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See ``Session.run``."""
        names = [each.name for each in self.outputs]
        # Faulted weights may overflow: that is a result.
        with np.errstate(all="ignore"):
            results = self._evaluator.run(names, dict(feeds))
        return {name: np.array(array) for name, array in zip(names, results, strict=True)}

    @property
    def actual(self) -> Actual:
        """See ``Session.actual``."""
        import onnx

        from hwbench import onnxfile

        ops = tuple(
            OpPrecision(op.name, op.op_type, op.stored, op.executed, "numpy")
            for op in onnxfile.operators(self._model)
        )
        return Actual(onnx.__version__, "cpu", "onnx.reference", None, "unknown", ops)

    def live(self, edits: Edits) -> None:
        """See ``Session.live``: not to be had here."""
        raise Unsupported(_NO_LIVE)
