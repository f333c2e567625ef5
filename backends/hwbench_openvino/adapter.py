"""The OpenVINO adapter: thin, each method delegates to the module of that subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from hwbench.backend import (
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


class OpenVINOBackend(Backend):
    """OpenVINO: ONNX models as IR files, quantised by NNCF, run by a device plugin."""

    name: ClassVar[str] = "openvino"
    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    requires: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        from hwbench_openvino import probe

        return probe.probe()

    def build(
        self, model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
    ) -> Artifact:
        """See ``Backend.build``."""
        from hwbench_openvino import build

        return build.build(model, environment, calibration, folder)

    def sites(self, artifact: Artifact) -> Sequence[Site]:
        """See ``Backend.sites``."""
        from hwbench_openvino import sites

        return sites.sites(artifact)

    def isa_variables(self, ceiling: str) -> Mapping[str, str]:
        """See ``Backend.isa_variables``."""
        from hwbench_openvino import isa

        return isa.variables(ceiling)

    def stored(self, artifact: Artifact, name: str) -> Array:
        """See ``Backend.stored``."""
        from hwbench_openvino import sites

        return sites.stored(artifact, name)

    def corrupt(self, artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
        """See ``Backend.corrupt``."""
        from hwbench_openvino import sites

        return sites.corrupt(artifact, edits, folder)

    def open(self, artifact: Artifact) -> Session:
        """See ``Backend.open``."""
        from hwbench_openvino import session

        return session.open_session(artifact)

    def replayer(self, artifact: Artifact, feeds: Feeds, memory_mib: float) -> Replayer:
        """See ``Backend.replayer``."""
        from hwbench_openvino import replay

        return replay.OpenVINOReplayer(self, artifact, feeds, memory_mib)
