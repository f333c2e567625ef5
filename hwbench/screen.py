"""Is every core (and GPU) computing the same bits? The deployed model says, core by core.

Each core runs the model on the same inputs, first alone, then while all the others run it too.
What most inferences of an input give, over all cores, is golden; a core that once gave other bytes
is inconsistent. A core that never did has an error rate below 3/n per inference (rule of three).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from hwbench import stats
from hwbench.backend import Environment
from hwbench.errors import RequestError
from hwbench.execute import Progress, Stop
from hwbench.execute.classify import Verdict, classify
from hwbench.execute.launch import run_worker
from hwbench.job import BuildWork, Job, ScreenWork
from hwbench.plan import Deployment, Plan

ALONE, TOGETHER = "alone", "together"
VARIANTS = 8
DEADLINE_S = 120.0
SHORTEST_S = 1.0


@dataclass(frozen=True)
class Place:
    """Where the model runs: a core of the CPU, or a device."""

    name: str
    core: int | None
    device: str


@dataclass
class Tally:
    """What one place gave: how often each digest came, by input and load."""

    place: Place
    seen: Counter[tuple[int, str, str]] = field(default_factory=Counter)  # input, digest, load
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """One place against golden.

    Attributes:
        place: its name.
        inferences: compared with golden, each over all output bytes.
        different: of these, the ones with other bytes.
        loads: under which load they came.
        upper: upper limit, at 95 %, of the error rate per inference where none differed.
        failures: workers that did not end well, with the reason.
    """

    place: str
    inferences: int
    different: int
    loads: tuple[str, ...]
    upper: float | None
    failures: tuple[str, ...]


def places(environment: Environment, devices: Sequence[str]) -> list[Place]:
    """Every core this process may use, or every GPU of the asked kind; none that is emulated."""
    if environment.emulation:
        return []
    if environment.device == "cpu":
        return [Place(f"core {n}", n, "cpu") for n in sorted(os.sched_getaffinity(0))]
    kind = environment.device.split(":")[0]
    return [Place(each, None, each) for each in devices if each.split(":")[0] == kind]


def screen(
    made: Plan,
    found: Sequence[Place],
    *,
    duration_s: float,
    plant: str | None,
    stop: Stop,
    progress: Progress,
) -> list[Finding]:
    """Screen every place with the plan's only deployment.

    Args:
        made: one model, one environment.
        found: the places.
        duration_s: of all timed work together; at least a second per place and load.
        plant: name of a place where one output bit of one inference is flipped: a proof that the
            detector detects.
        stop: asked between workers.
        progress: told about workers.

    Raises:
        RequestError: the model cannot be built, or there is no place, or none of that name.
    """
    if not found:
        raise RequestError("nothing to screen.", hint="see `hwbench doctor` for devices.")
    if plant is not None and plant not in [each.name for each in found]:
        known = ", ".join(each.name for each in found)
        raise RequestError(f"no place {plant!r} to plant a flip.", hint=f"there is {known}.")
    deployment = made.deployments[0]
    _build(made, deployment, stop)
    tallies = [Tally(each) for each in found]
    slice_s = max(SHORTEST_S, duration_s / (len(found) + 1))
    progress.begin(ALONE, len(found))
    for each in tallies:
        _run(made, deployment, each, ALONE, slice_s, plant, stop)
        progress.advance(1)
    progress.begin(TOGETHER, len(found))
    with ThreadPoolExecutor(len(found)) as pool:
        for _ in pool.map(
            lambda each: _run(made, deployment, each, TOGETHER, slice_s, None, stop), tallies
        ):
            progress.advance(1)
    return judge(tallies)


def judge(tallies: Sequence[Tally]) -> list[Finding]:
    """Every place against what most inferences of the same input gave.

    Where two places disagree and each is one half, nothing tells which is wrong: both are named.
    """
    votes: dict[int, Counter[str]] = {}
    for tally in tallies:
        for (variant, name, _), count in tally.seen.items():
            votes.setdefault(variant, Counter())[name] += count
    golden = {variant: _winner(counted) for variant, counted in votes.items()}
    return [_finding(each, golden) for each in tallies]


def _winner(counted: Counter[str]) -> str | None:
    """The digest that more than half of the inferences gave."""
    name, count = counted.most_common(1)[0]
    return name if 2 * count > counted.total() else None


def _finding(tally: Tally, golden: dict[int, str | None]) -> Finding:
    different = {key: n for key, n in tally.seen.items() if key[1] != golden[key[0]]}
    n = tally.seen.total()
    clean = n > 0 and not different
    return Finding(
        tally.place.name,
        n,
        sum(different.values()),
        tuple(sorted({load for _, _, load in different})),
        stats.rule_of_three(n).high if clean else None,
        tuple(tally.failures),
    )


def consistent(findings: Sequence[Finding]) -> bool:
    """Whether no place gave other bytes."""
    return not any(each.different for each in findings)


def _build(made: Plan, deployment: Deployment, stop: Stop) -> None:
    if deployment.artifact.exists():
        return
    subject = deployment.subject
    work = BuildWork(subject.source, str(deployment.artifact), str(subject.dataset))
    verdict = _worked(made, deployment.environment, deployment, work, lambda _: None, stop)
    if verdict.outcome != "ok":
        what = f"{deployment.environment.id} cannot be built: {verdict.message}."
        raise RequestError(what, hint="choose another --backend or --precision.")


def _run(
    made: Plan,
    deployment: Deployment,
    tally: Tally,
    load: str,
    slice_s: float,
    plant: str | None,
    stop: Stop,
) -> None:
    """One worker in one place; what it told counts, however it ended."""
    if stop:
        return
    subject, place = deployment.subject, tally.place
    work = ScreenWork(
        str(deployment.artifact),
        str(subject.dataset),
        subject.batch,
        place.core,
        slice_s,
        VARIANTS,
        made.spec.seed,
        1 if place.name == plant else -1,
    )

    def take(event: dict[str, Any]) -> None:
        for variant, name, count in event.get("found", ()):
            tally.seen[variant, name, load] += count

    environment = replace(deployment.environment, device=place.device)
    verdict = _worked(made, environment, deployment, work, take, stop)
    if verdict.outcome != "ok":
        tally.failures.append(f"{load}: {verdict.outcome}: {verdict.message}")


def _worked(
    made: Plan,
    environment: Environment,
    deployment: Deployment,
    work: BuildWork | ScreenWork,
    take: Callable[[dict[str, Any]], None],
    stop: Stop,
) -> Verdict:
    job = Job(deployment.key[0], environment, work, DEADLINE_S, made.code_path)
    return classify(run_worker(job, take, stop), DEADLINE_S)
