"""A replayer that repeats whole runs: slow, exact, and as mortal as its backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hwbench import edits as bits
from hwbench.backend import Array, Artifact, Feeds, Method, Replayer, Site
from hwbench.edits import Edits
from hwbench.replay import lanes

from .faults import strike

OUTPUT = "logits"


class FakeReplayer(Replayer):
    """Its sites are the stored tensors alone."""

    def __init__(self, artifact: Artifact, tensors: Mapping[str, Array], feeds: Feeds) -> None:
        self._options: Mapping[str, Any] = artifact.environment.options
        self._tensors, (self._rows,) = dict(tensors), feeds.values()
        self.methods: dict[str, Method] = {}
        self.golden = self._run(self._tensors)

    @property
    def activations(self) -> Sequence[Site]:
        """See ``Replayer.activations``."""
        return ()

    def run(self, edits: Edits) -> list[dict[str, Array]]:
        """See ``Replayer.run``."""
        site = lanes.site_of(edits)
        self.methods[site] = Method("suffix")
        results = []
        for lane in lanes.split(edits):
            damaged = {**self._tensors, site: bits.apply(self._tensors[site], lane)}
            strike(self._options, "load", damaged["weight"])
            results.append(self._run(damaged))
        return results

    def run_pattern(self, edits: Edits) -> dict[str, Array]:
        """See ``Replayer.run_pattern``."""
        raise NotImplementedError

    def _run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        with np.errstate(all="ignore"):
            logits = [tensors["weight"] @ row + tensors["bias"] for row in self._rows]
        return {OUTPUT: np.asarray(logits, np.float32)}
