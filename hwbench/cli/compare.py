"""``hwbench compare``: two runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.app import EXIT_DIFFERS, EXIT_INCONCLUSIVE, JsonOption, show


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="Run folder: what was.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Run folder: what is.")],
    points: Annotated[
        float, typer.Option(min=0, help="Smallest change of accuracy or harm that counts, points.")
    ] = 0.5,
    percent: Annotated[
        float | None,
        typer.Option(min=0, help="The same of latency, rates, memory; default: the specs' own."),
    ] = None,
    across_models: Annotated[
        bool, typer.Option("--across-models", help="The models may differ.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also cells without a change.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 3 if the runs are not to be trusted.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Which cells changed from run A to run B, by how much, and how sure is that?

    Silent where nothing changed, like diff. Exit code 1 if a cell got worse by more than --points
    or --percent, or gives no numbers any more; 2 if the runs cannot be compared.
    """
    from hwbench.compare import Thresholds
    from hwbench.compare import compare as compared
    from hwbench.report.compared import compared_json, compared_text

    found = compared(before, after, Thresholds(points, percent), across_models=across_models)
    if as_json:
        typer.echo(json.dumps(compared_json(found)))
    elif everything or not found.silent:
        show(compared_text(found, everything=everything))
    else:
        typer.echo(f"No difference in {len(found.rows)} comparisons.", err=True)
    if found.worse:
        raise typer.Exit(EXIT_DIFFERS)
    if strict and found.doubts:
        raise typer.Exit(EXIT_INCONCLUSIVE)
