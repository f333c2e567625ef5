"""The tensors of a deployment that can be hit, as a file: what campaigns share out as strata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from hwbench.backend import Site
from hwbench.durable import replacing


def write(path: Path, sites: Iterable[Site]) -> None:
    """Whole or not at all."""
    with replacing(path, "sites") as file:
        file.write(json.dumps([asdict(site) for site in sites]).encode())


def read(path: Path) -> tuple[Site, ...]:
    """What ``write`` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Site(**{**each, "shape": tuple(each["shape"])}) for each in content)
