"""Whether two runs can be compared at all, and what they were made with that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwbench.collect.rows import rows_of
from hwbench.compare.side import Side
from hwbench.errors import RequestError
from hwbench.seeds import canonical

_REPORTED = (
    "status",
    "actual_device",
    "actual_precision",
    "actual_threads",
    "operators_as_asked",
    "provider",
    "isa",
    "runtime_version",
    "deviation",
)


@dataclass(frozen=True)
class Difference:
    """Something that the runs were not made alike with."""

    what: str
    before: str
    after: str


def matched_models(before: Side, after: Side, *, across: bool) -> dict[str, str]:
    """Models of the second run by their names in the first.

    Args:
        before: the first run.
        after: the second.
        across: models of other content, or the only model of each under another name, are meant.

    Raises:
        RequestError: what the runs measured is not the same.
    """
    _same_task(before, after)
    one, two = before.run["inputs"], after.run["inputs"]
    found = {name: name for name in one if name in two}
    if not found and across and len(one) == len(two) == 1:
        found = {next(iter(one)): next(iter(two))}
    if not found:
        what = f"they have no model in common ({', '.join(one)}; {', '.join(two)})."
        hint = "--across-models compares two runs of one model each."
        raise RequestError(what, where=_where(before, after), hint=hint)
    for name, other in found.items():
        _same_inputs(before, after, name, other, across)
    return found


def _where(before: Side, after: Side) -> str:
    return f"{before.folder} and {after.folder}"


def _same_inputs(before: Side, after: Side, name: str, other: str, across: bool) -> None:
    one, two = before.run["inputs"][name], after.run["inputs"][other]
    if one["data"] != two["data"]:
        raise RequestError(
            f"the data (or their calibration or preprocessing) of {name!r} differ.",
            where=_where(before, after),
            hint="run both on the same data.",
        )
    if one["model"] != two["model"] and not across:
        raise RequestError(
            f"{name!r} is another model in each.",
            where=_where(before, after),
            hint="give --across-models if that is what you want to know.",
        )


def _same_task(before: Side, after: Side) -> None:
    dumps = (each.spec.task.model_dump(exclude_none=True) for each in (before, after))
    one, two = map(canonical, dumps)
    if one != two:
        raise RequestError(
            f"their decisions are judged by other rules (task {one}; {two}).",
            where=_where(before, after),
            hint="run both with the same `task`.",
        )


def redefined(before: Side, after: Side) -> set[str]:
    """Ids of cases that both have, under the same name but with other parameters."""
    if before.spec.scenarios == after.spec.scenarios:
        return set()
    from hwbench.spec.cases import expand

    one, two = (
        {
            each.id: canonical([{**layer.to_json(), "prepared": ""} for layer in each.layers])
            for each in expand(side.spec.scenarios)
        }
        for side in (before, after)
    )
    return {name for name in one if name in two and one[name] != two[name]}


def differences(before: Side, after: Side, models: Mapping[str, str]) -> list[Difference]:
    """Models, machine, versions, seed, and what the environments really ran, where it differs."""
    return [
        *_differing("model", *(_digests(before, models, 0), _digests(after, models, 1))),
        *_differing("machine", before.run["machine"], after.run["machine"]),
        *_differing("version", before.run["versions"], after.run["versions"]),
        *_differing("", {"seed": before.run["seed"]}, {"seed": after.run["seed"]}),
        *_environments(before, after, models),
    ]


def _digests(side: Side, models: Mapping[str, str], which: int) -> dict[str, str]:
    return {pair[0]: side.run["inputs"][pair[which]]["model"] for pair in models.items()}


def _differing(kind: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[Difference]:
    for name in [*one, *(name for name in two if name not in one)]:
        if one.get(name) != two.get(name):
            yield Difference(f"{kind} {name}".strip(), _text(one.get(name)), _text(two.get(name)))


def _environments(before: Side, after: Side, models: Mapping[str, str]) -> Iterator[Difference]:
    """What ran, and the runtime options that were asked for, under one and the same id."""
    one, two = (_actual(side) for side in (before, after))
    for (model, environment), values in one.items():
        other = two.get((models.get(model, ""), environment))
        if other is not None:
            yield from _differing(environment, values, other)


def _actual(side: Side) -> dict[tuple[str, str], dict[str, Any]]:
    options = {(e["model"], e["environment"]): e["options"] for e in side.plan["environments"]}
    found = {}
    for row in rows_of(side.tables["environments"]):
        place = (row["model"], row["environment"])
        known = {name: row[name] for name in _REPORTED if row[name] is not None}
        found[place] = {**known, "options": options.get(place)}
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value is None else str(value)
