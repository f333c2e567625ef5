"""The search for the smallest limits: what it asks for next, and what it finds."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hwbench import engine, search
from hwbench.collect import collect
from hwbench.collect.limits import row as limits_row
from hwbench.engine import Options
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.execute.launch import run_worker
from hwbench.job import BuildWork, Job
from hwbench.report.terminal import summary
from hwbench.search import Probe
from hwbench.spec.cases import expand, searches
from hwbench_scenarios import cgroup, pages

from .conftest import Rig
from .test_conditions import groups, needs_memory
from .test_execute import Bounded, environment, processes, run

PEAK = 100.0


def probe(severity: float | None, number: int, p50_ms: float | None = 1.0) -> Probe:
    """What a process under a limit tells; one without p50 was killed for memory."""
    outcome = "ok" if p50_ms else "oom"
    row = dict.fromkeys(search.COLUMNS) | {
        "kind": "search",
        "model": "m",
        "environment": "e",
        "scenario": "s",
        "severity": severity,
        "block": number,
        "outcome": outcome,
        "phase": "done" if p50_ms else "load",
        "message": None if p50_ms else "SIGKILL",
        "latency_p50_ms": p50_ms,
        "peak_rss_mib": PEAK - 10,
        "group_peak_mib": PEAK,
        "wall_s": 1.0,
    }
    return Probe(severity, number, outcome, p50_ms, row)


def searched(p50_ms: Callable[[float], float | None]) -> list[Probe]:
    """A whole search of a model whose p50 under a limit is ``p50_ms(limit)``, ``None`` below."""
    probes = [probe(None, search.FLOOR), probe(None, search.FREE)]
    while (severity := search.next_severity(probes, probes[1])) is not None:
        probes.append(probe(severity, len(probes), p50_ms(severity)))
        assert len(probes) <= search.MOST
    return probes


def found(probes: list[Probe]) -> dict[str, Any]:
    return limits_row("s", [each.row for each in probes])


@given(st.floats(2, 120), st.floats(1, 1.5))
def test_minima_are_found_within_the_tolerance(needed, share):
    """Also where the model needs more than the unlimited process took."""
    quick = share * needed

    def p50(limit: float) -> float | None:
        return None if limit < needed else 5.0 if limit < quick else 1.5

    told = found(searched(p50))
    for name, exact in (("load", needed), ("latency", quick)):
        minimum, fails = told[f"{name}_min_mib"], told[f"{name}_fails_mib"]
        assert fails < exact <= minimum
        assert minimum - fails <= max(search.STEP, search.TOLERANCE * minimum)
    assert told["status"] == "ok" and told["latency_p50_ms"] == 1.0
    assert told["above_outcome"] == "ok"
    assert told["below_mib"] == pytest.approx(0.7 * told["load_min_mib"], abs=search.STEP)
    assert (told["below_outcome"], told["below_phase"]) == ("oom", "load")


def test_a_search_that_was_cut_goes_on_where_it_was():
    whole = searched(lambda limit: 1.0 if limit >= 61 else None)
    for cut in range(2, len(whole)):
        assert search.next_severity(whole[:cut], whole[1]) == whole[cut].severity
        assert found(whole[:cut])["status"] == "open"
    assert len(whole) < 20


def test_a_minimum_runs_more_than_once():
    """At a limit where it runs half the time it does not run."""
    tries: Counter[float] = Counter()

    def now_and_then(limit: float) -> float | None:
        tries[limit] += 1
        return 1.0 if limit >= 65 or (limit >= 60 and tries[limit] == 1) else None

    told = found(searched(now_and_then))
    assert 65 <= told["load_min_mib"] <= 65 / (1 - search.TOLERANCE) + search.STEP
    assert tries[told["load_min_mib"]] == search.RUNS


def test_what_never_settles_ends():
    rng = np.random.default_rng(1)
    told = found(searched(lambda limit: 1.0 if rng.random() < 0.3 else None))
    assert told["probes"] <= search.MOST


def test_what_does_not_run_at_all_has_no_minimum():
    free = probe(None, search.FREE, p50_ms=None)
    assert search.next_severity([free], free) is None
    assert found([probe(None, search.FLOOR), free])["status"] == "oom"


def test_a_search_is_no_cell():
    entries = [{"memory": {"search": True}}, {"memory": {"limit": "1GiB"}}]
    assert [case.name for case in searches(entries)] == ["memory-search"]
    assert [case.id for case in expand(entries)] == ["clean", "memory@limit_mib=1024"]
    stacked = [[{"cpu": {"quota": 0.5}}, {"memory": {"search": True}}]]
    (case,) = searches(stacked)
    assert [each.severity for each in search.at(case, 64.0).conditions] == [0.5, 64.0]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"memory": {"search": True, "limit": "1GiB"}}, "exactly one of limit, search"),
        ({"memory": {"search": False}}, "exactly one of limit, search"),
        ([{"memory": {"search": True}}, {"noise": {"snr_db": 10}}], "fixed conditions only"),
        ([{"memory": {"search": True}}, {"cpu": {"quota": [1, 0.5]}}], "fixed conditions only"),
    ],
)
def test_searches_that_mean_nothing_are_refused(entry, told):
    with pytest.raises(RequestError, match=told):
        searches([entry])


@needs_memory
def test_a_real_cliff_is_found(rig: Rig):
    """The fake takes 256 MiB to load, which can be had or not: no pages to reclaim."""
    search_ = {"memory": {"search": True, "by": "cgroup"}}
    stop = Stop()
    environments = [environment(die="allocate", at="load")]
    cut = run(rig, "run", Cut(stop), stop, environments=environments, scenarios=[search_])
    (told,) = collect(cut)["limits"].to_dict("records")
    assert told["status"] == "open"
    whole = engine.resume(cut.folder, Options(workers=2), Quiet(), Stop())
    (told,) = collect(whole)["limits"].to_dict("records")
    assert told["status"] == "ok"
    needed = 256 + told["floor_group_mib"]
    assert 256 < told["load_min_mib"] <= needed / (1 - search.TOLERANCE) + search.STEP
    assert told["floor_rss_mib"] < told["peak_rss_mib"]
    assert (told["below_outcome"], told["below_phase"]) == ("oom", "load")
    assert told["above_outcome"] == "ok"
    numbers = [each["block"] for each in processes(whole, kind="search")]
    assert sorted(numbers) == list(range(len(numbers)))
    assert groups() == []
    shown = io.StringIO()
    plan = whole.read_json("plan.json")
    Console(file=shown, width=160).print(summary(collect(whole), {}, plan["baseline"], []))
    assert "loads from" in shown.getvalue() and "oom in load" in shown.getvalue()


def test_under_a_watchdog_that_shares_the_core_nothing_is_timed(rig: Rig):
    threads = len(os.sched_getaffinity(0))
    made = engine._plan(
        rig.spec(
            environments=[{"backend": "fake", "threads": threads}],
            scenarios=[{"memory": {"search": True, "by": "watchdog"}}],
        ),
        rig.folder,
        Options(),
    )
    deployed, case = made.deployments[0], made.searches[0]
    build = BuildWork(
        deployed.subject.source, str(deployed.artifact), str(deployed.subject.dataset)
    )
    run_worker(Job("m", deployed.environment, build, 60), lambda event: None, Stop())
    job = search._job(made, deployed, search.at(case, None), search.FREE, None)
    ended = run_worker(job, lambda event: None, Stop())
    assert ended.phase == "done" and ended.values["n_calls"] > 0
    assert ended.values["latency_p50_ms"] is None


class Quiet(Bounded):
    """A search has as many rounds as it takes."""

    def begin(self, title: str, total: int) -> None:
        self.rounds = [title]


class Cut(Quiet):
    """Stops the sweep in the middle of its search."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop
        self._probes = 0

    def begin(self, title: str, total: int) -> None:
        super().begin(title, total)
        self._probes += title == "search"
        if self._probes == 4:
            self._stop.request()


