"""``hwbench plan``: cells, and sample sizes, before anything runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.app import (
    AllowOption,
    CalibrationOption,
    DataOption,
    JsonOption,
    ModelOption,
    SpecArgument,
    show,
)
from hwbench.cli.asked import chosen_spec, overrides

if TYPE_CHECKING:
    from hwbench.plan import Plan


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

    chosen = chosen_spec(spec, overrides(model, data, calibration, None, None, None))
    cache = planning.cache_folder()
    made = planning.make(chosen, allow_code=allow_code, cache=cache, code_cache=cache)
    if faults:
        _plan_faults(made, margin, confidence, as_json)
        return
    if as_json:
        typer.echo(json.dumps(planned_json(made)))
        return
    show(planned_table(made))


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
    show(faults_table(plans, margin, confidence))
