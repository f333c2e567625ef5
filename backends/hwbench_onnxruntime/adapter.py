"""The adapter: every method delegates, so that importing it brings no runtime with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from hwbench.backend import (
    GPU_MEMORY,
    Array,
    Artifact,
    Backend,
    Environment,
    Feeds,
    ModelSource,
    Probe,
    Replayer,
    Session,
    Site,
)
from hwbench.edits import Edits


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime: ONNX files in fp32, fp16 and int8 (QDQ).

    Options of an environment are ONNX Runtime's session config entries by their own names, and
    ``quantize.reduce_range``, ``quantize.per_channel``, ``quantize.activation_type`` and
    ``quantize.calibrate_method`` for building int8.
    """

    name: ClassVar[str] = "onnxruntime"
    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    extra: ClassVar[str] = "onnxruntime"

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        from hwbench_onnxruntime import probe

        return probe.probe()

    def build(
        self, model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
    ) -> Artifact:
        """See ``Backend.build``."""
        from hwbench_onnxruntime import build

        return build.build(model, environment, calibration, folder)

    def sites(self, artifact: Artifact) -> Sequence[Site]:
        """See ``Backend.sites``."""
        from hwbench_onnxruntime import sites

        return sites.sites(artifact)

    def corrupt(self, artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
        """See ``Backend.corrupt``."""
        from hwbench_onnxruntime import sites

        return sites.corrupt(artifact, edits, folder)

    def open(self, artifact: Artifact) -> Session:
        """See ``Backend.open``."""
        from hwbench_onnxruntime.session import OnnxRuntimeSession

        return OnnxRuntimeSession(artifact)

    def isa_variables(self, ceiling: str) -> Mapping[str, str]:
        """See ``Backend.isa_variables``."""
        from hwbench_onnxruntime import isa

        return isa.variables(ceiling)

    def gpu_memory_variables(self, limit_mib: float) -> Mapping[str, str]:
        """See ``Backend.gpu_memory_variables``."""
        return {GPU_MEMORY: f"{limit_mib:f}"}

    def replayer(self, artifact: Artifact, feeds: Feeds, memory_mib: float) -> Replayer:
        """See ``Backend.replayer``."""
        from hwbench_onnxruntime.replay import OnnxRuntimeReplayer

        return OnnxRuntimeReplayer(self, artifact, feeds, memory_mib)

    def stored(self, artifact: Artifact, name: str) -> Array:
        """See ``Backend.stored``."""
        from hwbench_onnxruntime import sites

        return sites.stored(artifact, name)
