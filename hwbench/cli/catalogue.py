"""``hwbench list``: what there is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hwbench.cli.app import JsonOption
from hwbench.errors import RequestError


def list_(
    what: Annotated[
        str, typer.Argument(help="backends, scenarios, suites or metrics; all if absent.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List backends, scenarios with parameters, units and an example, suites and metrics."""
    from hwbench.registry import nearest
    from hwbench.report.catalogue import catalogue, catalogue_text

    found = catalogue()
    if what and what not in found:
        raise RequestError(f"there are no {what!r} to list.", hint=nearest(what, list(found)))
    if as_json:
        typer.echo(json.dumps({what: found[what]} if what else found))
        return
    typer.echo(catalogue_text(found, what))
