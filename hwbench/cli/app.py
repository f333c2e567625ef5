"""The application, its exit codes, and what several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwbench import __version__

if TYPE_CHECKING:
    from hwbench.execute import Stop
    from hwbench.store import Store

EXIT_DIFFERS = 1
EXIT_REQUEST = 2
EXIT_INCONCLUSIVE = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Measures how a trained network holds up on the hardware it will really run on.\n\n"
    "Start with `hwbench sweep`: the built-in model on every runtime found here.",
)

SpecArgument = Annotated[
    str | None,
    typer.Argument(metavar="[SPEC|SUITE]", help="YAML file, or smoke, nightly, qualification."),
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", help="ONNX or .pt2 file, timm:NAME, torchvision:, hf:.")
]
DataOption = Annotated[Path | None, typer.Option("--data", help="npz: x, and y for labels.")]
CalibrationOption = Annotated[Path | None, typer.Option(help="npz for int8 calibration.")]
BudgetOption = Annotated[str | None, typer.Option(help="Bound the run time: 90s, 30m, 2h.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Replaces the spec's seed.")]
AllowOption = Annotated[bool, typer.Option("--allow-code", help="Run factories a spec names.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hwbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    del version, debug


def followed(stop: Stop, quiet: bool, work: Callable[[Any], Store]) -> Store:
    """Run with a live progress display, and listen for Ctrl-C."""
    from hwbench.report.progress import Live

    with Live(quiet) as live, stop.listening(announce):
        return work(live)


def announce(times: int) -> None:
    """Say what the ``times``-th Ctrl-C does."""
    how = "Stopping after the trials in hand (again: at once)" if times == 1 else "Stopping now"
    typer.echo(f"\n{how} ...", err=True)


def show(content: Any) -> None:
    """Print what rich can draw; 160 columns where nobody looks."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(content)
