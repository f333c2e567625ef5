"""``hwbench report``: the tables and pages of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.app import JsonOption
from hwbench.cli.finish import finish


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: JsonOption = False
) -> None:
    """Make the tables, report.html and report.md of a run again, and print the summary.

    report.html is one file without scripts that needs no network. With $GITHUB_STEP_SUMMARY set,
    report.md is appended to that file too.
    """
    from hwbench.store import Store

    finish(Store.open(run), as_json)
