"""``hwbench report``: the tables and pages of a run again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.app import JsonOption
from hwbench.cli.finish import finish

if TYPE_CHECKING:
    import pandas as pd


class Format(StrEnum):
    """How a single table is printed."""

    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    table: Annotated[
        str | None, typer.Option(help="Print this table alone, and write nothing.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="--table: how.")] = Format.CSV,
    as_json: JsonOption = False,
) -> None:
    """Make the tables, report.html and report.md of a run again, and print the summary.

    report.html is one file without scripts that needs no network. With $GITHUB_STEP_SUMMARY set,
    report.md is appended to that file too.
    """
    from hwbench.store import Store

    if table is not None:
        from hwbench.api import Run

        typer.echo(_printed(Run(run).table(table), Format.JSON if as_json else form), nl=False)
        return
    finish(Store.open(run), as_json)


def _printed(table: pd.DataFrame, form: Format) -> str:
    if form is Format.JSON:
        return table.to_json(orient="records") + "\n"
    if form is Format.CSV:
        return table.to_csv(index=False)
    from hwbench.collect.rows import rows_of
    from hwbench.report.markdown import grid

    rows = ([_text(each) for each in row.values()] for row in rows_of(table))
    return "".join(f"{line}\n" for line in grid(table.columns, rows))


def _text(value: object) -> str:
    """A value as a reader wants it; missing is empty."""
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
