"""What a sweep would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench import stats
from hwbench.faultplan import FaultPlan
from hwbench.plan import Deployment, Plan
from hwbench.samples import PERCENTILES


def planned_json(plan: Plan) -> dict[str, Any]:
    """Cells with their counts."""
    return {
        "baseline": plan.baseline,
        "cells": [
            {
                "model": each.key[0],
                "environment": each.key[1],
                "scenario": case.name,
                "severity_name": case.severity_name,
                "severity": case.severity,
                "patterns": case.patterns,
                "batches": each.subject.n_batches,
                "n_samples": each.subject.n_samples,
                "inferences": case.patterns * each.subject.n_batches,
                "refused": plan.refusal(each, case) or None,
                "built": each.artifact.exists(),
            }
            for each in plan.deployments
            for case in plan.cases
        ],
        "searches": [each.name for each in plan.searches],
        "latency_processes": _latency_processes(plan),
        "latency_calls": _latency_calls(),
        "data_mib": _data_mib(plan),
    }


def planned_table(plan: Plan) -> RenderableType:
    """Environments, cases, and the work they add up to."""
    notes = Text("".join([*_searches(plan), _total(plan)]))
    return Group(_environments(plan), _cases(plan), notes)


def faults_json(plans: Sequence[FaultPlan]) -> list[dict[str, Any]]:
    """Sample sizes of every deployment."""
    return [
        {
            "model": each.deployment.key[0],
            "environment": each.deployment.key[1],
            "population": each.population,
            "layers": [
                {"site": site.name, "dtype": site.dtype, "faults": site.size * site.bits}
                for site in each.sites
            ],
            "plans": {made.name: made.total for made in each.plans},
            "note": each.note or None,
            "refused": each.reason or None,
        }
        for each in plans
    ]


def faults_table(plans: Sequence[FaultPlan], margin: float, confidence: float) -> RenderableType:
    """Sample sizes of every deployment, by plan."""
    table = Table(title_justify="left", box=None, pad_edge=False)
    names = ("network-wise", "layer-wise", "layer x bit", "data-aware")
    for column in ("model", "environment", "layers", "possible faults", *names, "note"):
        table.add_column(column, overflow="fold")
    for each in plans:
        made = {plan.name: f"{plan.total:,}" for plan in each.plans}
        table.add_row(
            *(Text(part) for part in each.deployment.key),
            str(len(each.sites) or "-"),
            f"{each.population:,}" if each.sites else "-",
            *(made.get(name, "-") for name in names),
            Text(each.reason or each.note),
        )
    head = (
        f"Single faults to inject for a rate within +-{margin:g} at {confidence:g} confidence,"
        " by fixed plans (finite population, p = 0.5)"
    )
    hint = (
        "Network-wise knows the rate of the whole, the others also that of each layer, or layer"
        f" and bit.\nA campaign stops when it knows enough, mostly earlier:"
        f" {{singlebit: {{}}, campaign: {{margin: {margin:g}, confidence: {confidence:g}}}}}"
    )
    return Group(Text(head, style="bold"), table, Text(hint))


def _environments(plan: Plan) -> Table:
    table = Table(title="Environments", title_justify="left", box=None, pad_edge=False)
    for column in ("model", "environment", "samples", "batch", "artifact"):
        table.add_column(column, overflow="fold")
    for each in plan.deployments:
        baseline = " (baseline)" if each.environment.id == plan.baseline else ""
        subject = each.subject
        table.add_row(
            Text(each.key[0]),
            Text(each.key[1] + baseline),
            str(subject.n_samples),
            str(subject.batch),
            "built" if each.artifact.exists() else "to build",
        )
    return table


def _cases(plan: Plan) -> Table:
    table = Table(title="Scenarios", title_justify="left", box=None, pad_edge=False)
    for column in ("scenario", "severity", "patterns", "unit", "note"):
        table.add_column(column, overflow="fold")
    for case in plan.cases:
        severity = "" if case.severity is None else f"{case.severity_name} {case.severity:g}"
        refused = {s.subject.source.name: plan.refusal(s, case) for s in plan.deployments}
        note = "; ".join(f"{name}: {why}" for name, why in refused.items() if why)
        unit = case.unit if case.layers else ""
        patterns = f"to +-{case.campaign.margin:g}" if case.campaign else str(case.patterns)
        table.add_row(Text(case.name), severity, patterns, unit, Text(note))
    return table


def _searches(plan: Plan) -> list[str]:
    """A search has as many processes as it takes, so it is no part of the total."""
    count = len(plan.deployments)
    return [f"\n{each.name}: smallest limits of {count} environments" for each in plan.searches]


def _work(plan: Plan, deployment: Deployment) -> int:
    allowed = [case for case in plan.cases if not plan.refusal(deployment, case)]
    return sum(case.patterns for case in allowed) * deployment.subject.n_batches


def _latency_processes(plan: Plan) -> int:
    latency = plan.spec.latency
    if latency is None:
        return 0
    arms = sum(
        case.latency * (1 if each.subject.fixed_batch else len(latency.batch)) * len(latency.use)
        for each in plan.deployments
        for case in plan.cases
    )
    return arms * latency.processes


def _latency_calls() -> dict[str, dict[str, int]]:
    """What each percentile needs: calls per process here, and MLPerf's number of queries."""
    return {
        f"p{100 * each:g}": {
            "calls_per_process": stats.minimum_count(each),
            "mlperf_queries": stats.query_count(each),
            "mlperf_queries_rounded": stats.rounded_query_count(each),
        }
        for each in PERCENTILES.values()
    }


def _data_mib(plan: Plan) -> float:
    folders = {each.subject.dataset for each in plan.deployments}
    return sum(f.stat().st_size for folder in folders for f in folder.iterdir()) / 2**20


def _total(plan: Plan) -> str:
    cells = len(plan.deployments) * len(plan.cases)
    runs = sum(_work(plan, each) for each in plan.deployments)
    seconds = 0.0
    if plan.spec.latency is not None:
        latency = plan.spec.latency
        seconds = _latency_processes(plan) * (latency.min_duration_s + latency.warmup_s)
    return (
        f"\n{cells} cells, {runs} inferences of a batch, {_latency_processes(plan)} latency"
        f" processes ({seconds:.0f} s of timed calls, start-up not included);"
        f" prepared data {_data_mib(plan):.1f} MiB.\n"
        "Costs per inference are measured by the clean pass of the sweep itself;"
        " --budget 30m resolves the counts from them."
    )
