"""Read a spec: YAML text to a ``Spec``, with errors that name file, line and key."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any

import yaml
from pydantic import ValidationError

from hwbench.errors import RequestError
from hwbench.files import regular
from hwbench.registry import BACKENDS, SCENARIOS, names, nearest, scenario, suites
from hwbench.score import METRICS
from hwbench.spec import cases
from hwbench.spec.models import Spec

Path_ = tuple[str | int, ...]
MOST_NODES = 100_000


class Lines:
    """Where each key of a YAML document stands."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._visits = 0
        self._lines: dict[Path_, int] = {}
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            self._walk(node, ())

    def _walk(self, node: yaml.Node, path: Path_) -> None:
        self._visits += 1
        if self._visits > MOST_NODES:  # anchors may stand for billions of them
            what = f"stands for more than {MOST_NODES:,} values."
            raise RequestError(what, where=self.source, hint="write it without anchors.")
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                line, place = key.start_mark.line + 1, (*path, str(key.value))
                if place in self._lines:
                    where, hint = f"{self.source}:{line}: {key.value}", "remove one of them."
                    raise RequestError("given twice.", where=where, hint=hint)
                self._lines[place] = line
                self._walk(value, (*path, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, (*path, index))

    def where(self, path: Path_) -> str:
        """``file:line: key``, of the deepest part of the path that stands in the file."""
        shown = path
        while path not in self._lines and path:
            path = path[:-1]
        line = self._lines.get(path)
        key = re.sub(r"\.\[", "[", ".".join(f"[{p}]" if isinstance(p, int) else p for p in shown))
        place = f"{self.source}:{line}" if line else self.source
        return f"{place}: {key}" if key else place


def load(path: Path) -> Spec:
    """The spec in a YAML file, paths in it made absolute relative to that file.

    Raises:
        RequestError: no such file, no YAML, an unknown key, a value that means nothing.
    """
    try:
        text = regular(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = f"give a spec file, or a suite: {', '.join(sorted(suites()))}."
        raise RequestError("no such file.", where=str(path), hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot be read as text ({error}).", where=str(path)) from None
    return parse(text, str(path), path.parent)


def load_suite(name: str, overrides: Mapping[str, Any]) -> Spec:
    """A ready-made sweep, with model and data (and anything else) from ``overrides``."""
    known = suites()
    if name not in known:
        raise RequestError(f"unknown suite {name!r}.", hint=nearest(name, known))
    return parse(known[name], f"suite {name}", Path.cwd(), overrides)


def load_default(overrides: Mapping[str, Any]) -> Spec:
    """The sweep that runs without arguments."""
    return load_suite("smoke", overrides)


def parse(text: str, source: str, base: Path, overrides: Mapping[str, Any] | None = None) -> Spec:
    """The spec in ``text``; relative paths are taken from ``base``."""
    try:
        content = yaml.safe_load(text)
        lines = Lines(source, text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        what = f"not valid YAML ({getattr(error, 'problem', None) or error})."
        raise RequestError(what, where=where, hint="check indentation and brackets.") from None
    except ValueError as error:  # what looks like a date and is none
        hint = "put text into quotes."
        raise RequestError(f"not valid YAML ({error}).", where=source, hint=hint) from None
    except RecursionError:
        raise RequestError("nested too deeply.", where=source) from None
    if not isinstance(content, dict):
        raise RequestError("a spec is a mapping of keys.", where=source, hint="see `hwbench init`.")
    return _made({**content, **(overrides or {})}, lines, base)


def load_mapping(content: Mapping[str, Any]) -> Spec:
    """The spec that a mapping describes, with the keys of a YAML file.

    Relative paths in it are taken from the working directory; they may be ``pathlib`` paths.

    Raises:
        RequestError: an unknown key, or a value that means nothing.
    """
    return _made(_plain(content), Lines("spec", ""), Path.cwd())


def _plain(value: Any) -> Any:
    """Containers and paths as YAML gives them."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, PurePath) else value


def _made(content: dict[str, Any], lines: Lines, base: Path) -> Spec:
    entries = _with_paths(content.get("scenarios", ["clean"]), base)
    content["scenarios"] = _with_suites(entries, lines)
    spec = _validated(content, lines)
    _check_cases(entries, lines)
    _check_names(spec, lines)
    return _absolute(spec, base)


def _with_paths(entries: Any, base: Path) -> Any:
    """Files that a scenario names as its ``table`` made absolute, where they are."""
    if isinstance(entries, list):
        return [_with_paths(each, base) for each in entries]
    if not isinstance(entries, dict):
        return entries
    changed = {}
    for key, value in entries.items():
        named = isinstance(value, dict) and isinstance(value.get("table"), str)
        path = (base / Path(value["table"]).expanduser()).resolve() if named else None
        changed[key] = {**value, "table": str(path)} if path and path.is_file() else value
    return changed


def _with_suites(entries: Any, lines: Lines) -> Any:
    """``{suite: NAME}`` entries replaced by that suite's scenarios."""
    if not isinstance(entries, list):
        return entries
    expanded: list[Any] = []
    for index, entry in enumerate(entries):
        if _is_suite(entry):
            known, name = suites(), str(entry["suite"])
            if name not in known:
                where = lines.where(("scenarios", index, "suite"))
                raise RequestError(
                    f"unknown suite {name!r}.", where=where, hint=nearest(name, known)
                )
            expanded += yaml.safe_load(known[name]).get("scenarios", [])
        else:
            expanded.append(entry)
    return expanded


def _is_suite(entry: Any) -> bool:
    return isinstance(entry, dict) and set(entry) == {"suite"}


def _validated(content: dict[str, Any], lines: Lines) -> Spec:
    try:
        return Spec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        path = tuple(first["loc"])
        where = lines.where(path)
        if first["type"] == "extra_forbidden":
            known = _known_keys(path)
            hint = nearest(str(path[-1]), known)
            raise RequestError(f"unknown key {path[-1]!r}.", where=where, hint=hint) from None
        message = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{message} (given: {_short(first['input'])}).", where=where) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(path: Path_) -> list[str]:
    """Keys that are known beside the last one of ``path``."""
    schema: Any = Spec.model_json_schema()
    node: Any = schema
    for part in path[:-1]:
        node = _into(_resolved(node, schema), part, schema)
    return list(_resolved(node, schema).get("properties", {}))


def _resolved(node: Any, schema: Any) -> Any:
    """Follow ``$ref`` and the first object alternative."""
    if "$ref" in node:
        return _resolved(schema["$defs"][node["$ref"].rsplit("/", 1)[-1]], schema)
    for option in node.get("anyOf", []):
        found = _resolved(option, schema)
        if found.get("type") in ("object", "array"):
            return found
    return node


def _into(node: Any, part: str | int, schema: Any) -> Any:
    if isinstance(part, int):
        return node.get("items", {})
    properties = node.get("properties", {})
    return properties.get(part) or node.get("additionalProperties") or {}


def _check_cases(entries: Any, lines: Lines) -> None:
    """Scenario entries are checked as the file has them, where their line numbers are known."""
    own = entries if isinstance(entries, list) else [entries]
    try:
        cases.expand(["clean" if _is_suite(entry) else entry for entry in own])
    except RequestError as error:
        raise RequestError(
            error.what, where=lines.where(_path(error.where)), hint=error.hint
        ) from None


def _check_names(spec: Spec, lines: Lines) -> None:
    """Names that refer to something registered, or to another part of the spec."""
    backends = names(BACKENDS)
    for index, entry in enumerate(spec.environments):
        for name in entry.backend:
            _check(name, backends, "backend", lines.where(("environments", index, "backend")))
    environments = [each.id for each in spec.expand_environments()]
    if spec.baseline is not None:
        _check(spec.baseline, environments, "environment", lines.where(("baseline",)))
    for index, name in enumerate(spec.metrics):
        known = [metric.name for metric in METRICS]
        if ":" in name:  # a function of the user's, which the plan allows or not
            continue
        _check(name, known, "metric", lines.where(("metrics", index)))


def _check(name: str, known: Collection[str], what: str, where: str) -> None:
    if name not in known:
        raise RequestError(f"unknown {what} {name!r}.", where=where, hint=nearest(name, known))


def _path(where: str) -> Path_:
    parts = re.findall(r"[^.\[\]]+", where)
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _absolute(spec: Spec, base: Path) -> Spec:
    def at(path: str | None) -> str | None:
        try:
            return None if path is None else str((base / Path(path).expanduser()).resolve())
        except (OSError, RuntimeError, ValueError) as error:  # NUL bytes, endless links, ~nobody
            what = f"{path!r} is no path ({error})."
            raise RequestError(what, hint="check the paths in the spec.") from None

    def of_data(data: Any) -> Any:
        paths = ("npz", "images", "table", "dataset")
        if data is None or data.source not in paths:
            return data
        return data.model_copy(
            update={each: at(getattr(data, each)) for each in (*paths, "calibration")}
        )

    def of_model(model: Any) -> Any:
        update = {key: at(getattr(model, key)) for key in ("onnx", "weights", "pt2")}
        library = _library_at(model.library, base)
        return model.model_copy(update={**update, "library": library, "data": of_data(model.data)})

    data = of_data(spec.data)
    models = {name: of_model(model) for name, model in spec.models.items()}
    model = spec.model and of_model(spec.model)
    scenarios = [_entry_at(entry, at) for entry in spec.scenarios]
    environments = [each.model_copy(update={"root": at(each.root)}) for each in spec.environments]
    changed = {"data": data, "models": models, "model": model, "scenarios": scenarios}
    changed["environments"] = environments
    return spec.model_copy(update=changed)


def _library_at(reference: str | None, base: Path) -> str | None:
    """``hf:FOLDER`` with an absolute path, where there is such a folder."""
    library, _, name = (reference or "").partition(":")
    folder = (base / Path(name).expanduser()).resolve()
    return f"hf:{folder}" if library == "hf" and folder.is_dir() else reference


def _entry_at(entry: Any, at: Callable[[str | None], str | None]) -> Any:
    """A scenario entry with its paths made absolute."""
    if isinstance(entry, list):
        return [_entry_at(each, at) for each in entry]
    if not isinstance(entry, dict):
        return entry
    made = dict(entry)
    for name in set(entry) & set(names(SCENARIOS)):
        kind = scenario(name)
        paths = {each.name for each in fields(kind) if each.metadata.get("path")}
        if paths:
            given = cases.parameters_of(kind, entry[name], name)
            made[name] = {k: _each_at(v, at) if k in paths else v for k, v in given.items()}
    return made


def _each_at(value: Any, at: Callable[[str | None], str | None]) -> Any:
    return [at(each) for each in value] if isinstance(value, list) else at(value)
