"""plan.json: the planned cells, told as environments and cases, whose product they are."""

from __future__ import annotations

from typing import Any

from hwbench.case import Case
from hwbench.plan import Deployment, Plan
from hwbench.store import Store


def write(store: Store, made: Plan, *, complete: bool) -> None:
    """The planned cells, which the tables are laid over: a cell without rows is seen as open."""
    content = {
        "complete": complete,
        "baseline": made.baseline,
        "metrics": list(made.spec.metrics),
        "output": made.spec.task.output,
        "latency_threshold": made.spec.latency.threshold if made.spec.latency else None,
        "environments": [_environment(each) for each in made.deployments],
        "cases": [_case(made, case) for case in made.cases],
        "searches": [
            {"id": case.id, "scenario": case.name, "severity_name": case.severity_name}
            for case in made.searches
        ],
        "refusals": [
            [*each.key, case.id, reason]
            for each in made.deployments
            for case in (*made.cases, *made.searches)
            if (reason := made.refusal(each, case))
        ],
    }
    store.write_json("plan.json", content)


def _environment(deployment: Deployment) -> dict[str, Any]:
    environment, subject = deployment.environment, deployment.subject
    return {
        "model": deployment.key[0],
        "environment": environment.id,
        "backend": environment.backend,
        "device": environment.device,
        "precision": environment.precision,
        "threads": environment.threads,
        "allow": list(environment.allow),
        "options": dict(environment.options),
        "n_samples": subject.n_samples,
        "batch": subject.batch,
        "labelled": subject.labelled,
        "classes": subject.classes,
    }


def _case(made: Plan, case: Case) -> dict[str, Any]:
    shifted = made.shifted.items() if case.replacement else ()
    return {
        "id": case.id,
        "scenario": case.name,
        "severity_name": case.severity_name,
        "severity": case.severity,
        "patterns": None if case.campaign else case.patterns,
        "unit": case.unit,
        "constraint": case.constraint or None,
        "stack": len(case.layers),
        "perturbed": case.perturbed,
        "milder": case.layers[-1].scenario.milder if case.layers else "lower",
        "kinds": [[each.scenario.name, each.scenario.variant] for each in case.layers],
        "data": {
            name: {"n_samples": subject.n_samples, "labelled": subject.labelled}
            for (name, which), subject in shifted
            if which == case.id
        },
    }
