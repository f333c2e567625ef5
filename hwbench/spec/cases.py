"""Scenario entries of a spec to cases: what happens in one cell, fully resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any, get_args, get_origin, get_type_hints

from hwbench.backend import SiteKind
from hwbench.case import CLEAN, Case, Goal, Layer, SiteFilter
from hwbench.errors import RequestError
from hwbench.registry import SCENARIOS, names, nearest, scenario
from hwbench.scenario import Condition, Replacement, Scenario, SingleFaultPerturbation

MOST_PATTERNS = 1_000_000
COMMON = ("patterns", "name", "residence", "sites", "latency", "campaign")
GOAL_KEYS = tuple(each.name for each in fields(Goal))
SITE_KEYS = tuple(each.name for each in fields(SiteFilter))


@dataclass(frozen=True)
class _Entry:
    """One scenario entry, with its alternatives spelled out."""

    alternatives: tuple[Layer, ...]
    common: Mapping[str, Any] = field(default_factory=dict)
    goal: Goal | None = None


def expand(entries: list[Any]) -> list[Case]:
    """All cells' cases of a spec's ``scenarios``; ``clean`` is always the first.

    Raises:
        RequestError: with ``where`` naming the entry, as ``scenarios[2].rate``.
    """
    return [case for case in _all(entries) if not case.searched]


def searches(entries: list[Any]) -> list[Case]:
    """The cases whose severity is to be found: no cells, but rows of the table ``limits``.

    Raises:
        RequestError: as ``expand``.
    """
    return [case for case in _all(entries) if case.searched]


def _all(entries: list[Any]) -> list[Case]:
    cases = [CLEAN]
    for index, entry in enumerate(entries):
        where = f"scenarios[{index}]"
        if entry == "clean":
            continue
        stack = [_parse(each, where) for each in (entry if isinstance(entry, list) else [entry])]
        cases += _stacked(stack, where)
    return _distinct_names(cases)


def _parse(entry: Any, where: str) -> _Entry:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict):
        raise RequestError("a scenario is a name or a mapping.", where=where)
    chosen = [key for key in entry if key not in COMMON]
    if len(chosen) != 1:
        found = " and ".join(map(str, chosen)) or "none"
        hint = f"known scenarios: {', '.join(names(SCENARIOS))}; options: {', '.join(COMMON)}."
        raise RequestError(f"one scenario per entry, found {found}.", where=where, hint=hint)
    name = str(chosen[0])
    try:
        kind = scenario(name)
    except RequestError as error:
        raise RequestError(error.what, where=f"{where}.{name}", hint=error.hint) from None
    common = {key: entry[key] for key in COMMON if key in entry}
    _check_common(common, where)
    parameters = parameters_of(kind, entry[name], f"{where}.{name}")
    sites, residence = _filter(common, where), _residence(common, where)
    made = _instances(kind, parameters, f"{where}.{name}")
    layers = tuple(Layer(each, _of_target(sites, each), residence) for each in made)
    return _Entry(layers, common, _goal(common, kind, where))


def _of_target(sites: SiteFilter, made: Scenario) -> SiteFilter:
    """Kernels' weights are the usual sites, except of what hits activations."""
    usual = sites.kinds == SiteFilter().kinds and made.target == "activations"
    return replace(sites, kinds=("activation",)) if usual else sites


def _goal(common: Mapping[str, Any], kind: type[Scenario], where: str) -> Goal | None:
    asked = common.get("campaign")
    if asked is None:
        return None
    where = f"{where}.campaign"
    if not issubclass(kind, SingleFaultPerturbation):
        hint = "singlebit has: {singlebit: {}, campaign: {margin: 0.01}}."
        raise RequestError(f"{kind.name} has no single faults to sample.", where=where, hint=hint)
    if "patterns" in common:
        hint = "remove patterns: it runs until the margin is reached."
        raise RequestError("patterns and campaign do not go together.", where=where, hint=hint)
    if not isinstance(asked, dict):
        raise RequestError(f"a mapping of {', '.join(GOAL_KEYS)}.", where=where)
    for key in asked:
        if key not in GOAL_KEYS:
            hint = nearest(str(key), GOAL_KEYS)
            raise RequestError(f"unknown key {key!r}.", where=f"{where}.{key}", hint=hint)
    return _valid_goal(asked, where)


