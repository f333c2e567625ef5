"""Faults in a compiled program: whole runs, since what inductor has fused cannot be cut."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from hwbench.backend import Array, Artifact, Backend, Feeds, Method, Replayer, Site
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.replay import lanes, naive

_WHOLE = Method("whole", ("suffix: a compiled program cannot be cut",))


class CompiledReplayer(Replayer):
    """One batch on one compiled artifact; a fault in storage costs a compilation."""

    def __init__(self, backend: Backend, artifact: Artifact, feeds: Feeds) -> None:
        self._backend, self._artifact = backend, artifact
        self._feeds = {name: np.ascontiguousarray(each) for name, each in feeds.items()}
        self._session = backend.open(artifact)
        self.golden = self._session.run(self._feeds)
        self._stored = {site.name for site in backend.sites(artifact)}
        self.methods: dict[str, Method] = {}

    @property
    def activations(self) -> tuple[Site, ...]:
        """The inputs alone: tensors between fused operators are not kept."""
        return self._inputs

    @cached_property
    def _inputs(self) -> tuple[Site, ...]:
        return tuple(
            Site(spec.name, "input", spec.dtype, self._feeds[spec.name].shape[1:])
            for spec in self._artifact.inputs
        )

    def method(self, site: str) -> Method:
        """See ``Replayer.method``."""
        return _WHOLE

    def run(self, edits: Edits) -> list[dict[str, Array]]:
        """See ``Replayer.run``."""
        if not len(edits):
            return []
        name = lanes.site_of(edits)
        results = [self._whole(each) for each in lanes.split(edits)]
        self.methods[name] = _WHOLE
        return results

    def run_pattern(self, edits: Edits) -> dict[str, Array]:
        """See ``Replayer.run_pattern``."""
        if len(edits.touched()) == 1:
            return self.run(replace(edits, lane=np.zeros_like(edits.lane)))[0]
        made = self._whole(edits)
        self.methods["pattern"] = _WHOLE
        return made

    def _whole(self, edits: Edits) -> dict[str, Array]:
        feeds, held = dict(self._feeds), np.zeros(len(edits), dtype=np.bool_)
        for name in edits.touched():
            here = np.asarray(edits.site == edits.sites.index(name))
            if name in self._stored:
                held |= here
            elif name in feeds:
                feeds[name] = lanes.apply_rows(feeds[name], edits.where(here))
            else:
                raise Unsupported(
                    f"{name} is neither stored nor an input, and a compiled program keeps nothing"
                    " between. Hint: int8-ref, or compile: false, runs the same graph step by step"
                )
        if not held.any():
            return self._session.run(feeds)
        with tempfile.TemporaryDirectory() as scratch:
            damaged = self._backend.corrupt(self._artifact, edits.where(held), Path(scratch))
            return naive.golden(self._backend, damaged, feeds)

    def close(self) -> None:
        """See ``Replayer.close``."""
        self._session.close()
