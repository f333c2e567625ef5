"""``hwbench report``: the tables of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.app import JsonOption
from hwbench.cli.finish import finish


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: JsonOption = False
) -> None:
    """Make the tables of a run again and print the summary."""
    from hwbench.store import Store

    finish(Store.open(run), as_json)
