"""A replayer that takes a route per site, as the gate chose it when the site was first run."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np

from hwbench.backend import Array, Artifact, Backend, Feeds, Method, Replayer
from hwbench.edits import Edits
from hwbench.replay import lanes, naive
from hwbench.replay.gate import Route
from hwbench.replay.rows import independent


class RoutedReplayer(Replayer):
    """What the replayers of all runtimes share: one batch, its golden, and routes by site."""

    def __init__(self, backend: Backend, artifact: Artifact) -> None:
        self._backend, self._artifact = backend, artifact
        self._stored = {site.name: site for site in backend.sites(artifact)}

    def _open(self, feeds: Feeds) -> None:
        """Take a batch: golden of the deployed session, and no route yet."""
        self._feeds = {name: np.ascontiguousarray(each) for name, each in feeds.items()}
        session = self._backend.open(self._artifact)
        self.golden = session.run(self._feeds)
        self.rows_independent = independent(session.run, self._feeds, self.golden)
        session.close()
        self.methods: dict[str, Method] = {}
        self._routes: dict[str, Route] = {}

    @property
    def _rows(self) -> int:
        """Rows of the batch."""
        return len(next(iter(self._feeds.values())))

    def _settings(self) -> AbstractContextManager[object]:
        """What holds while anything is run."""
        return nullcontext()

    def method(self, site: str) -> Method:
        """See ``Replayer.method``."""
        with self._settings():
            self._route(site)
        return self.methods[site]

    def run(self, edits: Edits) -> list[dict[str, Array]]:
        """See ``Replayer.run``."""
        if not len(edits):
            return []
        with self._settings():
            return self._route(lanes.site_of(edits)).run(lanes.split(edits))

    def run_pattern(self, edits: Edits) -> dict[str, Array]:
        """See ``Replayer.run_pattern``."""
        if not len(edits):
            return {name: each.copy() for name, each in self.golden.items()}
        if len(edits.touched()) == 1:
            return self.run(replace(edits, lane=np.zeros_like(edits.lane)))[0]
        with self._settings():
            return self._several(edits)

    def _route(self, site: str) -> Route:
        if site not in self._routes:
            self._routes[site], self.methods[site] = self._choose(site)
        return self._routes[site]

    def _choose(self, site: str) -> tuple[Route, Method]:
        make = self._choose_stored if site in self._stored else self._choose_activation
        return make(site)

    def _naive(self, edits: Edits) -> dict[str, Array]:
        """Outputs with edits of stored tensors in the artifact's file."""
        return naive.stored(self._backend, self._artifact, self._feeds, edits)

    @abstractmethod
    def _several(self, edits: Edits) -> dict[str, Array]:
        """Outputs of one pattern over several sites."""

    @abstractmethod
    def _choose_stored(self, name: str) -> tuple[Route, Method]:
        """The fastest exact route for a stored tensor."""

    @abstractmethod
    def _choose_activation(self, name: str) -> tuple[Route, Method]:
        """The fastest exact route for a tensor between operators, or an input."""
