"""``hwbench export``: a run's numbers for other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    target: Annotated[
        str, typer.Argument(metavar="PATH", help="File to write; MLflow: database file or URI.")
    ],
    to: Annotated[Literal["prometheus", "mlflow", "jsonl"], typer.Option(help="What reads it.")],
) -> None:
    """Tell a run's numbers to Prometheus (a textfile), MLflow, or as JSON lines."""
    from hwbench.sinks import export as exported

    typer.echo(exported(run, to, target))
