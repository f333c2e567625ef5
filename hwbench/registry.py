"""Finds backends, scenarios and suites through entry points, in-tree ones too."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from inspect import isabstract

from hwbench.backend import Backend
from hwbench.errors import RequestError
from hwbench.scenario import Scenario

BACKENDS = "hwbench.backends"
SCENARIOS = "hwbench.scenarios"
SUITES = "hwbench.suites"


@cache
def _group(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming what was probably meant, or what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}."


def names(group: str) -> tuple[str, ...]:
    """Registered names of a group, sorted."""
    return tuple(sorted(_group(group)))


def _load(group: str, name: str, kind: str) -> object:
    point = _group(group).get(name)
    if point is None:
        raise RequestError(f"unknown {kind} {name!r}.", hint=nearest(name, _group(group)))
    return point.load()


def backend(name: str) -> Backend:
    """The adapter registered under ``name``.

    Raises:
        RequestError: nothing of that name, or what is registered is no complete backend.
    """
    found = _load(BACKENDS, name, "backend")
    if not (isinstance(found, type) and issubclass(found, Backend)) or isabstract(found):
        raise RequestError(
            f"backend {name!r} is registered as {found!r}, which is no complete hwbench Backend.",
            hint="a class deriving from hwbench.backend.Backend with every method is expected.",
        )
    return found()


def scenario(name: str) -> type[Scenario]:
    """The scenario class registered under ``name``; same errors as ``backend``."""
    found = _load(SCENARIOS, name, "scenario")
    if not (isinstance(found, type) and issubclass(found, Scenario)) or isabstract(found):
        raise RequestError(
            f"scenario {name!r} is registered as {found!r}, which is no complete scenario.",
            hint="a frozen dataclass deriving from Perturbation or Condition is expected.",
        )
    return found


def missing_modules(backend: Backend) -> tuple[str, ...]:
    """Modules the adapter needs that are not installed (nothing is imported)."""
    return tuple(each for each in backend.requires if find_spec(each.replace("-", "_")) is None)


def install_hint(backend: Backend) -> str:
    """The command that installs what the adapter needs."""
    return f'pip install "hwbench[{backend.extra or backend.name}]"'


def suites() -> dict[str, str]:
    """Text of every ready-made sweep, by name."""
    found = {}
    for point in _group(SUITES).values():
        for entry in resources.files(point.value).iterdir():
            if entry.name.endswith(".yaml"):
                found[entry.name.removesuffix(".yaml")] = entry.read_text()
    return found
