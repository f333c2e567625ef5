"""A backend of a third party: ONNX files in NumPy, by the evaluator that ``onnx`` ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwbench.backend import (
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

FILE = "model.onnx"
GAP = "the evaluator computes in fp32 only"
NO_LIVE = "the evaluator shows no buffers"


class ExampleBackend(Backend):
    """fp32 on the CPU."""

    name: ClassVar[str] = "example"
    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        import onnx

        gaps = {name: Capability("unsupported", GAP) for name in ("fp16", "bf16", "int8")}
        live = {"live": Capability("unsupported", NO_LIVE)}
        return Probe(onnx.__version__, ("cpu",), {"fp32": SUPPORTED, **gaps}, live)

    def build(
        self, model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
    ) -> Artifact:
        """See ``Backend.build``: the file as it is, in storage form."""
        from hwbench import onnxfile

        if environment.precision != "fp32":
            raise Unsupported(GAP)
        if environment.device != "cpu" or model.onnx is None:
            raise Unsupported("the evaluator runs ONNX files on the cpu")
        proto = onnxfile.load(Path(model.onnx))
        onnxfile.save(proto, folder / FILE)
        return Artifact(folder, environment, *onnxfile.signature(proto))

    def sites(self, artifact: Artifact) -> Sequence[Site]:
        """See ``Backend.sites``."""
        from hwbench import onnxfile

        return onnxfile.sites(onnxfile.read(artifact.folder / FILE))

    def stored(self, artifact: Artifact, name: str) -> Array:
        """See ``Backend.stored``."""
        from hwbench import onnxfile

        return onnxfile.stored(onnxfile.tensor(onnxfile.read(artifact.folder / FILE), name))

    def corrupt(self, artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
        """See ``Backend.corrupt``."""
        from hwbench import onnxfile

        model = onnxfile.read(artifact.folder / FILE)
        onnxfile.corrupt(model, edits)
        onnxfile.write(model, folder / FILE)
        return replace(artifact, folder=folder)

    def open(self, artifact: Artifact) -> Session:
        """See ``Backend.open``."""
        return ExampleSession(artifact)


class ExampleSession(Session):
    """One loaded file."""

    def __init__(self, artifact: Artifact) -> None:
        from onnx.reference import ReferenceEvaluator

        from hwbench import onnxfile

        self.inputs, self.outputs = artifact.inputs, artifact.outputs
        self._model = onnxfile.read(artifact.folder / FILE)
        self._evaluator: Any = ReferenceEvaluator(self._model)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See ``Session.run``."""
        names = [each.name for each in self.outputs]
        with np.errstate(all="ignore"):  # faulted weights may overflow: that is a result
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
        raise Unsupported(NO_LIVE)
