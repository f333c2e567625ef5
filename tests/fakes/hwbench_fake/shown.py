"""A replayer that shows every tensor between its operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hwbench import edits as bits
from hwbench.backend import Array, Feeds, Method, Replayer, Site
from hwbench.edits import Edits
from hwbench.replay import lanes

OUTPUT = "logits"


class ShowingReplayer(Replayer):
    """No shortcut: everything is computed again."""

    def __init__(self, tensors: Mapping[str, Array], feeds: Feeds) -> None:
        self._tensors, self._feeds = tensors, feeds
        self.golden = {OUTPUT: self._tensors_of(tensors, feeds)[OUTPUT]}
        self.methods: dict[str, Method] = {}

    @property
    def activations(self) -> Sequence[Site]:
        """See ``Replayer.activations``."""
        (name,) = self._feeds
        features, classes = self._tensors["weight"].shape[::-1]
        return (
            Site(name, "input", "float32", (features,), "Gemm", "fc", 0),
            Site("products", "activation", "float32", (classes,), "Gemm", "fc", 0),
            Site(OUTPUT, "activation", "float32", (classes,), "Gemm", "fc", 1),
        )

    def run(self, edits: Edits) -> list[dict[str, Array]]:
        """See ``Replayer.run``."""
        self.methods[lanes.site_of(edits)] = Method("whole")
        return [self.run_pattern(each) for each in lanes.split(edits)]

    def run_pattern(self, edits: Edits) -> dict[str, Array]:
        """See ``Replayer.run_pattern``."""
        return {OUTPUT: self._faulty(edits)[OUTPUT]}

    def spread(self, edits: Edits) -> Iterator[tuple[Site, Array, Array]]:
        """See ``Replayer.spread``."""
        golden, faulty = self._faulty(bits.none(edits.sites)), self._faulty(edits)
        for site in self.activations:
            yield site, golden[site.name], faulty[site.name]

    def _faulty(self, edits: Edits) -> dict[str, Array]:
        tensors, feeds = dict(self._tensors), dict(self._feeds)
        for name in edits.touched():
            if name in tensors:
                tensors[name] = bits.apply(tensors[name], edits.at_site(name))
            else:
                feeds[name] = lanes.apply_rows(feeds[name], edits.at_site(name))
        return self._tensors_of(tensors, feeds)

    def _tensors_of(self, tensors: Mapping[str, Array], feeds: Feeds) -> dict[str, Array]:
        ((name, rows),) = feeds.items()
        with np.errstate(all="ignore"):
            products = np.asarray([tensors["weight"] @ row for row in rows], np.float32)
            return {name: rows, "products": products, OUTPUT: products + tensors["bias"]}
