"""MLflow: one run of an experiment, by MLflow's own client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hwbench.errors import RequestError
from hwbench.sinks.numbers import QUANTITIES, Labels, Tables, values

EXPERIMENT = "hwbench"


def log(
    tables: Tables,
    run: Mapping[str, Any],
    name: str,
    started_s: float,
    uri: str,
) -> str:
    """Log a run's numbers; the id that MLflow gave it.

    Args:
        tables: of the run.
        run: its run.json.
        name: of the run.
        started_s: when it began, in seconds since 1970.
        uri: of the tracking server or database.

    Raises:
        RequestError: mlflow is not installed, or refuses.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("mlflow"):
            raise
        hint = 'pip install "hwbench[mlflow]".'
        raise RequestError("mlflow is not installed.", where="--to mlflow", hint=hint) from error
    when = int(started_s * 1e3)
    metrics = [Metric(key, value, when, 0) for key, value in named(tables).items()]
    versions = {f"version.{key}": value for key, value in run["versions"].items()}
    told = {**versions, "machine": run["machine"]["fingerprint"], "seed": run["seed"]}
    try:
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
        made = client.create_run(experiment, start_time=when, run_name=name).info.run_id
        params = [Param(key, str(value)) for key, value in told.items()]
        for start in range(0, max(len(metrics), 1), 500):  # at most 1000 entities a call
            part = metrics[start : start + 500]
            client.log_batch(made, metrics=part, params=params if start == 0 else ())
        client.set_terminated(made)
    except MlflowException as error:
        first = str(error).splitlines()[0]
        raise RequestError(f"MLflow refuses: {first}", where=uri) from error
    return str(made)


def named(tables: Tables) -> dict[str, float]:
    """Values by names that MLflow allows: ``accuracy_ratio/net/env/noise/snr_db 10``."""
    return {
        _name(each.name.removeprefix("hwbench_"), labels): value
        for each in QUANTITIES
        for labels, value in values(each, tables)
    }


def _name(quantity: str, labels: Labels) -> str:
    parts = dict(labels)
    severity = " ".join(filter(None, (parts.pop("severity_name", ""), parts.pop("severity", ""))))
    words = [quantity, *parts.values(), severity]
    return "/".join(re.sub(r"[^A-Za-z0-9_. -]", "-", each) for each in words if each)
