"""Sweeps end to end with a backend that fails on request: nothing that happens is lost."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from rich.console import Console

from hwbench import engine
from hwbench.case import CLEAN
from hwbench.collect import collect, write
from hwbench.dataset import Dataset
from hwbench.engine import Options, Silent
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.execute.classify import classify
from hwbench.execute.launch import run_worker
from hwbench.execute.supervise import supervise
from hwbench.job import AccuracyWork
from hwbench.report.document.attention import attention
from hwbench.report.terminal import summary
from hwbench.spec.cases import expand
from hwbench.state import State
from hwbench.store import Store
from hwbench.strategy import FixedSweep
from hwbench.worker import golden, perturb

from .conftest import BATCH, SAMPLES, Rig, write_data, write_model

MAX_ROUNDS = 12
N_BATCHES = -(-SAMPLES // BATCH)
TRIALS = N_BATCHES * (1 + 2 * 2 + 3)  # clean, two severities of two patterns, one of three


class Bounded(Silent):
    """Refuses to go round in circles."""

    def __init__(self, after: Callable[[str, int], None] = lambda title, steps: None) -> None:
        self.rounds: list[str] = []
        self.steps = 0
        self._after = after

    def begin(self, title: str, total: int) -> None:
        self.rounds.append(title)
        assert len(self.rounds) <= MAX_ROUNDS, f"the sweep does not end: {self.rounds}"

    def advance(self, steps: int) -> None:
        self.steps += steps
        self._after(self.rounds[-1], self.steps)


def run(
    rig: Rig,
    folder: str,
    progress: Silent | None = None,
    stop: Stop | None = None,
    **changes: Any,
) -> Store:
    options = Options(output=rig.folder / folder, workers=2)
    return engine.start(
        rig.spec(**changes), options, progress or Bounded(), Stop() if stop is None else stop
    )


def records(store: Store) -> list[dict[str, Any]]:
    """Every record, in an order that does not depend on who wrote it when."""
    rows = store.read("records").to_pylist()
    return sorted(rows, key=lambda row: (row["cell"], row["pattern"], row["batch"]))


def processes(store: Store, **wanted: Any) -> list[dict[str, Any]]:
    rows = store.read("processes").to_pylist()
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def noisy_batch(rig: Rig, pattern: int, batch: int) -> str:
    """What the fake sees of one trial of the noise at 10 dB."""
    from .fakes.hwbench_fake import digest

    spec = rig.spec()
    made = engine._plan(spec, rig.folder, Options())
    case = next(each for each in made.cases if each.id == "noise-inputs@snr_db=10")
    rows = Dataset.open(made.deployments[0].subject.dataset).batch(batch, BATCH)
    return str(digest(perturb.perturb_inputs(case, rows, spec.seed, pattern).feeds["x"]))


def faulty_weights(rig: Rig, pattern: int) -> str:
    """What the fake loads in one pattern of flips."""
    import onnx
    from onnx import numpy_helper

    from hwbench import edits

    from .fakes.hwbench_fake import digest

    held = onnx.load(str(rig.model)).graph.initializer
    stored = {each.name: np.array(numpy_helper.to_array(each)) for each in held}
    case = expand(rig.spec().scenarios)[-1]
    sites = [site_of(name, stored[name]) for name in ("weight", "bias")]
    which = perturb.Which(rig.spec().seed, pattern)
    drawn, _ = perturb.draw(case, 0, perturb.chosen(case, 0, sites), which)
    assert len(drawn)
    return str(digest(edits.apply(stored["weight"], drawn)))


def site_of(name: str, tensor: Any) -> Any:
    from hwbench.backend import Site

    return Site(name, name, "float32", tensor.shape)  # type: ignore[arg-type]


def environment(**options: Any) -> dict[str, Any]:
    return {"backend": "fake", "options": options, "label": options.get("die", "")}


# A sweep that nothing befalls.


def test_a_sweep_is_complete(rig):
    environments = [{"backend": "fake"}, {"backend": "fake", "threads": 2}]
    latency = {"processes": 2, "min_duration_s": 0.01, "min_count": 3, "warmup_s": 0}
    store = run(rig, "run", environments=environments, latency=latency)
    rows = records(store)
    assert len(rows) == 2 * TRIALS
    assert {row["outcome"] for row in rows} == {"ok"}
    for row in rows:
        assert row["n_samples"] == (4 if row["batch"] == N_BATCHES - 1 else BATCH)
        outcomes = ("n_masked", "n_benign", "n_sdc", "n_due")
        assert sum(row[name] for name in outcomes) == row["n_samples"]
        if row["scenario"] == "clean":
            assert row["n_masked"] == row["n_samples"]
    measured = store.read("latency").to_pylist()
    assert len(measured) == 4 and all(len(row["latencies_ns"]) >= 3 for row in measured)
    assert store.read_json("plan.json")["complete"] is True


def test_the_tables_are_whole(rig):
    store = run(
        rig, "run", environments=[{"backend": "fake"}, {"backend": "fake", "precision": "int8"}]
    )
    tables = write(store)
    assert tables["cells"].groupby("environment").size().to_dict() == {
        "fake-cpu-fp32-t1": 4,
        "fake-cpu-int8-t1": 4,
    }
    good = tables["cells"][tables["cells"]["environment"] == "fake-cpu-fp32-t1"]
    assert set(good["status"]) == {"ok"}
    gaps = tables["cells"][tables["cells"]["environment"] == "fake-cpu-int8-t1"]
    assert set(gaps["status"]) == {"unsupported"}
    assert set(gaps["note"]) == {"the fake computes in fp32 only"}
    for name in tables:
        assert (store.folder / "tables" / f"{name}.csv").stat().st_size
    shown = io.StringIO()
    run_ = store.read_json("run.json")
    Console(file=shown, width=160).print(
        summary(tables, run_, "fake-cpu-fp32-t1", ["agreement_golden"])
    )
    assert "unsupported" in shown.getvalue() and "nan" not in shown.getvalue()
    assert attention(tables, run_) == [
        "linear/fake-cpu-int8-t1 is unsupported: the fake computes in fp32 only"
    ]


def test_clean_accuracy_is_the_models(rig):
    import onnx
    from onnx.reference import ReferenceEvaluator

    tables = collect(run(rig, "run", scenarios=["clean"]))
    with np.load(rig.data) as data:
        logits = ReferenceEvaluator(onnx.load(str(rig.model))).run(None, {"x": data["x"]})[0]
        expected = float((logits.argmax(1) == data["y"]).mean())
    assert tables["drift"]["accuracy"].tolist() == [pytest.approx(expected)]
    assert tables["drift"]["drift"].tolist() == [0.0]


def test_the_same_seed_gives_the_same_records(rig):
    first = run(rig, "first", scenarios=[{"noise": {"snr_db": 0}, "patterns": 2}])
    again = engine.start(
        rig.spec(scenarios=[{"noise": {"snr_db": 0}, "patterns": 2}]),
        Options(output=rig.folder / "again", workers=1, cache=rig.folder / "other"),
        Bounded(),
        Stop(),
    )
    other = run(rig, "other", scenarios=[{"noise": {"snr_db": 0}, "patterns": 2}], seed=1)
    assert records(first) == records(again)
    assert {row["edits_hash"] for row in records(first)} - {None} != {
        row["edits_hash"] for row in records(other)
    } - {None}


def test_environments_that_share_an_artifact_build_it_side_by_side(rig):
    slow = {"backend": "fake", "threads": [1, 2, 3], "options": {"die": "slow", "at": "build"}}
    options = Options(output=rig.folder / "run", workers=3)
    store = engine.start(
        rig.spec(environments=[slow], scenarios=["clean"]), options, Bounded(), Stop()
    )
    assert Counter(row["outcome"] for row in processes(store, kind="build")).keys() == {"ok"}


# Deaths.


def test_every_death_is_one_record(rig):
    """In one trial each; the trials around it are as if nothing had happened."""
    struck = noisy_batch(rig, pattern=1, batch=1)
    deaths = {
        "segv": "crash",
        "abort": "crash",
        "exit": "error",
        "quiet": "error",
        "raise": "error",
        "memory": "oom",
        "hang": "timeout",
    }
    environments = [environment(die=how, on=struck) for how in deaths]
    store = run(rig, "run", environments=[{"backend": "fake"}, *environments], deadline_s=4)
    rows = records(store)
    healthy = [row for row in rows if row["environment"] == "fake-cpu-fp32-t1"]
    assert len(healthy) == TRIALS and {row["outcome"] for row in healthy} == {"ok"}
    own = ("environment", "cell")
    for how, outcome in deaths.items():
        mine = [row for row in rows if row["environment"] == f"fake-cpu-fp32-t1-{how}"]
        assert len(mine) == TRIALS
        (lost,) = [row for row in mine if row["outcome"] != "ok"]
        assert (lost["outcome"], lost["pattern"], lost["batch"]) == (outcome, 1, 1), how
        assert lost["scenario"] == "noise-inputs" and lost["severity"] == 10
        assert lost["message"] and "\n" not in lost["message"]
        assert lost["n_samples"] is None
        for row, twin in zip(mine, healthy, strict=True):
            if row is not lost:
                assert {k: v for k, v in row.items() if k not in own} == {
                    k: v for k, v in twin.items() if k not in own
                }
    crashed = processes(store, environment="fake-cpu-fp32-t1-segv", outcome="crash")
    assert [row["signal"] for row in crashed] == [signal.SIGSEGV]
    exited = processes(store, environment="fake-cpu-fp32-t1-exit", outcome="error")
    assert [row["exit_status"] for row in exited] == [3]


def test_a_lost_trial_counts_as_wrong(rig):
    struck = noisy_batch(rig, pattern=1, batch=1)
    store = run(rig, "run", environments=[environment(die="segv", on=struck)])
    tables = collect(store)
    (cell,) = (
        tables["cells"].query("scenario == 'noise-inputs' and severity == 10").to_dict("records")
    )
    assert (cell["status"], cell["trials_failed"], cell["failures"]) == ("ok", 1, "crash: 1")
    (drift,) = (
        tables["drift"].query("scenario == 'noise-inputs' and severity == 10").to_dict("records")
    )
    right = sum(
        int(np.unpackbits(np.frombuffer(row["correct"], np.uint8), count=row["n_samples"]).sum())
        for row in records(store)
        if row["scenario"] == "noise-inputs" and row["severity"] == 10 and row["correct"]
    )
    assert drift["accuracy"] == pytest.approx(right / (2 * SAMPLES))
    assert any("1 of 6 trials failed (crash: 1)" in note for note in attention(tables, {}))


def test_a_pattern_that_kills_the_load_is_charged_whole(rig):
    """Its artifact cannot be opened: every batch of that pattern, and nothing else."""
    struck = faulty_weights(rig, pattern=1)
    store = run(rig, "run", environments=[environment(die="segv", at="load", on=struck)])
    lost = [row for row in records(store) if row["outcome"] != "ok"]
    assert {(row["scenario"], row["pattern"], row["outcome"]) for row in lost} == {
        ("bitflip-weights", 1, "crash")
    }
    assert [row["batch"] for row in lost] == list(range(N_BATCHES))
    assert len(records(store)) == TRIALS


def test_three_crashes_while_loading_close_the_cell(rig):
    store = run(rig, "run", environments=[environment(die="segv", at="load")])
    assert len(processes(store, kind="accuracy", outcome="crash")) == 3
    assert {(row["scenario"], row["outcome"]) for row in records(store)} == {("clean", "crash")}
    assert len(records(store)) == N_BATCHES
    assert set(collect(store)["cells"]["status"]) == {"crash"}


def test_a_failed_build_closes_the_environment(rig):
    environments = [{"backend": "fake"}, environment(die="abort", at="build")]
    store = run(rig, "run", environments=environments, scenarios=["clean"])
    cells = collect(store)["cells"].set_index("environment")
    assert cells["status"].to_dict() == {
        "fake-cpu-fp32-t1": "ok",
        "fake-cpu-fp32-t1-abort": "crash",
    }


@pytest.mark.parametrize("at", ["load", "run"])
def test_an_environment_that_is_unsupported_when_opened_is_a_result(rig, at):
    store = run(rig, "run", environments=[environment(die="unsupported", at=at)])
    cells = collect(store)["cells"]
    assert set(cells["status"]) == {"unsupported"}
    assert set(cells["note"]) == {"this operator is not to be had here"}


def test_a_cell_that_is_unsupported_is_a_result(rig):
    scenarios = [
        {"bitflip": {"rate": 0.01}, "residence": "live"},
        {"noise": {"snr_db": 0}},
    ]
    cells = collect(run(rig, "run", scenarios=scenarios))["cells"].set_index("scenario")
    assert cells["status"].to_dict() == {
        "clean": "ok",
        "bitflip-weights-live": "unsupported",
        "noise-inputs": "ok",
    }
    assert "live" in cells["note"]["bitflip-weights-live"]


# Asked and actual.


def test_a_lie_is_invalid_unless_allowed(rig):
    environments = [
        {"backend": "fake", "options": {"lie": "bf16"}, "label": "lie"},
        {"backend": "fake", "options": {"lie": "bf16"}, "label": "ok", "allow": "fp32-as-bf16"},
        {"backend": "fake", "options": {"lie": "threads"}, "label": "threads"},
        {"backend": "fake", "options": {"lie": "device"}, "label": "device"},
    ]
    latency = {"processes": 1, "min_duration_s": 0.01, "min_count": 3, "warmup_s": 0}
    store = run(rig, "run", environments=environments, latency=latency)
    tables = collect(store)
    status = tables["cells"].groupby("environment")["status"].unique().map(list).to_dict()
    assert status == {
        "fake-cpu-fp32-t1-lie": ["invalid"],
        "fake-cpu-fp32-t1-ok": ["ok"],
        "fake-cpu-fp32-t1-threads": ["invalid"],
        "fake-cpu-fp32-t1-device": ["invalid"],
    }
    shown = tables["environments"].set_index("environment")
    assert shown["actual_precision"]["fake-cpu-fp32-t1-lie"] == "bf16"
    assert "fp32-as-bf16" in shown["deviation"]["fake-cpu-fp32-t1-lie"]
    assert set(tables["latency"]["environment"]) == {"fake-cpu-fp32-t1-ok"}
    assert set(tables["drift"].query("status == 'invalid'")["accuracy"].isna()) == {True}


def test_a_process_that_deviates_later_makes_its_cells_invalid(rig):
    later = rig.folder / "later"

    class Turning(Bounded):
        def begin(self, title: str, total: int) -> None:
            super().begin(title, total)
            if title == "faults and noise":
                later.touch()

    lie = {"lie": "threads", "lie_once_there_is": str(later)}
    store = run(rig, "run", Turning(), environments=[{"backend": "fake", "options": lie}])
    cells = collect(store)["cells"].set_index("scenario")
    assert set(cells.loc[["noise-inputs", "bitflip-weights"], "status"]) == {"invalid"}
    assert set(cells["note"]) == {"asked 1 threads, ran with 2"}


@pytest.mark.parametrize("by", ["process", "call"])
def test_outputs_that_do_not_repeat_are_invalid(rig, by):
    """Golden of one process means nothing in another that computes otherwise."""
    store = run(rig, "run", environments=[{"backend": "fake", "options": {"flaky": by}}])
    cells = collect(store)["cells"].set_index("scenario")
    assert set(cells.loc[["noise-inputs", "bitflip-weights"], "status"]) == {"invalid"}
    assert set(cells.loc[["noise-inputs", "bitflip-weights"], "note"]) == {
        "the process does not repeat golden's bytes"
    }


# Deaths from outside, and stopping.


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)
    return int(path.read_text())


def test_a_killed_worker_is_replaced_and_leaves_no_trace_in_the_records(rig):
    marker = rig.folder / "struck"
    struck = noisy_batch(rig, pattern=1, batch=1)
    hang = environment(die="hang", on=struck, once=str(marker))
    undisturbed_options = {**hang, "options": {}}
    undisturbed = run(rig, "undisturbed", environments=[undisturbed_options])
    killer = threading.Thread(target=lambda: os.kill(wait_for(marker), signal.SIGKILL))
    killer.start()
    disturbed = run(rig, "disturbed", environments=[hang])
    killer.join()
    assert records(disturbed) == records(undisturbed)
    (killed,) = processes(disturbed, outcome="interrupted")
    assert killed["signal"] == signal.SIGKILL


def test_a_worker_that_is_always_killed_does_not_go_on_for_ever(rig):
    made = engine._plan(rig.spec(), rig.folder, Options())
    rows: list[dict[str, Any]] = []

    class Rows:
        def append(self, part: str, new: list[dict[str, Any]]) -> None:
            rows.extend(new if part == "processes" else [])

    first = FixedSweep(made, rig.folder).next_round(State())
    assert first is not None
    (job,) = first.jobs

    def kill_children(stopped: threading.Event) -> None:
        while not stopped.is_set():
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):  # gone between two of these calls
                    if "hwbench.worker" in " ".join(child.cmdline() or []):
                        child.kill()
            time.sleep(0.01)

    stopped = threading.Event()
    killer = threading.Thread(target=kill_children, args=[stopped])
    killer.start()
    try:
        assert supervise(job, Rows(), Stop(), lambda steps: None) == "crash"
    finally:
        stopped.set()
        killer.join()
    assert [row["outcome"] for row in rows] == ["interrupted", "interrupted", "crash"]


@pytest.mark.parametrize(("title", "steps"), [("baseline", 2), ("faults and noise", 9)])
def test_a_stopped_sweep_resumes_to_the_same_records(rig, title, steps):
    whole = run(rig, "whole")
    stop = Stop()

    def after(now: str, done: int) -> None:
        if now == title and done >= steps and not stop:
            stop.request()

    stopped = run(rig, "stopped", Bounded(after), stop)
    assert stopped.read_json("plan.json")["complete"] is False
    assert len(records(stopped)) < TRIALS
    assert "open" in set(collect(stopped)["cells"]["status"])
    resumed = engine.resume(stopped.folder, Options(workers=1), Bounded(), Stop())
    assert records(resumed) == records(whole)
    assert resumed.read_json("plan.json")["complete"] is True
    assert set(collect(resumed)["cells"]["status"]) == {"ok"}


def test_a_clean_run_that_was_cut_at_its_end_says_what_ran(rig, monkeypatch):
    """Every record is there, but not yet the process's own account."""
    stop = Stop()

    def cut(ended: Any, deadline_s: float) -> Any:
        stop.request()
        ended.killed, ended.values = "stop", {}
        return classify(ended, deadline_s)

    with monkeypatch.context() as patched:

        def after(title: str, steps: int) -> None:
            if title == "baseline":
                patched.setattr("hwbench.execute.supervise.classify", cut)

        stopped = run(rig, "run", Bounded(after), stop)
    assert len(records(stopped)) == N_BATCHES
    resumed = engine.resume(stopped.folder, Options(), Bounded(), Stop())
    tables = collect(resumed)
    assert set(tables["cells"]["status"]) == {"ok"}
    assert tables["environments"]["actual_precision"].tolist() == ["fp32"]
    assert len(records(resumed)) == TRIALS


