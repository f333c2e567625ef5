"""``hwbench doctor``: this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwbench.cli.app import JsonOption, show

if TYPE_CHECKING:
    from hwbench.execute import Stop


def doctor(
    measure_noise: Annotated[
        bool, typer.Option("--noise", help="Measure this machine's noise floor: minutes, in quiet.")
    ] = False,
    processes: Annotated[int, typer.Option(min=3, help="--noise: of each equal environment.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show runtimes, devices, precisions and what this machine lacks.

    --noise compares an environment with itself (A/A) and keeps what the machine's own noise hides;
    no verdict on latency is tighter than that from then on.
    """
    from hwbench import doctor as doctors
    from hwbench.report.diagnosis import diagnosis, noise_text

    if measure_noise:
        from hwbench.execute import Stop

        found = _noise(Stop(), as_json, processes)
        typer.echo(json.dumps(found) if as_json else noise_text(found))
        return
    examined = doctors.examine()
    if as_json:
        typer.echo(json.dumps(examined))
    else:
        show(diagnosis(examined))


def _noise(stop: Stop, quiet: bool, processes: int) -> dict[str, Any]:
    from hwbench.doctor import noise_floor
    from hwbench.report.progress import Live

    with Live(quiet) as live, stop.listening(lambda _: typer.echo("\nStopping ...", err=True)):
        return noise_floor(live, stop, processes=processes)
