"""``hwbench replay``: one stored record again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.app import EXIT_DIFFERS, EXIT_INTERRUPTED, AllowOption, JsonOption, show


def replay(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    record: Annotated[str, typer.Argument(help="CELL#PATTERN[:BATCH]; the first batch if absent.")],
    allow_code: AllowOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run one stored record again and show how its error spreads, layer by layer.

    The pattern is made again from the spec and its seed, and run the naive way: corrupted model,
    fresh process, deployed options. Exit code 1 if any stored number is not repeated to the bit.
    """
    from hwbench.engine import Options
    from hwbench.execute import Stop
    from hwbench.report.rerun import rerun_json, rerun_text
    from hwbench.rerun import RecordId, rerun

    stop = Stop()
    with stop.listening(lambda times: None):
        found = rerun(run, RecordId.parse(record), Options(allow_code), stop)
    if stop:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        typer.echo(json.dumps(rerun_json(found)))
    else:
        show(rerun_text(found))
    if not found.reproduced:
        raise typer.Exit(EXIT_DIFFERS)
