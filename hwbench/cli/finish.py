"""What a finished run shows: its tables, and their summary."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from hwbench.store import Store


def finish(store: Store, as_json: bool, *, pages: bool = True) -> bool:
    """Write the tables of a run, with its ``pages`` unless they are not wanted, and show them.

    Returns:
        Whether any cell gave numbers.
    """
    from hwbench.collect import write

    tables = write(store)
    if pages:
        _write_pages(store, tables)
    if as_json:
        typer.echo(_tables_json(store.folder, tables))
    else:
        _show(store, tables)
        files = "report.html, report.md, tables/ as Parquet and CSV" if pages else "tables/"
        typer.echo(f"\nRun folder: {store.folder} ({files})")
    return bool((tables["cells"]["status"] == "ok").any())


def _write_pages(store: Store, tables: dict[str, Any]) -> None:
    from hwbench.report.pages import write

    write(store, tables)


def _tables_json(folder: Path, tables: dict[str, Any]) -> str:
    parts = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    return json.dumps({"run": str(folder), **parts})


def _show(store: Store, tables: dict[str, Any]) -> None:
    from rich.console import Console

    from hwbench.report.terminal import summary

    console = Console(width=None if sys.stdout.isatty() else 160)
    plan = store.read_json("plan.json")
    run = store.read_json("run.json")
    console.print(summary(tables, run, plan["baseline"], plan["metrics"]))
