"""Conditions: enforced from outside, recorded, taken back; and what the worker did under them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from hwbench.case import CLEAN
from hwbench.collect import collect
from hwbench.doctor import _conditions
from hwbench.errors import RequestError, Unsupported
from hwbench.execute.classify import classify
from hwbench.execute.launch import Ended, Stall
from hwbench.job import case_from, case_to_json
from hwbench.registry import backend
from hwbench.spec.cases import expand
from hwbench_scenarios import cgroup, memory
from hwbench_scenarios.cpu import Cpu
from hwbench_scenarios.memory import Memory

from .conftest import BATCH, SAMPLES
from .test_execute import environment, processes, records, run, wait_for

N_BATCHES = -(-SAMPLES // BATCH)


def needs(controller: str, *files: str) -> Any:
    found = cgroup.capability(controller, *files)
    return pytest.mark.skipif(found.status != "supported", reason=found.reason)


needs_memory = needs("memory", *memory.FILES)
needs_quota = needs("cpu", "cpu.max", "cpu.cfs_quota_us")


def conditioned(store, **wanted) -> list[dict[str, Any]]:
    return [row for row in processes(store, **wanted) if row["conditions"]]


def groups() -> list[Path]:
    """Groups of this process that are left anywhere."""
    return list(Path("/sys/fs/cgroup").rglob(f"hwbench-{os.getpid()}-*"))


# What a spec says.


def test_cases_have_units_and_are_timed_by_default():
    entries = [{"memory": {"limit": ["1GiB", "512MiB"]}}, {"noise": {"snr_db": 10}}]
    entries += [[{"cpu": {"quota": 0.5}}, {"noise": {"snr_db": 10}}]]
    found = {case.id: case for case in expand(entries)}
    assert list(found)[1:3] == ["memory@limit_mib=1024", "memory@limit_mib=512"]
    timed = {name for name, case in found.items() if case.latency}
    assert timed == {CLEAN.id, "memory@limit_mib=1024", "memory@limit_mib=512"}
    for case in found.values():
        assert case_from(json.loads(json.dumps(case_to_json(case)))) == case


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"memory": {"limit": "512"}}, "size with a unit"),
        ({"memory": {"limit": "0MiB"}}, "size with a unit"),
        ({"memory": {"limit": 512}}, "valid string"),
        ({"cpu": {}}, "exactly one of quota, cores"),
        ({"cpu": {"quota": 0}}, "from 0.01"),
        ({"contention": {"workers": -1}}, "from 0"),
        ({"isa": {"ceiling": "mmx"}}, "'skylake-server' or 'epyc'"),
    ],
)
def test_what_means_nothing_is_refused(entry, told):
    with pytest.raises(RequestError, match=told):
        expand([entry])


def test_what_this_machine_cannot_do_has_a_reason():
    assert "only" in Cpu(cores=1_000_000).check().reason
    assert {"memory", "cpu", "contention", "isa"} <= set(_conditions())


# Deaths under a limit.


@needs_memory
def test_an_oom_kill_in_a_group_is_one(rig):
    store = run(
        rig,
        "run",
        environments=[environment(die="allocate")],
        scenarios=[{"memory": {"limit": ["2GiB", "128MiB"], "by": "cgroup"}}],
    )
    table = collect(store)["cells"].set_index("severity")
    assert table.loc[2048, "status"] == "ok"
    assert table.loc[128, "status"] == "oom"
    assert table.loc[128, "trials_failed"] == N_BATCHES
    (killed,) = conditioned(store, outcome="oom")  # one process tells for all batches
    assert killed["signal"] == signal.SIGKILL and killed["phase"] == "run"
    assert killed["oom_kills"] >= 1 and killed["memory_limit_mib"] == 128
    assert killed["group_peak_mib"] == pytest.approx(128, abs=1)
    assert "cgroup" in killed["mechanism"] and killed["mechanism"] in killed["message"]
    (lived,) = conditioned(store, outcome="ok")
    assert lived["oom_kills"] == 0
    assert groups() == []


@pytest.mark.parametrize("by", ["watchdog", "address-space"])
def test_a_refused_allocation_is_out_of_memory(rig, by):
    scenario = {"memory": {"limit": "256MiB" if by == "address-space" else "128MiB", "by": by}}
    store = run(rig, "run", environments=[environment(die="allocate")], scenarios=[scenario])
    (row,) = conditioned(store)
    assert row["outcome"] == "oom" and "MemoryError" in row["message"]
    assert row["mechanism"].startswith("RLIMIT_AS" if by == "address-space" else "RLIMIT_DATA")


def test_the_watchdog_sees_what_no_limit_on_data_counts(rig):
    scenario = {"memory": {"limit": "128MiB", "by": "watchdog"}}
    store = run(rig, "run", environments=[environment(die="share")], scenarios=[scenario])
    (row,) = conditioned(store)
    assert (row["outcome"], row["oom_kills"]) == ("oom", 1)
    assert "watch" in row["message"]


def test_a_real_bad_alloc_is_out_of_memory(rig):
    store = run(rig, "run", environments=[environment(die="bad_alloc")], scenarios=["clean"])
    rows = processes(store, kind="accuracy")
    assert {row["outcome"] for row in rows} == {"oom"}
    assert "std::bad_alloc" in rows[0]["message"]


@needs_memory
def test_a_kill_from_elsewhere_in_a_group_is_not_out_of_memory(rig):
    marker = rig.folder / "struck"
    hang = environment(die="hang", once=str(marker))
    marker.write_text("not in the clean run")

    def kill() -> None:
        while "baseline is done" not in done:
            time.sleep(0.01)
        marker.unlink()
        os.kill(wait_for(marker), signal.SIGKILL)

    from .test_execute import Bounded

    done: list[str] = []

    def after(title: str, steps: int) -> None:
        if title == "baseline" and steps == N_BATCHES:
            done.append("baseline is done")
            while marker.exists():
                time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    store = run(
        rig,
        "run",
        Bounded(after),
        environments=[hang],
        scenarios=[{"memory": {"limit": "1GiB", "by": "cgroup"}}],
    )
    killer.join()
    killed, lived = conditioned(store)
    assert (killed["outcome"], killed["signal"]) == ("interrupted", signal.SIGKILL)
    assert killed["oom_kills"] == 0
    assert lived["outcome"] == "ok"
    assert groups() == []


def test_only_an_oom_event_explains_a_kill():
    def ended(**counters: float) -> Ended:
        return Ended(signal=signal.SIGKILL, mechanism="cgroup", counters=dict(counters))

    assert classify(ended(oom_kills=1), 9).outcome == "oom"
    assert classify(ended(oom_kills=0), 9).outcome == "interrupted"
    stalled = Ended(killed="deadline", stall=Stall(major_faults=3, limit_hits=70))
    assert "reclaim stall" in (classify(stalled, 9).message or "")
    hung = Ended(killed="deadline", stall=Stall(0, 0), counters={"memory_limit_hits": 70.0})
    assert "reclaim" not in (classify(hung, 9).message or "")


# Groups are always removed.


@needs_memory
def test_groups_of_a_killed_parent_are_swept_with_what_is_in_them():
    program = (
        "import subprocess, sys, time\n"
        "from hwbench_scenarios import cgroup\n"
        "with cgroup.group('memory') as made:\n"
        "    child = subprocess.Popen([*made.entry, 'sleep', '600'])\n"
        "    while not made.read('cgroup.procs'): time.sleep(0.01)\n"
        "    print(made.path, child.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    path, child = parent.stdout.readline().split()
    with cgroup.group("memory") as other:
        assert Path(path).is_dir(), "the group of a living owner is left alone"
        parent.kill()
        parent.wait()
        parent.stdout.close()
        assert Path(path).is_dir() and psutil.pid_exists(int(child))
        assert Path(path) in cgroup.sweep(Path(path).parent)
        assert not Path(path).exists()
        assert other.path.is_dir()
    gone = time.monotonic() + 10
    while psutil.pid_exists(int(child)) and psutil.Process(int(child)).status() != "zombie":
        assert time.monotonic() < gone
        time.sleep(0.01)


@needs_memory
def test_groups_are_removed_when_something_raises():
    with pytest.raises(KeyboardInterrupt), cgroup.group("memory") as made:
        subprocess.Popen([*made.entry, "true"]).wait()
        raise KeyboardInterrupt
    assert groups() == []


def test_groups_are_found_in_the_second_hierarchy(tmp_path):
    mount = tmp_path / "cgroup"
    (mount / "user/scope").mkdir(parents=True)
    (tmp_path / "cgroup.txt").write_text("")
    (tmp_path / "mountinfo").write_text(f"30 1 0:2 / {mount} rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "cgroup").mkdir(exist_ok=True)
    process = tmp_path / "process"
    process.mkdir()
    (process / "mountinfo").write_text((tmp_path / "mountinfo").read_text())
    (process / "cgroup").write_text("0::/user/scope\n")
    with pytest.raises(Unsupported, match="no control group with the memory controller"):
        cgroup._parent("memory", process)
    (mount / "user/cgroup.subtree_control").write_text("cpu memory\n")
    assert cgroup._parent("memory", process) == (2, mount / "user")
    (mount / "user/scope/cgroup.subtree_control").write_text("memory\n")
    assert cgroup._parent("memory", process) == (2, mount / "user/scope")


def test_counters_of_the_second_hierarchy(tmp_path):
    group = cgroup.Group(tmp_path, 2)
    group.write("memory.max", 64 * 2**20)
    group.write("memory.events", "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1")
    found = memory._counted(group, "memory.max")
    assert found == {"memory_limit_mib": 64, "oom_kills": 1, "memory_limit_hits": 12}


# The other conditions.


@needs_quota
def test_a_quota_holds_the_worker_up(rig):
    store = run(
        rig,
        "run",
        environments=[environment(die="busy")],
        scenarios=[{"cpu": {"quota": 0.15, "nice": 1}}],
    )
    (row,) = conditioned(store)
    assert row["outcome"] == "ok" and row["mechanism"].endswith("nice +1")
    assert row["cpu_quota"] == pytest.approx(0.15)
    assert row["throttled_periods"] > 0 and row["throttled_s"] > 0
    assert groups() == []


def test_a_load_runs_beside_the_worker_and_ends_with_it(rig):
    store = run(rig, "run", scenarios=[{"contention": {"workers": [0, 1]}}])
    alone, beside = sorted(conditioned(store), key=lambda row: row["severity"])
    assert alone["load_cpu_s"] is None
    assert beside["load_cpu_s"] > 0 and beside["mechanism"].endswith("cpu x 1")
    assert psutil.Process().children() == []


@pytest.mark.parametrize("kind", ["memory", "cache"])
def test_every_kind_of_built_in_load_begins(kind):
    from hwbench.scenario import Launch
    from hwbench_scenarios.contention import Contention

    condition = Contention(1, kind)
    with condition.enforce(Launch([], {}, backend("onnxruntime"))) as enforced:
        time.sleep(0.05)
    assert enforced.counters()["load_cpu_s"] > 0


def test_the_variables_of_a_ceiling_reach_the_worker(rig):
    store = run(rig, "run", scenarios=[{"isa": {"ceiling": ["avx2", "sse4"]}}])
    rows = conditioned(store)
    if not rows:
        pytest.skip("this CPU has no avx2 to cap")
    assert [json.loads(row["actual"])["isa"] for row in rows] == ["avx2"]
    clean = processes(store, scenario="clean")
    assert [json.loads(row["actual"])["isa"] for row in clean] == ["any"]
    cells = collect(store)["cells"].set_index("severity")
    assert cells.loc[128, "status"] == "unsupported" and "the fake knows" in cells.loc[128, "note"]


def test_every_runtime_answers_for_a_ceiling():
    assert dict(backend("torch").isa_variables("avx2")) == {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
    both = backend("openvino").isa_variables("sse4")
    assert set(both) == {"ONEDNN_MAX_CPU_ISA", "OV_CPU_MAX_ISA"} and len(set(both.values())) == 1
    with pytest.raises(Unsupported, match="no switch"):
        backend("onnxruntime").isa_variables("avx2")


def test_a_stack_draws_what_is_drawn_without_the_condition(rig):
    noise = {"noise": {"snr_db": 10}, "patterns": 2}
    store = run(rig, "run", scenarios=[noise, [{"contention": {"workers": 0}}, noise]])
    by_scenario: dict[str, list[Any]] = {}
    for row in records(store):
        by_scenario.setdefault(row["scenario"], []).append((row["edits_hash"], row["outcomes"]))
    del by_scenario["clean"]
    plain, stacked = by_scenario.values()
    assert plain == stacked
    assert {row["conditions"] for row in conditioned(store)} == {"contention-cpu(workers=0)"}


def test_other_bytes_under_a_condition_are_a_result(rig):
    flaky = environment(flaky="process")
    store = run(rig, "run", environments=[flaky], scenarios=[{"contention": {"workers": 0}}])
    (row,) = conditioned(store)
    assert (row["outcome"], row["golden_reproduced"]) == ("ok", False)
    under = [each for each in records(store) if each["scenario"] != "clean"]
    assert sum(each["n_masked"] for each in under) == 0


def test_latency_under_a_watchdog_needs_a_core_of_its_own(rig):
    latency = {"processes": 1, "min_duration_s": 0.01, "min_count": 3, "warmup_s": 0}
    threads = len(os.sched_getaffinity(0))
    store = run(
        rig,
        "run",
        environments=[{"backend": "fake", "threads": threads}],
        scenarios=[{"memory": {"limit": "1GiB", "by": "watchdog"}}],
        latency=latency,
    )
    rows = {row["kind"]: row for row in conditioned(store)}
    assert rows["accuracy"]["outcome"] == "ok"
    assert rows["latency"]["outcome"] == "unsupported"
    assert "needs a core" in rows["latency"]["message"]


def test_a_limit_is_in_mib_whatever_the_unit():
    assert [Memory(size).severity for size in ("1GiB", "1.5 mib", "1048576kb")] == [
        1024,
        1.5,
        1048576e3 / 2**20,
    ]
