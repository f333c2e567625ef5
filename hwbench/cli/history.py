"""``hwbench history``: is tonight worse than the nights before?"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.app import EXIT_DIFFERS, JsonOption, show


def history(
    folder: Annotated[Path, typer.Argument(help="Folder that the nightly run folders lie in.")],
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Leave out earlier ones; UTC."
        ),
    ] = None,
    percent: Annotated[
        float, typer.Option(min=0, help="Smallest change of latencies and rates that is told.")
    ] = 2.0,
    plots: Annotated[Path | None, typer.Option(help="Folder for a plot (SVG) per series.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also unchanged series.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find where the numbers of nightly runs changed, and say whether the last night is worse.

    Exit code 1 on a confirmed regression: a change for the worse that two nights in a row have
    shown (for 14 nights), three nights far off, a latency twice as long, accuracy that fell, or a
    cell that gives no numbers any more.
    """
    from hwbench.history import history as account
    from hwbench.report.historic import historic_json, historic_text

    found = account(folder, since and since.replace(tzinfo=UTC), percent / 100)
    if plots is not None:
        from hwbench.report.plots.nights import write

        written = write(found, plots)
        typer.echo(f"{written} plots in {plots}", err=True)
    if as_json:
        typer.echo(json.dumps(historic_json(found)))
    else:
        show(historic_text(found, everything=everything))
    if found.regressed:
        raise typer.Exit(EXIT_DIFFERS)
