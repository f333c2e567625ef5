"""``hwbench qualify``: gates on a run, or on a sweep that is run for it, to an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.app import (
    EXIT_DIFFERS,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    AllowOption,
    BudgetOption,
    CalibrationOption,
    DataOption,
    JsonOption,
    ModelOption,
    SeedOption,
    followed,
    show,
)
from hwbench.cli.asked import chosen_spec, overrides
from hwbench.errors import RequestError

if TYPE_CHECKING:
    from hwbench.qualify import Qualification
    from hwbench.spec import Spec
    from hwbench.spec.gates import GateSpec
    from hwbench.store import Store

# What a qualification costs: about a minute, tens of minutes, hours.
LEVELS = {1: "smoke", 2: "nightly", 3: "qualification"}


def qualify(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|SPEC|SUITE]", help="Run folder, or what to run first."),
    ] = None,
    gates: Annotated[
        Path | None, typer.Option("--gates", help="YAML file of gates; default: the spec's.")
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(min=1, max=3, help="Run scenarios of smoke, nightly or qualification."),
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
    calibration: CalibrationOption = None,
    budget: BudgetOption = None,
    seed: SeedOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
    family: Annotated[
        bool, typer.Option("--family", help="All verdicts share the error of a wrong fail.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 3 if numbers are not trustworthy.")
    ] = False,
    allow_code: AllowOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge a run by gates: pass, fail or inconclusive, and what would decide.

    Exit code 0: all pass. 1: one fails. 3: none fails, one is inconclusive. Writes verdict.json,
    junit.xml and report.html into the run folder. Judge as often as you like: it changes no error
    rate.
    """
    from hwbench.qualify import load_gates

    asked = load_gates(gates) if gates else None
    if what is not None and (Path(what) / "run.json").exists():
        if any(each is not None for each in (level, model, data, budget, seed, output)):
            hint = "give a spec or a suite instead, or drop them."
            raise RequestError("a run is judged as it is.", where=what, hint=hint)
        stopped, (store, asked) = False, _stored(Path(what), asked)
    else:
        given = overrides(model, data, calibration, None, budget, seed)
        spec = _at_level(what, level, given)
        if asked is not None:
            spec = spec.model_copy(update={"gates": asked})
        asked = _some(spec.gates, what or "the spec")
        stopped, store = _swept(spec, allow_code, output, as_json)
    found = _judged(store, asked, family, pages=not as_json)
    if as_json:
        typer.echo(json.dumps({"run": str(store.folder), **found.to_json()}))
    else:
        from hwbench.qualify.text import verdict_text

        show(verdict_text(found))
        typer.echo(f"\nRun folder: {store.folder} (verdict.json, junit.xml, report.html)")
    if stopped:
        typer.echo(f"Stopped. Go on with: hwbench sweep --resume {store.folder}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    raise typer.Exit(_exit_code(found, strict))


def _stored(folder: Path, asked: list[GateSpec] | None) -> tuple[Store, list[GateSpec]]:
    """A run, and the gates it is judged by: those given, or its own spec's."""
    from hwbench.runfile import read_spec
    from hwbench.store import Store

    store = Store.open(folder)
    if asked is None:
        asked = _some(read_spec(store).gates, str(folder / "spec.yaml"))
    return store, asked


def _some(gates: list[GateSpec], where: str) -> list[GateSpec]:
    if not gates:
        hint = "add gates: to the spec, or give --gates FILE; see docs/gates.md."
        raise RequestError("there are no gates.", where=where, hint=hint)
    return gates


def _at_level(what: str | None, level: int | None, given: dict[str, object]) -> Spec:
    """The spec to run: scenarios and latency of the level's suite beside what the spec has."""
    if level is None:
        return chosen_spec(what, given)
    if what is None:
        return chosen_spec(LEVELS[level], given)
    from hwbench.spec import load_suite

    own, suite = chosen_spec(what, given), load_suite(LEVELS[level], {})
    changed = {
        "scenarios": [*own.scenarios, *(e for e in suite.scenarios if e not in own.scenarios)],
        "latency": suite.latency,
        "environments": own.environments or suite.environments,
    }
    return own.model_copy(update=changed)


def _swept(spec: Spec, allow_code: bool, output: Path | None, quiet: bool) -> tuple[bool, Store]:
    """Run the sweep; whether it was stopped, and where it lies."""
    from hwbench import engine
    from hwbench.execute import Stop

    stop = Stop()
    options = engine.Options(allow_code, output)
    store = followed(stop, quiet, lambda shown: engine.start(spec, options, shown, stop))
    return bool(stop), store


def _judged(store: Store, gates: list[GateSpec], family: bool, *, pages: bool) -> Qualification:
    from hwbench.collect import write as write_tables
    from hwbench.qualify import qualify as judge
    from hwbench.qualify import write
    from hwbench.report.pages import write as write_pages

    tables = write_tables(store)
    found = judge(store, tables, gates, family=family)
    write(store, found)
    if pages:  # the report shows this verdict; where only a machine reads, it takes too long
        write_pages(store, tables)
    return found


def _exit_code(found: Qualification, strict: bool) -> int:
    from hwbench.qualify import FAIL, INCONCLUSIVE

    if found.verdict == FAIL:
        return EXIT_DIFFERS
    if found.verdict == INCONCLUSIVE or (strict and found.untrusted):
        return EXIT_INCONCLUSIVE
    return 0