def test_a_second_request_kills_a_silent_worker(rig):
    marker = rig.folder / "struck"
    stop = Stop()

    def twice() -> None:
        wait_for(marker)
        stop.request()
        stop.request()

    asker = threading.Thread(target=twice)
    asker.start()
    hang = environment(die="hang", on=noisy_batch(rig, 0, 0), once=str(marker))
    store = run(rig, "run", stop=stop, environments=[hang])
    asker.join()
    stopped = processes(store, outcome="interrupted")
    assert {row["message"] for row in stopped} == {"the sweep was stopped"}
    assert not psutil.pid_exists(int(marker.read_text()))
    assert {row["outcome"] for row in records(store)} == {"ok"}


def test_no_worker_outlives_a_killed_sweep(rig):
    marker = rig.folder / "struck"
    hang = environment(die="hang", at="load", once=str(marker))
    content = rig.spec(environments=[hang]).model_dump(mode="json", exclude_none=True)
    (rig.folder / "spec.yaml").write_text(yaml.safe_dump({**content, "latency": False}))
    script = (
        "import sys; from pathlib import Path; from hwbench import engine, spec; "
        "from hwbench.execute import Stop; "
        "options = engine.Options(output=Path('run')); "
        "engine.start(spec.load(Path('spec.yaml')), options, engine.Silent(), Stop())"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=rig.folder)
    worker = wait_for(marker)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(worker)
    resumed = engine.resume(rig.folder / "run", Options(), Bounded(), Stop())
    assert set(collect(resumed)["cells"]["status"]) == {"ok"}


