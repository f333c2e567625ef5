"""Gates in a file of their own, and what qualify writes into a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hwbench.durable import write_durably
from hwbench.errors import RequestError
from hwbench.qualify.junit import junit
from hwbench.qualify.verdict import Qualification
from hwbench.registry import nearest
from hwbench.spec.gates import GateSpec
from hwbench.spec.load import Lines
from hwbench.store import Store


def load_gates(path: Path) -> list[GateSpec]:
    """The gates of a YAML file: a list, or a mapping whose key ``gates`` has it.

    Raises:
        RequestError: no such file, no YAML, no gate, or one that means nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot be read ({error}).", where=str(path)) from None
    try:
        content, lines = yaml.safe_load(text), Lines(str(path), text)
    except (yaml.YAMLError, ValueError) as error:
        what = " ".join(str(error).split())
        raise RequestError(f"not valid YAML ({what}).", where=str(path)) from None
    prefix: tuple[str | int, ...] = ()
    if isinstance(content, dict) and "gates" in content:
        content, prefix = content["gates"], ("gates",)
    if not isinstance(content, list) or not content:
        hint = "write `- {metric: accuracy, min: 0.9}`; see docs/gates.md."
        raise RequestError("a file of gates is a list of them.", where=str(path), hint=hint)
    return [_gate(each, (*prefix, index), lines) for index, each in enumerate(content)]


def _gate(content: Any, place: tuple[str | int, ...], lines: Lines) -> GateSpec:
    try:
        return GateSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = lines.where((*place, *first["loc"][:1]))
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][-1])
            hint = nearest(name, GateSpec.model_fields)
            raise RequestError(f"unknown key {name!r}.", where=where, hint=hint) from None
        message = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{message}.", where=where) from None


def write(store: Store, found: Qualification) -> None:
    """``verdict.json`` and ``junit.xml`` of a run."""
    content = json.dumps(found.to_json(), indent=2, allow_nan=False)
    write_durably(store.folder / "verdict.json", content.encode())
    run = store.read_json("run.json")
    write_durably(store.folder / "junit.xml", junit(found, store.folder.name, run).encode())
