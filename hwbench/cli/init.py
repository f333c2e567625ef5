"""``hwbench init`` and ``hwbench schema``: help with writing a spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.app import DataOption, ModelOption
from hwbench.errors import RequestError


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("hwbench.yaml"),
    model: ModelOption = None,
    data: DataOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Write a commented spec for your model."""
    from hwbench.report.template import template

    if path.exists() and not force:
        raise RequestError("exists.", where=str(path), hint="give another name, or --force.")
    try:
        path.write_text(template(model, data, path.parent))
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror}).", where=str(path)) from error
    typer.echo(f"Wrote {path}. Next: hwbench plan {path}, then hwbench sweep {path}")


def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    from hwbench.spec import Spec

    typer.echo(json.dumps(Spec.model_json_schema(), indent=2))
