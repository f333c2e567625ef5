"""The command line: parse, call, print. Rooms are imported inside commands, to start quickly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwbench import __version__
from hwbench.cli_rack import (
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
    from hwbench.execute import Stop
    from hwbench.plan import Plan
    from hwbench.spec import Spec
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
ModelOption = Annotated[Path | None, typer.Option("--model", help="ONNX file.")]
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


@app.command()
def sweep(
    spec: SpecArgument = None,
    model: ModelOption = None,
    data: DataOption = None,
    calibration: CalibrationOption = None,
    labels: Annotated[str | None, typer.Option(help="Array of class indices in --data.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Finish a stopped run.")] = None,
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
    as_json: JsonOption = False,
) -> None:
    """Run a model in many environments and scenarios, and compare.

    Without arguments: the built-in digits classifier on every runtime found here. A suite runs
    on your model with --model and --data. Ctrl-C stops after the trial in hand; --resume goes on.
    """
    from hwbench import sweep as engine
    from hwbench.execute import Stop

    stop = Stop()
    with chosen_rack(executor, scheduler, insecure, tls_ca_file, tls_cert, tls_key) as rack:
        options = engine.Options(allow_code, output, workers, rack=rack)
        if resume is not None:
            if spec or model or data or output:
                hint = "drop the others."
                raise RequestError("--resume takes everything from the run.", hint=hint)
            run = _followed(stop, as_json, lambda show: engine.resume(resume, options, show, stop))
        else:
            overrides = _overrides(model, data, calibration, labels, budget, seed)
            chosen = _spec(spec, overrides)
            run = _followed(stop, as_json, lambda show: engine.start(chosen, options, show, stop))
    _finish(run, as_json)
    if stop:
        typer.echo(f"Stopped. Go on with: hwbench sweep --resume {run.folder}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not _anything(run):
        typer.echo("hwbench: nothing could be run; the reasons stand above.", err=True)
        raise typer.Exit(EXIT_REQUEST)


def _overrides(
    model: Path | None,
    data: Path | None,
    calibration: Path | None,
    labels: str | None,
    budget: str | None,
    seed: int | None,
) -> dict[str, Any]:
    """Command-line values as spec keys, with paths from the working directory."""
    found: dict[str, Any] = {}
    if model is not None:
        found |= {"model": {"onnx": str(model.resolve())}, "name": model.stem}
    if data is not None:
        found["data"] = _data_override(data.resolve(), calibration, labels)
    elif calibration or labels:
        raise RequestError("--calibration and --labels belong to --data.", hint="add --data FILE.")
    if budget is not None:
        found["budget"] = budget
    if seed is not None:
        found["seed"] = seed
    return found


def _data_override(data: Path, calibration: Path | None, labels: str | None) -> dict[str, Any]:
    """``y`` is taken as labels where the archive has it."""
    from zipfile import BadZipFile, ZipFile

    found: dict[str, Any] = {"npz": str(data)}
    if calibration is not None:
        found["calibration"] = str(calibration.resolve())
    try:
        with ZipFile(data) as archive:
            labelled = "y.npy" in archive.namelist()
    except (OSError, BadZipFile):
        labelled = False  # reading it properly will say what is wrong
    if labels or labelled:
        found["labels"] = labels or "y"
    return found


def _spec(spec: str | None, overrides: dict[str, Any]) -> Spec:
    from hwbench import registry
    from hwbench.spec import load, load_default, load_suite

    if spec is None:
        return _found_here(load_default({"model": {"builtin": "digits-cnn"}, **overrides}))
    if spec in registry.suites() and not Path(spec).exists():
        if "model" not in overrides:
            overrides = {"model": {"builtin": "digits-cnn"}, **overrides}
        return load_suite(spec, overrides)
    loaded = load(Path(spec))
    given = type(loaded).model_validate({**loaded.model_dump(), **overrides})
    return given


def _found_here(spec: Spec) -> Spec:
    """The default sweep leaves out runtimes that are not installed."""
    from hwbench import registry

    kept = [
        entry
        for entry in spec.environments
        if not any(registry.missing_modules(registry.backend(name)) for name in entry.backend)
    ]
    if not kept:
        hint = 'install one: pip install "hwbench[onnxruntime]".'
        raise RequestError("no runtime is installed.", hint=hint)
    return spec.model_copy(update={"environments": kept})


def _followed(stop: Stop, quiet: bool, work: Callable[[Any], Store]) -> Store:
    """Run with a live progress display, and listen for Ctrl-C."""
    from hwbench.report.progress import Live

    with Live(quiet) as live, stop.listening(_announce):
        return work(live)


def _announce(times: int) -> None:
    how = "Stopping after the trials in hand (again: at once)" if times == 1 else "Stopping now"
    typer.echo(f"\n{how} ...", err=True)


def _finish(store: Store, as_json: bool) -> None:
    from hwbench.collect import write

    tables = write(store)
    if as_json:
        typer.echo(_tables_json(store.folder, tables))
        return
    _show(store, tables)
    typer.echo(f"\nRun folder: {store.folder} (tables/ as Parquet and CSV)")


def _anything(store: Store) -> bool:
    """Whether any cell gave numbers."""
    from hwbench.collect import collect

    return bool((collect(store)["cells"]["status"] == "ok").any())


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


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: JsonOption = False
) -> None:
    """Make the tables of a run again and print the summary."""
    from hwbench.store import Store

    _finish(Store.open(run), as_json)


@app.command()
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
    from hwbench.execute import Stop
    from hwbench.report.rerun import rerun_json, rerun_text
    from hwbench.rerun import RecordId, rerun
    from hwbench.sweep import Options

    stop = Stop()
    with stop.listening(lambda times: None):
        found = rerun(run, RecordId.parse(record), Options(allow_code), stop)
    if stop:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        typer.echo(json.dumps(rerun_json(found)))
    else:
        _print(rerun_text(found))
    if not found.reproduced:
        raise typer.Exit(EXIT_DIFFERS)


@app.command()
def plan(
    spec: SpecArgument = None,
    model: ModelOption = None,
    data: DataOption = None,
    calibration: CalibrationOption = None,
    allow_code: AllowOption = False,
    faults: Annotated[
        bool, typer.Option("--faults", help="Sample sizes for fault injection; builds the models.")
    ] = False,
    margin: Annotated[
        float,
        typer.Option(help="--faults: half-width of the interval of a rate.", min=1e-5, max=0.49),
    ] = 0.01,
    confidence: Annotated[
        float, typer.Option(help="--faults: confidence of that interval.", min=0.5, max=0.99999)
    ] = 0.99,
    as_json: JsonOption = False,
) -> None:
    """Show cells and work without running anything; with --faults, how many faults to inject."""
    from hwbench import plan as planning
    from hwbench.report.planned import planned_json, planned_table

    chosen = _spec(spec, _overrides(model, data, calibration, None, None, None))
    cache = planning.cache_folder()
    made = planning.make(chosen, allow_code=allow_code, cache=cache, code_cache=cache)
    if faults:
        _plan_faults(made, margin, confidence, as_json)
        return
    if as_json:
        typer.echo(json.dumps(planned_json(made)))
        return
    _print(planned_table(made))


def _plan_faults(made: Plan, margin: float, confidence: float, as_json: bool) -> None:
    from hwbench.execute import Stop
    from hwbench.faultplan import fault_plan
    from hwbench.report.planned import faults_json, faults_table

    deadline = made.spec.deadline_s
    stop = Stop()
    plans = [fault_plan(each, margin, confidence, deadline, stop) for each in made.deployments]
    if as_json:
        typer.echo(json.dumps(faults_json(plans)))
        return
    _print(faults_table(plans, margin, confidence))


def _print(content: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(content)


@app.command()
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
        _print(diagnosis(examined))


def _noise(stop: Stop, quiet: bool, processes: int) -> dict[str, Any]:
    from hwbench.doctor import noise_floor
    from hwbench.report.progress import Live

    with Live(quiet) as live, stop.listening(lambda _: typer.echo("\nStopping ...", err=True)):
        return noise_floor(live, stop, processes=processes)


@app.command()
def screen(
    model: ModelOption = None,
    data: DataOption = None,
    calibration: CalibrationOption = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="For so long, all in all.")] = 1.0,
    backend: Annotated[str, typer.Option(help="Runtime.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="fp32, int8, ...")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu: every core; cuda: every GPU.")] = "cpu",
    plant: Annotated[
        str | None, typer.Option(help="Flip one output bit there ('core 0'), to see it detected.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the model on every core in turn, and all at once: do all give the same bytes?

    Exit code 1 when a core gave other bytes, 3 when a worker failed on one.
    """
    from hwbench import plan as planning
    from hwbench import registry
    from hwbench import screen as screening
    from hwbench.execute import Stop
    from hwbench.report.progress import Live
    from hwbench.report.screening import screened, screened_json
    from hwbench.spec import load_default

    overrides = {
        "model": {"builtin": "digits-cnn"},
        **_overrides(model, data, calibration, None, None, None),
    }
    asked = {
        "backend": backend,
        "precision": precision,
        "device": f"{device}:0" if device == "cuda" else device,
    }
    content = {**overrides, "environments": [asked], "scenarios": ["clean"], "latency": False}
    chosen, cache, stop = load_default(content), planning.cache_folder(), Stop()
    made = planning.make(chosen, allow_code=False, cache=cache, code_cache=cache)
    adapter = registry.backend(backend)
    if registry.missing_modules(adapter):
        raise RequestError(f"{backend} is not installed.", hint=registry.install_hint(adapter))
    devices = () if device == "cpu" else adapter.probe().devices
    found = screening.places(made.deployments[0].environment, devices)
    with Live(as_json) as live, stop.listening(_announce):
        findings = screening.screen(
            made, found, duration_s=60 * minutes, plant=plant, stop=stop, progress=live
        )
    if as_json:
        typer.echo(json.dumps(screened_json(findings)))
    else:
        _print(screened(findings))
    if not screening.consistent(findings):
        raise typer.Exit(EXIT_DIFFERS)
    if stop:
        raise typer.Exit(EXIT_INTERRUPTED)
    if any(each.failures for each in findings):
        raise typer.Exit(EXIT_INCONCLUSIVE)


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="backends, scenarios, suites or metrics; all if absent.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List backends, scenarios with parameters, units and an example, suites and metrics."""
    from hwbench.registry import nearest
    from hwbench.report.catalogue import catalogue, catalogue_text

    found = catalogue()
    if what and what not in found:
        raise RequestError(f"there are no {what!r} to list.", hint=nearest(what, list(found)))
    if as_json:
        typer.echo(json.dumps({what: found[what]} if what else found))
        return
    typer.echo(catalogue_text(found, what))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("hwbench.yaml"),
    model: ModelOption = None,
    data: DataOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Write a commented spec for your model."""
    from hwbench.report.template import template

    if path.exists() and not force:
        raise RequestError("exists.", where=str(path), hint="give another name, or --force.")
    try:
        path.write_text(template(model, data, path.parent))
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror}).", where=str(path)) from error
    typer.echo(f"Wrote {path}. Next: hwbench plan {path}, then hwbench sweep {path}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    from hwbench.spec import Spec

    typer.echo(json.dumps(Spec.model_json_schema(), indent=2))


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
