"""``hwbench screen``: every core against the others."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hwbench.cli.app import (
    EXIT_DIFFERS,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    CalibrationOption,
    DataOption,
    JsonOption,
    ModelOption,
    announce,
    show,
)
from hwbench.cli.asked import overrides
from hwbench.errors import RequestError


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

    content = {
        "model": {"builtin": "digits-cnn"},
        **overrides(model, data, calibration, None, None, None),
    }
    asked = {
        "backend": backend,
        "precision": precision,
        "device": f"{device}:0" if device == "cuda" else device,
    }
    content = {**content, "environments": [asked], "scenarios": ["clean"], "latency": False}
    chosen, cache, stop = load_default(content), planning.cache_folder(), Stop()
    made = planning.make(chosen, allow_code=False, cache=cache, code_cache=cache)
    adapter = registry.backend(backend)
    if registry.missing_modules(adapter):
        raise RequestError(f"{backend} is not installed.", hint=registry.install_hint(adapter))
    devices = () if device == "cpu" else adapter.probe().devices
    found = screening.places(made.deployments[0].environment, devices)
    with Live(as_json) as live, stop.listening(announce):
        findings = screening.screen(
            made, found, duration_s=60 * minutes, plant=plant, stop=stop, progress=live
        )
    if as_json:
        typer.echo(json.dumps(screened_json(findings)))
    else:
        show(screened(findings))
    if not screening.consistent(findings):
        raise typer.Exit(EXIT_DIFFERS)
    if stop:
        raise typer.Exit(EXIT_INTERRUPTED)
    if any(each.failures for each in findings):
        raise typer.Exit(EXIT_INCONCLUSIVE)
