"""The next round follows from the rows alone: resume and any number of workers are one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from hwbench import strategy
from hwbench.backend import Emulation, Environment, ModelSource, TensorSpec
from hwbench.case import CLEAN
from hwbench.job import AccuracyWork, Job, LatencyWork, job_from
from hwbench.plan import Deployment, Plan, Subject
from hwbench.spec import Spec
from hwbench.spec.cases import expand
from hwbench.state import State
from hwbench.strategy import FixedSweep, Round
from hwbench.trials import Trials

N_SAMPLES, BATCH, N_BATCHES = 20, 8, 3
ENVIRONMENTS = (Environment("a"), Environment("b"))
SCENARIOS = [
    "clean",
    {"bitflip": {"rate": [0.1, 0.2]}, "patterns": 5},
    {"noise": {"snr_db": 3}, "patterns": 2, "latency": True},
]


def plan(tmp_path: Path, inputs=("float32",), fixed_batch=None, **changes) -> Plan:
    latency = {"processes": 2, "batch": [1, 4]}
    spec = Spec.model_validate({"scenarios": SCENARIOS, "latency": latency, **changes})
    tensors = tuple(TensorSpec(f"x{i}", (None, 4), each) for i, each in enumerate(inputs))
    source = ModelSource("net", tensors, onnx="net.onnx")
    subject = Subject(source, "digest", tmp_path, "data", N_SAMPLES, True, BATCH, fixed_batch)
    deployments = []
    for each in ENVIRONMENTS:
        (tmp_path / each.id).mkdir(exist_ok=True)
        deployments.append(Deployment(subject, each, tmp_path / each.id))
    return Plan(spec, tuple(expand(spec.scenarios)), tuple(deployments), ENVIRONMENTS[0].id)


def outcomes(**by_kind) -> dict[tuple[str, str, str], str]:
    """The same outcome of a kind in both environments."""
    return {
        (kind, "net", each.id): outcome
        for kind, outcome in by_kind.items()
        for each in ENVIRONMENTS
    }


def done_of(jobs: Iterable[Job]) -> dict[str, set[tuple[int, int]]]:
    """What the records say after these jobs."""
    done: dict[str, set[tuple[int, int]]] = {}
    for job in jobs:
        assert isinstance(job.work, AccuracyWork)
        for case, pattern, batch in job.work.trials:
            trials = done.setdefault(f"{job.model}/{job.environment.id}/{case}", set())
            assert (pattern, batch) not in trials, "one trial in two jobs"
            trials.add((pattern, batch))
    return done


def joined(*parts) -> dict[str, set[tuple[int, int]]]:
    cells = {cell for part in parts for cell in part}
    return {cell: set().union(*(part.get(cell, set()) for part in parts)) for cell in cells}


def clean_done() -> dict[str, set[tuple[int, int]]]:
    return {f"net/{each.id}/clean": {(0, i) for i in range(N_BATCHES)} for each in ENVIRONMENTS}


def state_of(results=(), done=(), measured=()) -> State:
    """A state from sets of pairs."""
    trials = {cell: Trials.of(pairs, N_BATCHES) for cell, pairs in dict(done).items()}
    return State(dict(results), trials, set(measured))


def asked(made: Plan, state: State, workers: int = 1) -> Round:
    found = FixedSweep(made, Path("golden"), workers).next_round(state)
    assert found is not None
    return replace(found, jobs=tuple(found.jobs))


def test_rounds_come_in_order_and_end(tmp_path):
    made = plan(tmp_path)
    sweep = FixedSweep(made, tmp_path / "golden", 2)
    state, done, titles = State(), {}, []
    while (found := sweep.next_round(state)) is not None:
        titles.append(found.title)
        assert len(titles) < 10
        results, measured = dict(state.outcomes), set(state.measured)
        for job in found.jobs:
            if isinstance(job.work, AccuracyWork):
                done = joined(done, done_of((job,)))
                if job.work.parts[0].case == CLEAN:
                    results["clean", job.model, job.environment.id] = "ok"
            elif isinstance(job.work, LatencyWork):
                measured.add(identity(job))
            else:
                results["build", job.model, job.environment.id] = "ok"
        state = state_of(results, done, measured)
    assert titles == ["building", "baseline", "clean", "faults and noise", "latency"]
    trials = {cell: len(found) for cell, found in state.done.items()}
    expected = {
        "clean": 3,
        "bitflip-weights@rate=0.1": 15,
        "bitflip-weights@rate=0.2": 15,
        "noise-inputs@snr_db=3": 6,
    }
    assert trials == {f"net/{e.id}/{case}": n for e in ENVIRONMENTS for case, n in expected.items()}


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 64])
def test_the_trials_do_not_depend_on_the_number_of_workers(tmp_path, workers):
    made = plan(tmp_path)
    state = state_of(outcomes(build="ok", clean="ok"), clean_done())
    one, many = asked(made, state), asked(made, state, workers)
    assert done_of(many.jobs) == done_of(one.jobs)
    assert len(many.jobs) <= 2 * workers + len(ENVIRONMENTS)
    for job in many.jobs:
        assert isinstance(job.work, AccuracyWork)
        for part in job.work.parts:
            whole = Counter(pattern for pattern, _ in part.trials)
            assert set(whole.values()) == {N_BATCHES}, "a pattern is loaded by one worker"


def test_many_cases_are_cut_into_jobs_that_a_worker_can_hold(tmp_path, monkeypatch):
    made = plan(tmp_path)
    state = state_of(outcomes(build="ok", clean="ok"), clean_done())
    whole = asked(made, state)
    monkeypatch.setattr(strategy, "MOST_CASES", 2)
    cut = asked(made, state)
    assert done_of(cut.jobs) == done_of(whole.jobs) and cut.steps == whole.steps
    assert max(len(job.work.parts) for job in cut.jobs) == 2


def test_what_an_emulated_board_refuses_its_native_twin_still_runs(tmp_path):
    made = plan(tmp_path, scenarios=["clean", {"cpu": {"quota": 0.5}}, {"bitflip": {"rate": 0.1}}])
    known = replace(ENVIRONMENTS[0], backend="onnxruntime")
    native = replace(made.deployments[0], environment=known)
    board = Emulation("aarch64", "cortex-a72", str(tmp_path))
    emulated = replace(native, environment=replace(native.environment, emulation=board))
    for order in ((native, emulated), (emulated, native)):
        fresh = replace(made, deployments=order, elsewhere=True)
        names = {each is native: [c.name for c in fresh.perturbed(each)] for each in order}
        assert names == {True: ["cpu-quota", "bitflip-weights"], False: ["bitflip-weights"]}


def test_what_is_done_is_skipped(tmp_path):
    made = plan(tmp_path)
    state = state_of(outcomes(build="ok", clean="ok"), clean_done())
    everything = done_of(asked(made, state, 2).jobs)
    cell = f"net/{ENVIRONMENTS[1].id}/bitflip-weights@rate=0.2"
    before = {cell: {(0, 0), (0, 1), (0, 2), (3, 1)}}
    left = done_of(asked(made, state_of(state.outcomes, joined(clean_done(), before)), 2).jobs)
    assert joined(left, before) == everything
    assert not left[cell] & before[cell]


def test_a_clean_run_that_was_cut_goes_on(tmp_path):
    done = {f"net/{ENVIRONMENTS[0].id}/clean": {(0, 1)}}
    found = asked(plan(tmp_path), state_of(outcomes(build="ok"), done))
    assert found.title == "baseline"
    (job,) = found.jobs
    assert isinstance(job.work, AccuracyWork)
    assert job.work.trials == [("clean", 0, 0), ("clean", 0, 2)]


def test_a_clean_run_that_never_said_what_ran_runs_again(tmp_path):
    """Stopped between its last record and its end; no record is told twice."""
    found = asked(plan(tmp_path), state_of(outcomes(build="ok"), clean_done()))
    assert found.title == "baseline"
    (job,) = found.jobs
    assert isinstance(job.work, AccuracyWork)
    assert (job.work.trials, job.without(set()).work) == ([], job.work)


@pytest.mark.parametrize("outcome", ["crash", "error", "unsupported", "invalid", "timeout", "oom"])
def test_what_failed_is_not_asked_again(tmp_path, outcome):
    failed = ("clean", "net", ENVIRONMENTS[1].id)
    state = state_of({**outcomes(build="ok", clean="ok"), failed: outcome}, clean_done())
    found = asked(plan(tmp_path), state, 2)
    assert {job.environment.id for job in found.jobs} == {ENVIRONMENTS[0].id}
    unbuilt = State(outcomes(build=outcome))
    assert FixedSweep(plan(tmp_path), tmp_path).next_round(unbuilt) is None


def test_an_artifact_that_is_gone_is_built_again(tmp_path):
    made = plan(tmp_path)
    made.deployments[0].artifact.rmdir()
    found = asked(made, state_of(outcomes(build="ok", clean="ok"), clean_done()))
    assert found.title == "building"
    assert [job.environment.id for job in found.jobs] == [ENVIRONMENTS[0].id]


def test_a_scenario_that_means_nothing_to_the_inputs_is_left_out(tmp_path):
    made = plan(tmp_path, inputs=("int64",), scenarios=[{"noise": {"snr_db": 3}}], latency=False)
    state = state_of(outcomes(build="ok", clean="ok"), clean_done())
    assert FixedSweep(made, tmp_path).next_round(state) is None
    assert "real-valued" in made.refusal(made.deployments[0], made.cases[1])


# Latency.


def latency_state(made: Plan, measured=()) -> State:
    done = done_of(asked(made, state_of(outcomes(build="ok", clean="ok"), clean_done())).jobs)
    return state_of(outcomes(build="ok", clean="ok"), joined(clean_done(), done), measured)


def arms(jobs) -> list[tuple[str, str, int]]:
    return [(job.environment.id, job.work.case.id, job.work.batch) for job in jobs]


def identity(job: Job) -> tuple[str, str, str, int, str, int]:
    work = job.work
    assert isinstance(work, LatencyWork)
    return (job.model, job.environment.id, work.case.id, work.batch, work.use, work.block)


def test_every_arm_runs_once_in_every_block(tmp_path):
    made = plan(tmp_path)
    found = asked(made, latency_state(made), workers=2)
    assert found.title == "latency" and found.exclusive
    by_block: dict[int, list[Job]] = {0: [], 1: []}
    for job in found.jobs:
        assert isinstance(job.work, LatencyWork)
        by_block[job.work.block].append(job)
    everything = {
        (e.id, case, n)
        for e in ENVIRONMENTS
        for case in ("clean", "noise-inputs@snr_db=3")
        for n in (1, 4)
    }
    for jobs in by_block.values():
        assert set(arms(jobs)) == everything and len(jobs) == len(everything)
        assert [job.work.position for job in jobs] == list(range(len(jobs)))
    assert arms(by_block[0]) != arms(by_block[1]), "the order is drawn for every block"


def test_an_incomplete_block_runs_again_whole_and_in_its_order(tmp_path):
    made = plan(tmp_path)
    jobs = asked(made, latency_state(made)).jobs
    first = [job for job in jobs if isinstance(job.work, LatencyWork) and job.work.block == 0]
    measured = [identity(job) for job in jobs if job is not first[3]]
    again = asked(made, latency_state(made, measured))
    assert [job.id for job in again.jobs] == [job.id for job in first]
    everything = [identity(job) for job in jobs]
    assert FixedSweep(made, tmp_path).next_round(latency_state(made, everything)) is None


def test_a_fixed_batch_is_the_only_batch(tmp_path):
    made = plan(tmp_path, fixed_batch=BATCH)
    assert {batch for _, _, batch in arms(asked(made, latency_state(made)).jobs)} == {BATCH}


def test_jobs_survive_json(tmp_path):
    import json

    made = plan(tmp_path)
    states = [State(), State(outcomes(build="ok")), latency_state(made)]
    states.append(state_of(outcomes(build="ok", clean="ok"), clean_done()))
    ids = set()
    for state in states:
        for job in asked(made, state, 2).jobs:
            again = job_from(json.loads(json.dumps(job.to_json())))
            assert again == job and again.id == job.id
            ids.add(job.id)
    assert len(ids) == sum(len(asked(made, state, 2).jobs) for state in states)