def _valid_goal(asked: Mapping[str, Any], where: str) -> Goal:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Goal).validate_python(asked)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{message}.", where=place) from None


def parameters_of(kind: type[Scenario], given: Any, where: str) -> dict[str, Any]:
    """An entry's parameters as a mapping: ``isa: avx2`` gives its only severity."""
    if isinstance(given, dict):
        return given
    if given is None:
        return {}
    short = kind.short or (kind.severities[0] if len(kind.severities) == 1 else "")
    if not short:
        hint = f"for example {kind.example}"
        raise RequestError("parameters are a mapping.", where=where, hint=hint)
    return {short: given}


def _check_common(common: Mapping[str, Any], where: str) -> None:
    patterns = common.get("patterns", 1)
    whole = isinstance(patterns, int) and not isinstance(patterns, bool)
    if not whole or patterns < 1:
        raise RequestError(
            f"a whole number of at least 1, not {patterns!r}.", where=f"{where}.patterns"
        )
    if patterns > MOST_PATTERNS:
        raise RequestError(f"at most {MOST_PATTERNS:,}.", where=f"{where}.patterns")
    if common.get("name") == CLEAN.name:
        what = f"{CLEAN.name!r} is the empty scenario's name."
        raise RequestError(what, where=f"{where}.name", hint="choose another.")
    if not isinstance(common.get("latency", False), bool):
        raise RequestError("true or false.", where=f"{where}.latency")


def _residence(common: Mapping[str, Any], where: str) -> str:
    residence = common.get("residence", "artifact")
    if residence not in ("artifact", "live"):
        hint = "artifact (the stored file) or live (the loaded buffer)."
        raise RequestError(
            f"unknown residence {residence!r}.", where=f"{where}.residence", hint=hint
        )
    return str(residence)


def _filter(common: Mapping[str, Any], where: str) -> SiteFilter:
    asked = common.get("sites", {})
    if not isinstance(asked, dict):
        raise RequestError(f"a mapping of {', '.join(SITE_KEYS)}.", where=f"{where}.sites")
    for key in asked:
        if key not in SITE_KEYS:
            raise RequestError(
                f"unknown key {key!r}.",
                where=f"{where}.sites.{key}",
                hint=nearest(str(key), SITE_KEYS),
            )
    lists = {k: tuple(map(str, v if isinstance(v, list) else [v])) for k, v in asked.items()}
    for kind in lists.get("kinds", ()):
        if kind not in get_args(SiteKind):
            hint = nearest(kind, get_args(SiteKind))
            raise RequestError(f"unknown kind {kind!r}.", where=f"{where}.sites.kinds", hint=hint)
    return SiteFilter(**lists)


def _instances(kind: type[Scenario], parameters: dict[str, Any], where: str) -> list[Scenario]:
    """One instance per combination of listed parameters."""
    from pydantic import TypeAdapter, ValidationError

    hints, known = get_type_hints(kind), [each.name for each in fields(kind)]
    options: dict[str, list[Any]] = {}
    for key, value in parameters.items():
        if key not in known:
            raise RequestError(
                f"unknown key {key!r}.", where=f"{where}.{key}", hint=nearest(str(key), known)
            )
        adapter: TypeAdapter[Any] = TypeAdapter(hints[key])
        try:
            options[key] = [adapter.validate_python(v) for v in _alternatives(value, hints[key])]
        except ValidationError as error:
            raise RequestError(f"{error.errors()[0]['msg']}.", where=f"{where}.{key}") from None
        if not options[key]:
            raise RequestError("an empty list.", where=f"{where}.{key}", hint="give a value.")
    return [
        _instance(kind, dict(zip(options, values, strict=True)), where)
        for values in product(*options.values())
    ]


