"""The tensors of a deployment that can be hit, as a file: what campaigns share out as strata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from hwbench.backend import Site


def write(path: Path, sites: Iterable[Site]) -> None:
    """Whole or not at all."""
    scratch = path.with_name(f".{os.getpid()}.{path.name}")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump([asdict(site) for site in sites], file)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)


def read(path: Path) -> tuple[Site, ...]:
    """What ``write`` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Site(**{**each, "shape": tuple(each["shape"])}) for each in content)
