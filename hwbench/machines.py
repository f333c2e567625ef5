"""``machines.json`` of a run: the machines that the rows of ``processes`` name by fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwbench import fingerprint
from hwbench.store import Store

FILE = "machines.json"


def here() -> dict[str, dict[str, Any]]:
    """This machine, by its fingerprint, with what is installed."""
    return {fingerprint.mark(): {**fingerprint.machine(), "versions": fingerprint.versions()}}


def note(store: Store, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Add machines to those that the run knows."""
    known = store.read_json(FILE) if store.has(FILE) else {}
    merged = {
        mark: {
            **told,
            "boards": {**known.get(mark, {}).get("boards", {}), **told.get("boards", {})},
        }
        for mark, told in found.items()
    }
    if {**known, **merged} != known:
        store.write_json(FILE, {**known, **merged})
