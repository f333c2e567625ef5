"""Counts of a spec: what may grow after a run has begun. All else must stay as it was.

Counts are totals, not additions: asked for twice, or again after a crash, they mean the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from hwbench.errors import RequestError
from hwbench.seeds import canonical
from hwbench.spec import Spec
from hwbench.spec.cases import COMMON, expand, searches

ALL, LATENCY = "patterns", "latency.processes"


def parse(texts: list[str]) -> dict[str, int]:
    """``["patterns=200", "latency.processes=9"]`` as a mapping.

    Raises:
        RequestError: one has another form.
    """
    found = {}
    if not texts:
        raise RequestError("nothing to add.", where="--extend", hint=f"for example {ALL}=200.")
    for text in texts:
        name, _, count = text.partition("=")
        if not name or not count.isdecimal() or int(count) < 1:
            hint = f"{ALL}=N, SCENARIO.{ALL}=N or {LATENCY}=N, the new totals."
            raise RequestError(f"{text!r} is no count.", where="--extend", hint=hint)
        found[name] = int(count)
    return found


def extended(spec: Spec, counts: Mapping[str, int]) -> Spec:
    """The spec with larger counts; those that are as large already stay.

    Args:
        spec: resolved: without a budget.
        counts: new totals. ``patterns`` of every scenario that gives patterns,
            ``SCENARIO.patterns`` of one by its name in the spec or in the tables,
            ``latency.processes``.

    Raises:
        RequestError: a name that means nothing here.
    """
    for name, count in counts.items():
        spec = _latency(spec, count) if name == LATENCY else _scenarios(spec, name, count)
    return spec


def _latency(spec: Spec, count: int) -> Spec:
    if spec.latency is None:
        raise RequestError("the run measures no latency.", where=LATENCY)
    processes = max(count, spec.latency.processes)
    return spec.model_copy(
        update={"latency": spec.latency.model_copy(update={"processes": processes})}
    )


def _scenarios(spec: Spec, name: str, count: int) -> Spec:
    which = name.removesuffix(f".{ALL}") if name != ALL else None
    if which == name:
        hint = f"known: {ALL}, SCENARIO.{ALL}, {LATENCY}."
        raise RequestError(f"{name!r} is no count.", where="--extend", hint=hint)
    chosen = [i for i, entry in enumerate(spec.scenarios) if _means(entry, which)]
    if not chosen:
        known = ", ".join(sorted({each for entry in spec.scenarios for each in _names(entry)}))
        what = "no scenario gives patterns." if which is None else f"no scenario is {which!r}."
        raise RequestError(what, where=name, hint=f"there are: {known or 'none'}.")
    entries = [
        _grown(entry, count) if i in chosen else entry for i, entry in enumerate(spec.scenarios)
    ]
    return spec.model_copy(update={"scenarios": entries})


def _means(entry: Any, which: str | None) -> bool:
    if any("campaign" in each for each in _mappings(entry)):
        return False  # it has as many as it needs
    if which is None:
        return any(ALL in each for each in _mappings(entry))
    return which in _names(entry)


def _mappings(entry: Any) -> Iterator[dict[str, Any]]:
    for each in entry if isinstance(entry, list) else [entry]:
        if isinstance(each, dict):
            yield each


def _names(entry: Any) -> set[str]:
    """What an entry is called: in the spec, where it stands alone, and in the tables."""
    if entry == "clean":
        return set()
    names = {case.name for case in (*expand([entry]), *searches([entry])) if case.layers}
    alone = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
    if isinstance(alone, dict):
        names |= {key for key in alone if key not in COMMON}
    return names | {alone} if isinstance(alone, str) else names


def _grown(entry: Any, count: int) -> Any:
    """The entry with at least so many patterns."""
    if isinstance(entry, str):
        return {entry: {}, ALL: count}
    if isinstance(entry, list):
        given = [i for i, each in enumerate(entry) if isinstance(each, dict) and ALL in each]
        at = given[-1] if given else 0  # of several, a stack takes the last
        return [_grown(each, count) if i == at else each for i, each in enumerate(entry)]
    return {**entry, ALL: max(count, entry.get(ALL, 1))}


def shrinks(spec: Spec, counts: Mapping[str, int]) -> str:
    """The first count that a run has already more of; empty if there is none."""
    for name, count in counts.items():
        if extended(spec, {name: count}) == spec and extended(spec, {name: count + 1}) == spec:
            return name
    return ""


def uncounted(spec: Spec) -> dict[str, Any]:
    """What of a spec must not change within a run: all but counts, the budget and the name."""
    content = spec.model_dump(mode="json", exclude={"budget", "name"})
    if content["latency"]:
        del content["latency"]["processes"]
    content["scenarios"] = [_uncounted(entry) for entry in content["scenarios"]]
    return content


def _uncounted(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_uncounted(each) for each in entry]
    if isinstance(entry, dict):
        entry = {key: value for key, value in entry.items() if key != ALL}
        return next(iter(entry)) if list(entry.values()) == [{}] else entry
    return entry


def digest(spec: Spec) -> str:
    """Hash of what must not change."""
    return hashlib.sha256(canonical(uncounted(spec)).encode()).hexdigest()[:16]


def difference(before: Any, after: Any, path: str = "") -> str:
    """Where two specs differ first, as ``scenarios[1].bitflip.rate``; empty if nowhere."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        pairs = [(f"{path}.{key}".strip("."), before.get(key), after.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(f"{path}[{i}]", *each) for i, each in enumerate(zip(before, after, strict=True))]
    else:
        return "" if before == after else path
    return next((found for name, a, b in pairs if (found := difference(a, b, name))), "")