# File pages are charged to the worker.

SIZE_MIB = 24


@pytest.fixture
def file():
    """A file on the disk, and in the page cache, that everybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "library.so"
        path.write_bytes(os.urandom(SIZE_MIB * 2**20))
        path.chmod(0o644)
        pages.drop([path], written=True)
        path.read_bytes()
        yield path


def charged_mib(path: Path) -> float:
    """Peak of a group in which a program reads a file."""
    with cgroup.group("memory") as group:
        subprocess.run([*group.entry, "cat", str(path)], stdout=subprocess.DEVNULL, check=True)
        peak = "memory.peak" if group.version == 2 else "memory.max_usage_in_bytes"
        return int(group.read(peak)) / 2**20


@needs_memory
def test_pages_are_charged_to_who_reads_them_first(file):
    assert charged_mib(file) < SIZE_MIB / 2  # they were read by this process
    stayed = pages.drop([file])
    assert stayed is None or stayed < 1
    assert charged_mib(file) >= SIZE_MIB


@needs_memory
def test_mapped_pages_stay_and_are_told(file):
    mapped = np.memmap(file, np.uint8, "r")
    mapped[:: os.sysconf("SC_PAGESIZE")].sum()
    stayed = pages.drop([file])
    assert stayed is None or stayed > SIZE_MIB / 2
    assert charged_mib(file) < SIZE_MIB / 2
    del mapped


@needs_memory
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, setpriv")
def test_dropping_pages_needs_no_privilege(file):
    program = (
        "import os, sys; os.posix_fadvise(os.open(sys.argv[1], 0), 0, 0, os.POSIX_FADV_DONTNEED)"
    )
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    plain = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    subprocess.run([*user, plain, "-c", program, str(file)], check=True)
    assert charged_mib(file) >= SIZE_MIB


def test_the_files_of_a_runtime_are_found():
    from hwbench.registry import backend, missing_modules

    names = {path.name for path in pages.worker_files(backend("onnxruntime"))}
    assert any(name.startswith("_multiarray_umath") for name in names)
    assert "decimal.py" in names
    if not missing_modules(backend("onnxruntime")):
        assert any(name.startswith("onnxruntime_pybind11_state") for name in names)
