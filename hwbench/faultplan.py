"""How many single faults a deployment needs, by each published plan, beside what a campaign does.

The populations are those of what is stored: an int8 artifact has eight bits a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwbench import registry
from hwbench.backend import Artifact, Backend, Site
from hwbench.campaign import FixedPlan, data_aware_proportions, fixed_plans
from hwbench.errors import Unsupported
from hwbench.execute.launch import StopSignal, run_worker
from hwbench.job import BuildWork, Job
from hwbench.plan import Deployment
from hwbench.stats.sampling import normal_quantile

_AWARE = "data-aware needs every site to hold fp32 numbers"


@dataclass(frozen=True)
class FaultPlan:
    """The fixed plans of one deployment.

    Attributes:
        sites: kernels' weights, in topological order.
        plans: by name; none where ``reason`` says why.
        note: which plan is left out, and why.
        reason: why there are no plans.
    """

    deployment: Deployment
    sites: tuple[Site, ...] = ()
    plans: tuple[FixedPlan, ...] = ()
    note: str = ""
    reason: str = ""

    @property
    def population(self) -> int:
        """Possible single-bit faults."""
        return sum(site.size * site.bits for site in self.sites)


def fault_plan(
    deployment: Deployment, margin: float, confidence: float, deadline_s: float, stop: StopSignal
) -> FaultPlan:
    """The plans of a deployment, whose artifact is built first if it is not there.

    Args:
        deployment: a model in an environment.
        margin: half-width of the interval of each rate.
        confidence: of the interval.
        deadline_s: longest silence of the process that builds.
        stop: asks to give up.
    """
    if not deployment.artifact.exists():
        failed = _build(deployment, deadline_s, stop)
        if failed:
            return FaultPlan(deployment, reason=failed)
    adapter = registry.backend(deployment.environment.backend)
    artifact = Artifact.load(deployment.artifact)
    try:
        sites = tuple(site for site in adapter.sites(artifact) if site.kind == "weight")
    except Unsupported as gap:
        return FaultPlan(deployment, reason=gap.reason)
    if not sites:
        return FaultPlan(deployment, reason="no kernel of this model reads stored weights")
    aware, note = _proportions(adapter, artifact, sites)
    plans = fixed_plans(
        [site.size * site.bits for site in sites],
        [site.bits for site in sites],
        margin,
        normal_quantile(confidence),
        aware,
    )
    return FaultPlan(deployment, sites, tuple(plans), note)


def _build(deployment: Deployment, deadline_s: float, stop: StopSignal) -> str:
    """Make the artifact in a process of its own; gives what went wrong."""
    subject = deployment.subject
    work = BuildWork(subject.source, str(deployment.artifact), str(subject.dataset))
    job = Job(deployment.key[0], deployment.environment, work, deadline_s)
    ended = run_worker(job, lambda event: None, stop)
    if deployment.artifact.exists():
        return ""
    return ended.failed.get("message") or f"building ended in phase {ended.phase}"


def _proportions(
    adapter: Backend, artifact: Artifact, sites: tuple[Site, ...]
) -> tuple[list[float] | None, str]:
    if any(site.dtype != "float32" for site in sites):
        return None, _AWARE
    values = [adapter.stored(artifact, site.name).reshape(-1) for site in sites]
    return data_aware_proportions(np.concatenate(values)), ""
