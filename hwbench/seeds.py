"""Keyed randomness: what is drawn depends on what it is for, never on batch, worker or order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


def canonical(value: object) -> str:
    """Canonical JSON: sorted keys, no spaces. Equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Key:
    """A point in the tree of random streams.

    Streams are Philox counters keyed by the SHA-256 of the path that leads here.
    """

    path: tuple[str, ...]

    @classmethod
    def of_pattern(cls, seed: int, scenario: Mapping[str, object], pattern: int) -> Key:
        """The key of one pattern of a scenario (its parameters *without* the severity)."""
        return cls((str(seed), canonical(dict(scenario)), str(pattern)))

    def child(self, *parts: object) -> Key:
        """A key further down, e.g. by site name or dataset sample index."""
        return Key((*self.path, *(str(part) for part in parts)))

    @property
    def pattern(self) -> int:
        """Number of the pattern that ``of_pattern`` made this key, or its parent, for."""
        return int(self.path[2])

    @property
    def across_patterns(self) -> Key:
        """What this key shares with those of the scenario's other patterns."""
        return Key((*self.path[:2], "all", *self.path[3:]))

    def hex(self) -> str:
        """32 hexadecimal digits that name this key in a record."""
        return hashlib.sha256("\x1f".join(self.path).encode()).hexdigest()[:32]

    def generator(self, *parts: object) -> np.random.Generator:
        """The stream of this key, or of a child."""
        return np.random.Generator(np.random.Philox(key=int(self.child(*parts).hex(), 16)))
