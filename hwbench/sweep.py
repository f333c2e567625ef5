"""A sweep from spec to tables: rounds until the strategy has no more to ask for."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from hwbench import (
    artifacts,
    budget,
    fingerprint,
    machines,
    noise,
    plan,
    search,
    shifting,
    sitelist,
)
from hwbench.case import case_id
from hwbench.errors import RequestError
from hwbench.execute import Engine, Progress, Stop, run_round
from hwbench.plan import Plan
from hwbench.population import Tally
from hwbench.preparing import Preparing
from hwbench.record import SCHEMA_VERSION, Row
from hwbench.score import METRICS
from hwbench.spec import Spec
from hwbench.spec.cases import expand
from hwbench.store import Store, write_durably
from hwbench.strategy import FixedSweep, Place, Round, State


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
    store.lock()
    try:
        _write_spec(store, spec)
        store.write_json("run.json", _provenance(made))
        _run(store, made, options, progress, stop)
    finally:
        store.unlock()
    return store


def resume(folder: Path, options: Options, progress: Progress, stop: Stop) -> Store:
    """Finish a sweep that was stopped.

    Raises:
        RequestError: no run there, or its model or data have changed since.
    """
    store, made = reopened(folder, options)
    _check_here(made)
    if options.rack:
        columns = ["kind", "environment", "outcome", "machine"]
        options.rack.check_resumed(store.read("processes", columns).to_pylist())
    store.lock()
    try:
        _run(store, made, options, progress, stop)
    finally:
        store.unlock()
    return store


def reopened(folder: Path, options: Options) -> tuple[Store, Plan]:
    """A run and its plan, made again from its resolved spec.

    Raises:
        RequestError: no run there, or its model or data have changed since.
    """
    store = Store.open(folder)
    spec = Spec.model_validate(yaml.safe_load((folder / "spec.yaml").read_text()))
    made = _plan(spec, folder, options)
    _check_unchanged(store, made)
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


def _write_spec(store: Store, spec: Spec) -> None:
    content = spec.model_dump(mode="json", exclude_none=True)
    for key in ("latency", "replay"):
        content[key] = content.get(key, False)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_durably(store.folder / "spec.yaml", text.encode())


def _inputs(made: Plan) -> dict[str, Any]:
    """What must not change between the parts of a run."""
    shifted: dict[str, str] = defaultdict(str)
    for (name, _), subject in made.shifted.items():
        shifted[name] += f"+{subject.dataset_digest}"
    return {
        each.subject.source.name: {
            "model": each.subject.digest,
            "data": each.subject.dataset_digest + shifted[each.subject.source.name],
        }
        for each in made.deployments
    }


def _provenance(made: Plan) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": fingerprint.versions(),
        "machine": fingerprint.machine(),
        "noise": noise.known(),
        "seed": made.spec.seed,
        "inputs": _inputs(made),
        "partials": [[metric.name, metric.width] for metric in METRICS],
        "budget": {"asked": made.spec.budget} if made.spec.budget else None,
    }


def _check_unchanged(store: Store, made: Plan) -> None:
    before, now = store.read_json("run.json")["inputs"], _inputs(made)
    for name in sorted(set(before) | set(now)):
        for what in ("model", "data"):
            if before.get(name, {}).get(what) != now.get(name, {}).get(what):
                raise RequestError(
                    f"the {what} of {name!r} has changed since this run began.",
                    where=str(store.folder),
                    hint="restore it, or start a new run.",
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
    workers = options.workers or (options.rack.size if options.rack else _workers(made))
    golden = store.folder.resolve() / "golden"
    _write_plan(store, made, complete=False)
    while not stop:
        made, ready = _prepared(store, made)
        strategy = FixedSweep(made, golden, workers)
        state = read_state(store, strategy)
        found = strategy.next_round(state) or shifting.next_round(made, state, golden)
        if found is None or found.title != "building":
            jobs = ready.jobs(_preparations(store))
            # One at a time: severities share what they have in common.
            found = Round("preparing inputs", tuple(jobs), exclusive=True) if jobs else found
        if (
            found is not None
            and found.title in ("faults and noise", "latency")
            and made.spec.budget
        ):
            made = _within_budget(store, made, workers, time.monotonic() - begin)
            continue
        if found is None:
            break
        run_round(
            found.title,
            [ready.locate(job) for job in found.jobs],
            store,
            workers=1 if found.exclusive else workers,
            stop=stop,
            progress=progress,
            engine=options.rack,
        )
        hold.take()
        store.flush()
        machines.note(store, options.rack.machines() if options.rack else machines.here())
    store.flush()
    made, _ = _prepared(store, made)
    strategy = FixedSweep(made, golden, workers)
    _write_plan(store, made, complete=not stop)
    _write_campaigns(store, strategy)


def _preparations(store: Store) -> list[dict[str, Any]]:
    """What became of the processes that prepare inputs."""
    rows = store.read("processes", ["kind", "job", "outcome", "message"]).to_pylist()
    return [each for each in rows if each["kind"] == "prepare"]


def _prepared(store: Store, made: Plan) -> tuple[Plan, Preparing]:
    """The plan, knowing which inputs could not be prepared, and what is to be prepared."""
    root = store.folder.resolve() / "prepared"
    failed = Preparing(replace(made, unprepared={}), root).refusals(_preparations(store))
    known = replace(made, unprepared=failed)
    return known, Preparing(known, root)


def _write_plan(store: Store, made: Plan, *, complete: bool) -> None:
    """The planned cells, which the tables are laid over: a cell without rows is seen as open."""
    refusals = [
        [*each.key, case.id, made.refusal(each, case)]
        for each in made.deployments
        for case in (*made.cases, *made.searches)
        if made.refusal(each, case)
    ]
    content = {
        "complete": complete,
        "baseline": made.baseline,
        "metrics": list(made.spec.metrics),
        "output": made.spec.task.output,
        "latency_threshold": made.spec.latency.threshold if made.spec.latency else None,
        "environments": [
            {
                "model": each.key[0],
                "environment": each.environment.id,
                "backend": each.environment.backend,
                "device": each.environment.device,
                "precision": each.environment.precision,
                "threads": each.environment.threads,
                "allow": list(each.environment.allow),
                "options": dict(each.environment.options),
                "n_samples": each.subject.n_samples,
                "batch": each.subject.batch,
                "labelled": each.subject.labelled,
                "classes": each.subject.classes,
            }
            for each in made.deployments
        ],
        "cases": [
            {
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
                    for (name, case_id_), subject in made.shifted.items()
                    if case_id_ == case.id
                },
            }
            for case in made.cases
        ],
        "searches": [
            {"id": case.id, "scenario": case.name, "severity_name": case.severity_name}
            for case in made.searches
        ],
        "refusals": refusals,
    }
    store.write_json("plan.json", content)


def _write_campaigns(store: Store, strategy: FixedSweep) -> None:
    """The strata of every campaign: the tables weigh by them."""
    found = strategy.campaigns(read_state(store, strategy))
    if found:
        store.write_json("campaigns.json", {c: made.to_json() for c, (made, _) in found.items()})


def _workers(made: Plan) -> int:
    """As many workers as fit side by side with the asked threads."""
    threads = max(each.environment.threads for each in made.deployments)
    return max(1, fingerprint.cores() // threads)


def read_state(store: Store, strategy: FixedSweep) -> State:
    """What the stored rows (and the sites that clean workers listed) say about the work done."""
    outcomes: dict[tuple[str, str, str], str] = {}
    measured, soaked = set(), set()
    columns = ["kind", "model", "environment", "scenario", "severity_name", "severity", "batch"]
    for each in store.read("processes", [*columns, "use", "block", "outcome"]).to_pylist():
        if each["outcome"] == "interrupted":
            continue
        if each["kind"] in ("latency", "soak"):
            case = case_id(each["scenario"], each["severity_name"], each["severity"])
            place = (each["model"], each["environment"])
            if each["kind"] == "soak":
                soaked.add((*place, case))
                continue
            use = each["use"] or "singlestream"
            measured.add((*place, case, each["batch"], use, each["block"]))
        elif each["kind"] == "build" or each["scenario"] == "clean":
            kind = "build" if each["kind"] == "build" else "clean"
            outcomes[(kind, each["model"], each["environment"])] = each["outcome"]
    done: dict[str, set[tuple[int, int]]] = defaultdict(set)
    tallies: dict[str, dict[int, Tally]] = defaultdict(lambda: defaultdict(Tally))
    plan, size = strategy.plan, {each.key: each.subject for each in strategy.plan.deployments}
    sampled = {f"{'/'.join(key)}/{case.id}" for key in size for case in plan.cases if case.campaign}
    columns = ["cell", "model", "environment", "pattern", "batch", "n_samples", "n_sdc", "n_due"]
    for each in store.read("records", columns).to_pylist():
        trial = (each["pattern"], each["batch"])
        if each["cell"] in sampled and trial not in done[each["cell"]]:
            tally = tallies[each["cell"]][each["pattern"]]
            subject = size[each["model"], each["environment"]]
            left = subject.n_samples - each["batch"] * subject.batch
            tally.add(each["n_sdc"], each["n_due"], min(subject.batch, left))
        done[each["cell"]].add(trial)
    sites = {}
    for key in size:
        path = strategy.sites_path(key)
        if path is not None and path.exists():
            sites[key] = sitelist.read(path)
    known = {cell: dict(found) for cell, found in tallies.items()}
    probes = search.read(store.read("processes", list(search.COLUMNS)).to_pylist())
    return State(outcomes, dict(done), measured, sites, known, soaked, probes)


def _within_budget(store: Store, made: Plan, workers: int, spent_s: float) -> Plan:
    """The plan at counts that fit; the resolved spec replaces the asked one in the run folder."""
    assert made.spec.budget is not None
    asked = made.spec.budget
    found = budget.resolve(made, _costs(store, made), budget.seconds(asked) - spent_s, workers)
    run = store.read_json("run.json")
    run["budget"] = {
        "asked": asked,
        "share_of_patterns": found.share,
        "estimate_s": round(found.estimate_s, 1),
        "fits": found.fits,
    }
    store.write_json("run.json", run)
    _write_spec(store, found.spec)
    return replace(made, spec=found.spec, cases=tuple(expand(found.spec.scenarios)))


def _costs(store: Store, made: Plan) -> dict[Place, budget.Cost]:
    batches = {each.key: each.subject.n_batches for each in made.deployments}
    costs = {}
    columns = ["kind", "model", "environment", "scenario", "outcome", "wall_s", "load_ms", "run_ms"]
    for each in store.read("processes", columns).to_pylist():
        if (each["kind"], each["scenario"], each["outcome"]) == ("accuracy", "clean", "ok"):
            place = (each["model"], each["environment"])
            load, run = each["load_ms"] / 1e3, each["run_ms"] / 1e3
            # The clean pass runs every batch, and the first one again to see that it repeats.
            costs[place] = budget.Cost(
                each["wall_s"] - load - run, load, run / (batches[place] + 1)
            )
    return costs