def _alternatives(value: Any, hint: Any) -> list[Any]:
    """The values of a parameter: a list expands, unless the parameter itself takes a list."""
    takes_list = any(get_origin(each) is tuple for each in (hint, *get_args(hint)))
    if takes_list and isinstance(value, list):
        return value if value and all(isinstance(each, list) for each in value) else [value]
    return value if isinstance(value, list) else [value]


def _instance(kind: type[Scenario], values: dict[str, Any], where: str) -> Scenario:
    try:
        made = kind(**values)
        _ = made.severity
    except (ValueError, TypeError) as error:
        raise RequestError(f"{error}.", where=where, hint=f"for example {kind.example}") from None
    return made


def _stacked(stack: list[_Entry], where: str) -> list[Case]:
    """The product of a stack's alternatives; the severity is that of the last one that varies."""
    if len(stack) > 1 and any(
        isinstance(a.scenario, Replacement) for e in stack for a in e.alternatives
    ):
        hint = "other data stand alone: give them an entry of their own."
        raise RequestError("a dataset cannot be stacked.", where=where, hint=hint)
    if len(stack) > 1 and any(entry.goal for entry in stack):
        hint = "give the single faults alone."
        raise RequestError("a campaign is not stacked.", where=where, hint=hint)
    varying = [
        i
        for i, entry in enumerate(stack)
        if len({a.scenario.severity for a in entry.alternatives}) > 1
    ]
    if len(varying) > 1:
        hint = "in a stack only one scenario may list severities."
        raise RequestError("several severities vary at once.", where=where, hint=hint)
    searched = [i for i, e in enumerate(stack) if any(_searched(a) for a in e.alternatives)]
    if searched and (len(searched) + len(varying) > 1 or not all(map(_constraining, stack))):
        hint = "a search stands alone, or in a stack with conditions at one severity each."
        raise RequestError("search goes with fixed conditions only.", where=where, hint=hint)
    axis = (searched or varying or [len(stack) - 1])[0]
    common = {key: value for entry in stack for key, value in entry.common.items()}
    cases = []
    for layers in product(*(entry.alternatives for entry in stack)):
        main = layers[axis].scenario
        cases.append(
            Case(
                str(common.get("name") or _auto_name(layers, axis)),
                layers,
                main.severity_name,
                main.severity if main.severities else None,
                int(common.get("patterns", 1)),
                bool(common.get("latency", all(_constrains(layer) for layer in layers))),
                stack[0].goal,
            )
        )
    return cases


def _searched(layer: Layer) -> bool:
    return isinstance(layer.scenario, Condition) and layer.scenario.searched


def _constraining(entry: _Entry) -> bool:
    return all(map(_constrains, entry.alternatives))


def _constrains(layer: Layer) -> bool:
    """Conditions are measured by default: what they cost is what they are asked for."""
    return isinstance(layer.scenario, Condition)


def _auto_name(layers: tuple[Layer, ...], axis: int) -> str:
    """``bitflip-weights``; a stack's fixed severities and unusual residences are spelled out."""
    parts = []
    for index, layer in enumerate(layers):
        made = layer.scenario
        target = "" if made.target in ("process", "data") else made.target
        part = "-".join(filter(None, (made.name, made.variant, target)))
        if index != axis and made.severities:
            part += f"({made.severity_name}={made.severity:g})"
        if layer.residence != "artifact":
            part += f"-{layer.residence}"
        parts.append(part)
    return "+".join(parts)


def _distinct_names(cases: list[Case]) -> list[Case]:
    """Cases that would share an id get a running number; exact repetitions are dropped."""
    unique = list(dict.fromkeys(cases))
    taken: dict[str, list[tuple[Layer, ...]]] = {}
    result = []
    for case in unique:
        kinds = taken.setdefault(f"{case.name}@{case.severity_name}={case.severity}", [])
        kinds.append(case.layers)
        result.append(case if len(kinds) == 1 else replace(case, name=f"{case.name}-{len(kinds)}"))
    return result
