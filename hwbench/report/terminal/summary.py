"""The summary as a whole."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from hwbench.collect.campaigns import STRATIFIED
from hwbench.report.document.attention import attention
from hwbench.report.terminal.accuracy import (
    accuracy,
    environments,
    metric,
    models,
    most_harmful,
    only,
)
from hwbench.report.terminal.conditions import isa, limits, soak, strained
from hwbench.report.terminal.faults import campaigns, vulnerability
from hwbench.report.terminal.latency import latency

_NOTES = 20


def summary(
    tables: dict[str, pd.DataFrame], run: dict[str, Any], baseline: str, metrics: list[str]
) -> RenderableType:
    """Environments, accuracy under every scenario, latency, and what needs attention.

    Args:
        tables: as ``collect`` gives them.
        run: the run's provenance.
        baseline: environment id.
        metrics: that the spec names; each has a table of its own.
    """
    parts: list[RenderableType] = [environments(tables["environments"])]
    for model, drift in tables["drift"].groupby("model", sort=False):
        # Comparing with "missing" gives "missing": cells without numbers would fall out.
        drift = drift[drift["accuracy_interval"].fillna("") != STRATIFIED]
        shown, cut = most_harmful(drift)
        parts.append(accuracy(str(model), only(drift, shown), baseline, cut))
        parts += [metric(str(model), only(drift, shown), name) for name in metrics if name in drift]
        parts += [
            metric(str(model), only(rows, shown).rename(columns={"value": name}), str(name))
            for name, rows in tables["metrics"].query("model == @model").groupby("metric")
        ]
    if len(tables["models"]):
        parts.append(models(tables["models"]))
    if len(tables["latency"]):
        parts.append(latency(tables["latency"]))
        perturbed = tables["latency"][tables["latency"]["scenario"] != "clean"]
        if len(perturbed):
            parts.append(strained(perturbed))
    if len(tables["limits"]):
        parts.append(limits(tables["limits"]))
    if len(tables["campaigns"]):
        parts.append(campaigns(tables["campaigns"]))
    if len(tables["soak"]):
        parts.append(soak(tables["soak"]))
    if len(tables["isa"]):
        parts.append(isa(tables["isa"]))
    # A row of one or two chance single faults ranks nothing: only rows with an interval are shown.
    vulnerable = tables["vulnerability"]
    vulnerable = vulnerable[vulnerable["p_sdc_low"].notna()]
    if len(vulnerable):
        parts.append(vulnerability(vulnerable))
    notes = attention(tables, run)
    if notes:
        left = len(notes) - _NOTES
        more = [f"  - and {left} more: see the column note of the tables"] if left > 0 else []
        lines = ["\nAttention:", *(f"  - {note}" for note in notes[:_NOTES]), *more]
        parts.append(Text("\n".join(lines)))
    return Group(*parts)
