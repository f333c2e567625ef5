"""The smallest severity under which a model still runs: the next probe from the stored ones.

Pure, like every strategy: a probe is chosen from the rows alone, so a search that was stopped goes
on where it was, and the number of workers changes nothing. Works for conditions whose mildest
severity is infinite, such as a memory limit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hwbench.case import Case, Layer
from hwbench.job import Job, SearchWork
from hwbench.plan import Deployment, Plan
from hwbench.record import Row
from hwbench.scenario import Condition
from hwbench.spec.models import LatencySpec

Place = tuple[str, str, str]  # model, environment, case name

TOLERANCE = 0.04  # of the limit found
STEP = 0.25  # limits are multiples of this
SLOWDOWN = 2.0  # of p50, which the second minimum keeps within
RUNS = 2  # at the minimum found; one that fails moves it up
CHECKS = (0.7, 1.3)  # of the minimum to load: what happens there is told
GROWTH = 1.25
MOST = 60  # probes of one search
DURATION_S = 0.3  # a probe's p50 is to tell 2x, no more
PATIENCE = 3.0  # times the wall time without a limit: what is silent for so long does not run
LEAST_DEADLINE_S = 5.0
FLOOR, FREE = 0, 1  # numbers of the first probes: the import alone, and without a limit

COLUMNS = (
    *("kind", "model", "environment", "scenario", "severity", "block", "batch", "outcome"),
    *("phase", "message", "mechanism", "peak_rss_mib", "group_peak_mib", "shared_file_mib"),
    *("latency_p50_ms", "wall_s", "reclaim_stall"),
)


@dataclass(frozen=True)
class Probe:
    """What one process told.

    Attributes:
        severity: the limit; ``None`` without.
        number: the first only imports the runtime, the second runs without a limit.
        p50_ms: median latency, where the process came so far.
        row: its row of ``processes``.
    """

    severity: float | None
    number: int
    outcome: str
    p50_ms: float | None
    row: Row

    @property
    def needed(self) -> float:
        """What it took of what is limited: its group's peak, else the resident set's."""
        return float(self.row["group_peak_mib"] or self.row["peak_rss_mib"] or 0.0)


Works = Callable[[Probe], bool]


@dataclass(frozen=True)
class Bracket:
    """Between which severities a minimum lies.

    Attributes:
        low: the largest at which a probe failed; 0 if none did.
        high: the smallest above it at which every probe worked; infinite if there is none.
    """

    low: float
    high: float

    @property
    def closed(self) -> bool:
        """Whether the two are as close as the search goes."""
        return self.high - self.low <= max(STEP, TOLERANCE * self.high)


def read(rows: Iterable[Row]) -> dict[Place, list[Probe]]:
    """The probes among rows of ``processes``; a process stopped from outside tells nothing."""
    found: dict[Place, list[Probe]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "search" and row["outcome"] != "interrupted":
            place = (row["model"], row["environment"], row["scenario"])
            told = (row["severity"], row["block"], row["outcome"], row["latency_p50_ms"])
            found[place].append(Probe(*told, row))
    return dict(found)


def runs(probe: Probe) -> bool:
    """Whether the model loaded and ran."""
    return probe.outcome == "ok"


def keeps_up(probes: Sequence[Probe]) -> Works | None:
    """Whether p50 stays within ``SLOWDOWN`` of that without a limit; ``None`` where none is."""
    free = unlimited(probes)
    if free is None or free.p50_ms is None:
        return None
    most = SLOWDOWN * free.p50_ms
    return lambda probe: probe.outcome == "ok" and (probe.p50_ms or math.inf) <= most


def unlimited(probes: Sequence[Probe]) -> Probe | None:
    """The process without a limit."""
    return next((each for each in probes if each.number == FREE), None)


def floor(probes: Sequence[Probe]) -> Probe | None:
    """The process that only imported the runtime."""
    return next((each for each in probes if each.number == FLOOR), None)


def bracket(probes: Sequence[Probe], works: Works) -> Bracket:
    """Where the minimum lies: a severity works only if each of its probes did."""
    limited = [(each.severity, works(each)) for each in probes if each.severity is not None]
    low = max((severity for severity, good in limited if not good), default=0.0)
    above = [severity for severity, good in limited if good and severity > low]
    return Bracket(low, min(above, default=math.inf))


def next_severity(probes: Sequence[Probe], free: Probe) -> float | None:
    """Where to probe next: for the minimum to run, that to keep up, then the checks.

    Args:
        probes: all so far.
        free: the one without a limit.

    Returns:
        ``None`` when the search is done.
    """
    if free.outcome != "ok" or len(probes) >= MOST:
        return None
    for works in (runs, keeps_up(probes)):
        wanted = None if works is None else _narrower(probes, works, free)
        if wanted is not None:
            return wanted
    minimum = bracket(probes, runs)
    checks = [check(minimum, share) for share in CHECKS]
    tried = {each.severity for each in probes}
    return next((each for each in checks if each not in tried), None)


def check(minimum: Bracket, share: float) -> float:
    """Where to look what happens at a share of the minimum."""
    return _rounded(share * minimum.high)


def _narrower(probes: Sequence[Probe], works: Works, free: Probe) -> float | None:
    found = bracket(probes, works)
    if math.isinf(found.high):
        return _rounded(max(free.needed, GROWTH * found.low, STEP))
    if not found.closed:
        return _rounded((found.low + found.high) / 2)
    done = sum(each.severity == found.high for each in probes)
    return found.high if done < RUNS else None


def _rounded(severity: float) -> float:
    if math.isinf(severity):
        return severity
    return max(STEP, math.ceil(severity / STEP) * STEP)


def at(case: Case, severity: float | None) -> Case:
    """The case with its searched condition at a severity, ``None`` for no limit."""
    value = math.inf if severity is None else severity
    layers = tuple(_layer_at(each, value) for each in case.layers)
    return replace(case, layers=layers, severity=severity)


def _layer_at(layer: Layer, severity: float) -> Layer:
    made = layer.scenario
    if isinstance(made, Condition) and made.searched:
        return replace(layer, scenario=made.at(severity))
    return layer


def next_jobs(
    plan: Plan,
    probes: Mapping[Place, Sequence[Probe]],
    usable: Callable[[tuple[str, str]], bool],
) -> list[Job]:
    """The next probe of every search that is not done."""
    jobs = []
    for each in plan.deployments:
        for case in plan.searches:
            if not usable(each.key) or plan.refusal(each, case):
                continue
            found = probes.get((*each.key, case.name), ())
            free = unlimited(found)
            severity = next_severity(found, free) if free else None
            if free is None or severity is not None:
                jobs.append(_job(plan, each, at(case, severity), len(found), free))
    return jobs


def _job(plan: Plan, deployment: Deployment, case: Case, number: int, free: Probe | None) -> Job:
    timing = plan.spec.latency or LatencySpec()
    work = SearchWork(
        str(deployment.artifact),
        str(deployment.subject.dataset),
        deployment.subject.fixed_batch or timing.batch[0],
        case,
        min(DURATION_S, timing.min_duration_s),
        timing.min_count,
        min(DURATION_S, timing.warmup_s),
        number,
        number == FLOOR,
    )
    deadline = _deadline(plan.spec.deadline_s, free)
    return Job(deployment.key[0], deployment.environment, work, deadline, plan.code_path)


def _deadline(most: float, free: Probe | None) -> float:
    """A process that reclaims its own code over and over does not end; one must not wait for it."""
    if free is None:
        return most
    return min(most, max(LEAST_DEADLINE_S, PATIENCE * float(free.row["wall_s"])))
