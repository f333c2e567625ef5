"""The torch adapter: thin, each method delegates to the module of that subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

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


class TorchBackend(Backend):
    """PyTorch: ``torch.export``ed programs, run eagerly or (int8) compiled by inductor."""

    name: ClassVar[str] = "torch"
    accepts: ClassVar[tuple[str, ...]] = ("torch", "pt2", "library")
    converts: ClassVar[tuple[tuple[str, str], ...]] = (
        ("torch", "onnx"),
        ("pt2", "onnx"),
        ("library", "onnx"),
    )
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str] = "torch"

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        from hwbench_torch import probe

        return probe.probe()

    def build(
        self, model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
    ) -> Artifact:
        """See ``Backend.build``."""
        from hwbench_torch import build

        return build.build(model, environment, calibration, folder)

    def sites(self, artifact: Artifact) -> Sequence[Site]:
        """See ``Backend.sites``."""
        from hwbench_torch import sites

        return sites.sites(artifact)

    def isa_variables(self, ceiling: str) -> Mapping[str, str]:
        """See ``Backend.isa_variables``."""
        from hwbench_torch import isa

        return isa.variables(ceiling)

    def stored(self, artifact: Artifact, name: str) -> Array:
        """See ``Backend.stored``."""
        from hwbench_torch import sites

        return sites.stored(artifact, name)

    def corrupt(self, artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
        """See ``Backend.corrupt``."""
        from hwbench_torch import sites

        return sites.corrupt(artifact, edits, folder)

    def open(self, artifact: Artifact) -> Session:
        """See ``Backend.open``."""
        from hwbench_torch import session

        return session.open_session(artifact)

    def gradients(
        self,
        artifact: Artifact,
        feeds: Feeds,
        output: str,
        targets: npt.NDArray[np.int64],
        *,
        probabilities: bool,
    ) -> dict[str, Array]:
        """See ``Backend.gradients``."""
        from hwbench_torch import gradients

        return gradients.gradients(artifact, feeds, output, targets, probabilities=probabilities)

    def gpu_memory_variables(self, limit_mib: float) -> Mapping[str, str]:
        """See ``Backend.gpu_memory_variables``."""
        return {GPU_MEMORY: f"{limit_mib:f}"}

    def replayer(self, artifact: Artifact, feeds: Feeds, memory_mib: float) -> Replayer:
        """See ``Backend.replayer``."""
        from hwbench_torch.probe import compiled

        if compiled(artifact.environment):
            from hwbench_torch.compiled import CompiledReplayer

            return CompiledReplayer(self, artifact, feeds)
        from hwbench_torch.replay import TorchReplayer

        return TorchReplayer(self, artifact, feeds, memory_mib)

    def convert(self, model: ModelSource, to: str, folder: Path) -> ModelSource:
        """See ``Backend.convert``."""
        from hwbench_torch import build

        return build.convert(model, to, folder)
