"""``hwbench sweep``: run, or go on with a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.app import (
    EXIT_INTERRUPTED,
    EXIT_REQUEST,
    AllowOption,
    BudgetOption,
    CalibrationOption,
    DataOption,
    JsonOption,
    ModelOption,
    SeedOption,
    followed,
)
from hwbench.cli.asked import chosen_spec, overrides
from hwbench.cli.finish import finish
from hwbench.cli.rack import (
    CaOption,
    CertOption,
    Executor,
    ExecutorOption,
    InsecureOption,
    KeyOption,
    SchedulerOption,
    chosen_rack,
)
from hwbench.errors import RequestError

if TYPE_CHECKING:
    from hwbench.engine import Options
    from hwbench.execute import Progress, Stop
    from hwbench.store import Store

WordsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SPEC|SUITE]",
        help="YAML file, or smoke, nightly, qualification. With --extend: counts, as"
        " patterns=200, SCENARIO.patterns=200 or latency.processes=9.",
    ),
]


def _only(words: list[str] | None) -> str | None:
    """The spec or suite."""
    if words and len(words) > 1:
        raise RequestError(f"one spec or suite, not {len(words)}.", where=words[1])
    return words[0] if words else None


def _asked(
    words: list[str] | None, resume: Path | None, extend: Path | None, given: dict[str, object]
) -> Callable[[Options, Progress, Stop], Store]:
    """Going on with a run, adding to one, or a new one of a spec with what was given besides."""
    from hwbench import engine, extending

    if resume is not None:
        same = chosen_spec(_only(words), {}) if words else None
        return lambda options, shown, stop: engine.resume(resume, options, shown, stop, same)
    if extend is not None:
        counts = extending.parse(words or [])
        return lambda options, shown, stop: engine.extend(extend, counts, options, shown, stop)
    chosen = chosen_spec(_only(words), given)
    return lambda options, shown, stop: engine.start(chosen, options, shown, stop)


def sweep(
    words: WordsArgument = None,
    model: ModelOption = None,
    data: DataOption = None,
    calibration: CalibrationOption = None,
    labels: Annotated[str | None, typer.Option(help="Array of class indices in --data.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Finish a stopped run; with SPEC, refuse if it is another's."),
    ] = None,
    extend: Annotated[
        Path | None, typer.Option(help="Add to a run: --extend RUN patterns=N [...].")
    ] = None,
    budget: BudgetOption = None,
    seed: SeedOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Accuracy jobs at a time.")] = None,
    executor: ExecutorOption = Executor.LOCAL,
    scheduler: SchedulerOption = None,
    insecure: InsecureOption = False,
    tls_ca_file: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    allow_code: AllowOption = False,
    pages: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html and report.md.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Run a model in many environments and scenarios, and compare.

    Without arguments: the built-in digits classifier on every runtime found here. A suite runs
    on your model with --model and --data. Ctrl-C stops after the trial in hand; --resume goes on.
    """
    from hwbench.engine import Options
    from hwbench.execute import Stop

    if resume is not None and (model or data or output):
        raise RequestError("--resume takes everything from the run.", hint="drop the others.")
    given = overrides(model, data, calibration, labels, budget, seed)
    work, stop = _asked(words, resume, extend, given), Stop()
    with chosen_rack(executor, scheduler, insecure, tls_ca_file, tls_cert, tls_key) as rack:
        options = Options(allow_code, output, workers, rack=rack)
        run = followed(stop, as_json, lambda shown: work(options, shown, stop))
    anything = finish(run, as_json, pages=pages)
    if stop:
        typer.echo(f"Stopped. Go on with: hwbench sweep --resume {run.folder}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not anything:
        typer.echo("hwbench: nothing could be run; the reasons stand above.", err=True)
        raise typer.Exit(EXIT_REQUEST)