def test_golden_is_whole_though_the_clean_run_was_cut(rig):
    """A worker that goes on behind a death knows the outputs of every batch."""
    made = engine._plan(rig.spec(), rig.folder, Options())
    store = Store.create(rig.folder / "run")
    planned = FixedSweep(made, store.folder / "golden")
    build = planned.next_round(State())
    assert build is not None
    (building,) = build.jobs
    supervise(building, store, Stop(), lambda steps: None)
    place = made.deployments[0].key
    clean = planned.next_round(State(outcomes={("build", *place): "ok"}))
    assert clean is not None
    (cleaning,) = clean.jobs
    job = cleaning.without({(CLEAN.id, 0, 0), (CLEAN.id, 0, 1)})
    assert isinstance(job.work, AccuracyWork) and len(job.work.trials) == 1
    ended = run_worker(job, lambda event: None, Stop())
    assert (ended.status, ended.phase) == (0, "done")
    assert len(golden.read(planned.golden_path(place))["logits"]) == SAMPLES


def test_a_block_of_latency_that_was_cut_runs_again_whole(rig):
    stop = Stop()

    def after(title: str, done: int) -> None:
        if title == "latency":
            stop.request()

    latency = {"processes": 2, "min_duration_s": 0.01, "min_count": 3, "warmup_s": 0}
    environments = [{"backend": "fake", "label": name} for name in ("a", "b")]
    stopped = run(
        rig,
        "run",
        Bounded(after),
        stop,
        latency=latency,
        environments=environments,
        scenarios=["clean"],
    )
    assert [row["block"] for row in processes(stopped, kind="latency")] == [0]
    resumed = engine.resume(stopped.folder, Options(), Bounded(), Stop())
    blocks = [(row["block"], row["outcome"]) for row in processes(resumed, kind="latency")]
    assert blocks == [(0, "ok")] * 3 + [(1, "ok")] * 2
    assert collect(resumed)["latency"]["processes"].tolist() == [2, 2]


