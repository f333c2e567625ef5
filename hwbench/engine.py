"""A sweep from spec to tables: rounds until the strategy has no more to ask for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from hwbench import (
    artifacts,
    budget,
    extending,
    failpoint,
    localplan,
    machines,
    plan,
    planfile,
    runfile,
    shifting,
)
from hwbench.errors import RequestError
from hwbench.execute import Engine, Progress, Stop, run_round
from hwbench.plan import Plan
from hwbench.preparing import Preparing
from hwbench.record import Row
from hwbench.spec import Spec
from hwbench.spec.cases import expand
from hwbench.state import Reader, State
from hwbench.store import Store
from hwbench.strategy import FixedSweep, Round

_COUNTED = ("faults and noise", "latency")  # rounds whose size a budget decides


class Rack(Engine, Protocol):
    """Boards on which everything runs; see ``hwbench.execute.cluster``."""

    @property
    def size(self) -> int:
        """Boards connected now."""

    def place(self, plan: Plan) -> Plan:
        """Check that there is a board for every environment; the plan as it is there."""

    def check_resumed(self, processes: Sequence[Row]) -> None:
        """Refuse to go on with what other machines began."""

    def machines(self) -> Mapping[str, Mapping[str, Any]]:
        """Machines that did jobs, by fingerprint."""


@dataclass(frozen=True)
class Options:
    """What concerns this execution and not the result."""

    allow_code: bool = False
    output: Path | None = None
    workers: int | None = None
    cache: Path | None = None
    rack: Rack | None = None


class Silent:
    """Progress that nobody sees."""

    def begin(self, title: str, total: int) -> None:
        """A round starts."""

    def advance(self, steps: int) -> None:
        """Steps were done."""


def default_folder(spec: Spec) -> Path:
    """``results/runs/<name>-<UTC time>`` under the working directory."""
    safe = (
        "".join(c if c.isalnum() or c in "-_." else "-" for c in spec.name)[:60].strip(".") or "run"
    )
    return Path("results/runs") / f"{safe}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def start(spec: Spec, options: Options, progress: Progress, stop: Stop) -> Store:
    """A new sweep, run until it is complete or stopped.

    Raises:
        RequestError: the spec cannot be run, or the folder cannot be written.
    """
    folder = options.output or default_folder(spec)
    if (folder / "run.json").exists():
        hint = "give another --output, or go on with --resume."
        raise RequestError("holds a run already.", where=str(folder), hint=hint)
    made = _plan(spec, folder, options)
    _check_here(made)
    store = Store.create(folder)
    failpoint.hit("folder:made")
    with store.locked():
        runfile.write_spec(store, spec)
        runfile.write_provenance(store, made)
        _run(store, made, options, progress, stop)
    return store


def resume(
    folder: Path, options: Options, progress: Progress, stop: Stop, spec: Spec | None = None
) -> Store:
    """Finish a sweep that was stopped.

    Args:
        folder: of the run.
        options: whether code may run, and on how many workers.
        progress: told about rounds and trials.
        stop: asked between trials.
        spec: what the caller takes the run's spec to be, counts left out.

    Raises:
        RequestError: no run there, or its spec, model or data have changed since.
    """
    if spec is not None:
        runfile.check_same(Store.open(folder), spec)
    store, made = reopened(folder, options)
    _go_on(store, made, options, progress, stop)
    return store


def extend(
    folder: Path, counts: Mapping[str, int], options: Options, progress: Progress, stop: Stop
) -> Store:
    """Add to a run, which then is as if it had been asked for so much at first.

    Args:
        folder: of the run, finished or not.
        counts: new totals, see ``hwbench.extending.extended``.
        options: whether code may run, and on how many workers.
        progress: told about rounds and trials.
        stop: asked between trials.

    Raises:
        RequestError: no run there, its model or data have changed since, counts that mean nothing
            or are below those it has, or a budget that is not resolved yet.
    """
    store = Store.open(folder)
    spec = runfile.read_spec(store)
    if spec.budget is not None:
        hint = "finish it first, with --resume."
        what = "its budget is not resolved to counts yet."
        raise RequestError(what, where=str(folder), hint=hint)
    if less := extending.shrinks(spec, counts):
        hint = "counts are totals: ask for more than there are."
        raise RequestError(f"the run has more already: {less}.", where=str(folder), hint=hint)
    larger = extending.extended(spec, counts)
    made = _plan(larger, folder, options)
    runfile.check_unchanged(store, made)
    _go_on(store, made, options, progress, stop, counts)
    return store


def _go_on(
    store: Store,
    made: Plan,
    options: Options,
    progress: Progress,
    stop: Stop,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Do what is left; ``counts`` are noted first where the run is to be larger from now on."""
    _check_here(made)
    if options.rack:
        columns = ["kind", "environment", "outcome", "machine"]
        options.rack.check_resumed(store.read("processes", columns).to_pylist())
    with store.locked():
        if counts:
            runfile.note_extension(store, counts)
        runfile.write_spec(store, made.spec)
        _run(store, made, options, progress, stop)


def reopened(folder: Path, options: Options) -> tuple[Store, Plan]:
    """A run and its plan, made again from its resolved spec.

    Raises:
        RequestError: no run there, or its model or data have changed since.
    """
    store = Store.open(folder)
    made = _plan(runfile.read_spec(store), folder, options)
    runfile.check_unchanged(store, made)
    return store, made


