"""ONNX Runtime with a slowdown planted into it: is a difference of known size found?"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hwbench.backend import Actual, Array, Artifact, Environment, Feeds, ModelSource, Session
from hwbench_onnxruntime import OnnxRuntimeBackend

OPTION = "planted.slowdown"


class PlantedBackend(OnnxRuntimeBackend):
    """Every call takes longer by the share that the environment's option names."""

    name: ClassVar[str] = "planted"

    def build(
        self, model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
    ) -> Artifact:
        """See ``Backend.build``."""
        made = super().build(model, _plain(environment), calibration, folder)
        return replace(made, environment=environment)

    def open(self, artifact: Artifact) -> Session:
        """See ``Backend.open``."""
        slowdown = float(artifact.environment.options[OPTION])
        inner = super().open(replace(artifact, environment=_plain(artifact.environment)))
        return PlantedSession(inner, slowdown)


def _plain(environment: Environment) -> Environment:
    options = {key: value for key, value in environment.options.items() if key != OPTION}
    return replace(environment, options=options)


class PlantedSession(Session):
    """Waits after every call, busily as a slower kernel would."""

    def __init__(self, inner: Session, slowdown: float) -> None:
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self._inner, self._slowdown = inner, slowdown

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See ``Session.run``."""
        start = time.perf_counter_ns()
        outputs = self._inner.run(feeds)
        end = start + (1 + self._slowdown) * (time.perf_counter_ns() - start)
        while time.perf_counter_ns() < end:
            pass
        return outputs

    @property
    def actual(self) -> Actual:
        """See ``Session.actual``."""
        return self._inner.actual

    def close(self) -> None:
        """See ``Session.close``."""
        self._inner.close()