def test_a_budget_gives_fewer_patterns_and_says_so(rig):
    scenarios = [{"noise": {"snr_db": 0}, "patterns": 100_000}]
    store = run(rig, "run", scenarios=scenarios, budget="5s")
    told = store.read_json("run.json")["budget"]
    # On a machine that is busy enough the budget is spent before: then the smallest counts run.
    assert told["asked"] == "5s" and 0 <= told["share_of_patterns"] < 1
    (entry,) = yaml.safe_load((store.folder / "spec.yaml").read_text())["scenarios"]
    assert entry["patterns"] == max(1, int(100_000 * told["share_of_patterns"]))
    cells = collect(store)["cells"].set_index("scenario")
    assert cells["patterns"]["noise-inputs"] == entry["patterns"]
    assert cells["status"]["noise-inputs"] == "ok"


# Refusals.


@pytest.mark.parametrize(("what", "change"), [("model", write_model), ("data", write_data)])
def test_a_changed_input_is_refused_on_resume(rig, what, change):
    store = run(rig, "run", scenarios=["clean"])
    change(getattr(rig, what), seed=9)
    with pytest.raises(RequestError, match=f"the {what} of 'linear' has changed"):
        engine.resume(store.folder, Options(), Silent(), Stop())


def test_two_sweeps_in_one_folder_are_refused(rig):
    store = run(rig, "run", scenarios=["clean"])
    with pytest.raises(RequestError, match="holds a run already"):
        run(rig, "run", scenarios=["clean"])
    store.lock()
    try:
        with pytest.raises(RequestError, match="another sweep writes here"):
            engine.resume(store.folder, Options(), Silent(), Stop())
    finally:
        store.unlock()
    engine.resume(store.folder, Options(), Silent(), Stop())


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RequestError, match="holds no run"):
        engine.resume(tmp_path, Options(), Silent(), Stop())


def test_environments_of_one_name_are_refused(rig):
    """Else one of them would vanish in silence."""
    environments = [
        {"backend": "fake", "options": {"flaky": "call"}},
        {"backend": "fake", "options": {}},
    ]
    with pytest.raises(RequestError, match="label"):
        run(rig, "run", environments=environments)