def _plan(spec: Spec, folder: Path, options: Options) -> Plan:
    if spec.budget is not None:
        budget.seconds(spec.budget)
        if any(case.campaign for case in expand(spec.scenarios)):
            hint = "remove one of them: a campaign runs until its margin is reached."
            raise RequestError("budget and campaign do not go together.", where="budget", hint=hint)
    cache = options.cache or plan.cache_folder()
    made = plan.make(spec, allow_code=options.allow_code, cache=cache, code_cache=folder.resolve())
    return options.rack.place(made) if options.rack else made


def _check_here(made: Plan) -> None:
    """Refuse to run here what is meant for a board."""
    tagged = [each.environment for each in made.deployments if each.environment.tags]
    if tagged and not made.elsewhere:
        raise RequestError(
            f"is meant for a board with tags {', '.join(tagged[0].tags)}.",
            where=f"environments: {tagged[0].id}",
            hint="give --executor dask --scheduler ADDRESS, or remove its tags.",
        )


def _run(store: Store, made: Plan, options: Options, progress: Progress, stop: Stop) -> None:
    """All rounds; what they use of the cache stays there, and the rest is kept within its bound."""
    cache, bound = options.cache or plan.cache_folder(), artifacts.bound_bytes()
    used = [each.artifact for each in made.deployments]
    used += [each.subject.dataset for each in made.deployments]
    used += [each.dataset for each in made.shifted.values()]
    with artifacts.Hold(used) as hold:
        artifacts.evict(cache, bound)
        _rounds(store, made, options, progress, stop, hold)
        artifacts.evict(cache, bound)


def _rounds(
    store: Store,
    made: Plan,
    options: Options,
    progress: Progress,
    stop: Stop,
    hold: artifacts.Hold,
) -> None:
    begin = time.monotonic()
    free_mib = localplan.free_mib()
    golden = store.folder.resolve() / "golden"
    reader = Reader(store, made, FixedSweep(made, golden).sites_path)
    planfile.write(store, made, complete=False)
    while not stop:
        state = reader.update()
        made, ready = _prepared(store, made, state)
        workers, note = _workers(store, made, state, options, free_mib)
        found = _next_round(made, state, ready, golden, workers)
        if found is None:
            break
        if found.title in _COUNTED and made.spec.budget:
            left_s = budget.seconds(made.spec.budget) - (time.monotonic() - begin)
            made = _within_budget(store, made, state, workers, left_s)
            continue
        run_round(
            f"{found.title} ({note})" if note and not found.exclusive else found.title,
            (ready.locate(job) for job in found.jobs),
            store,
            workers=1 if found.exclusive else workers,
            stop=stop,
            progress=progress,
            engine=options.rack,
            total=found.steps,
        )
        hold.take()
        store.flush()
        machines.note(store, options.rack.machines() if options.rack else machines.here())
        failpoint.hit("round:ended")
    _end(store, made, reader.update(), golden, complete=not stop)


def _next_round(
    made: Plan, state: State, ready: Preparing, golden: Path, workers: int
) -> Round | None:
    """What is to be done next; inputs are prepared as soon as everything is built."""
    strategy = FixedSweep(made, golden, workers)
    found = strategy.next_round(state) or shifting.next_round(made, state, golden)
    if found is None or found.title != "building":
        jobs = ready.jobs(state.prepared)
        # One at a time: severities share what they have in common.
        return Round("preparing inputs", tuple(jobs), exclusive=True) if jobs else found
    return found


def _end(store: Store, made: Plan, state: State, golden: Path, *, complete: bool) -> None:
    """Tell what the tables are laid over: the cells, and the strata that campaigns weigh by."""
    made, _ = _prepared(store, made, state)
    campaigns = FixedSweep(made, golden).campaigns(state)
    if campaigns:
        content = {cell: population.to_json() for cell, (population, _) in campaigns.items()}
        store.write_json("campaigns.json", content)
    planfile.write(store, made, complete=complete)


def _prepared(store: Store, made: Plan, state: State) -> tuple[Plan, Preparing]:
    """The plan, knowing which inputs could not be prepared, and what is to be prepared."""
    root = store.folder.resolve() / "prepared"
    failed = Preparing(replace(made, unprepared={}), root).refusals(state.prepared)
    known = replace(made, unprepared=failed)
    return known, Preparing(known, root)


def _workers(
    store: Store, made: Plan, state: State, options: Options, free_mib: float
) -> tuple[int, str]:
    """Jobs at a time, and why there are fewer than the cores would carry; told in run.json."""
    if options.workers or options.rack:
        return options.workers or (options.rack.size if options.rack else 1), ""
    local = localplan.planned(made, state, free_mib)
    run, told = store.read_json("run.json"), asdict(local)
    if local.note and run.get("local") != told:
        store.write_json("run.json", {**run, "local": told})
    return local.workers, local.note


def _within_budget(store: Store, made: Plan, state: State, workers: int, left_s: float) -> Plan:
    """The plan at counts that fit; the resolved spec replaces the asked one in the run folder."""
    found = budget.resolve(made, budget.costs(made, state), left_s, workers)
    run = store.read_json("run.json")
    run["budget"] = {
        "asked": made.spec.budget,
        "share_of_patterns": found.share,
        "estimate_s": round(found.estimate_s, 1),
        "fits": found.fits,
    }
    store.write_json("run.json", run)
    runfile.write_spec(store, found.spec)
    return replace(made, spec=found.spec, cases=tuple(expand(found.spec.scenarios)))
