"""The command line: parse, call, print. A command is a function in a module of its own.

Rooms are imported inside commands, to start quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from hwbench.cli import (
    catalogue,
    compare,
    doctor,
    export,
    history,
    init,
    plan,
    qualify,
    replay,
    report,
    screen,
    sweep,
)
from hwbench.cli.app import EXIT_REQUEST, app
from hwbench.errors import RequestError

__all__ = ["app", "main"]

# In the order of `hwbench --help`.
_COMMANDS: dict[str, Callable[..., None]] = {
    "sweep": sweep.sweep,
    "report": report.report,
    "qualify": qualify.qualify,
    "compare": compare.compare,
    "history": history.history,
    "export": export.export,
    "replay": replay.replay,
    "plan": plan.plan,
    "doctor": doctor.doctor,
    "screen": screen.screen,
    "list": catalogue.list_,
    "init": init.init,
    "schema": init.schema,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Entry point: a wrong request is one line and exit code 2."""
    debug = "--debug" in sys.argv
    try:
        app()
    except RequestError as error:
        if debug:
            raise
        typer.echo(f"hwbench: {error.line()}", err=True)
        sys.exit(EXIT_REQUEST)
