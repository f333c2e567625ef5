"""What this machine may not have: the second hierarchy of control groups, and systemd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hwbench.registry import backend
from hwbench.scenario import Launch
from hwbench_scenarios import cgroup, systemd
from hwbench_scenarios.cpu import Cpu
from hwbench_scenarios.memory import Memory

FILES = {
    "cgroup.procs": "",
    "cpu.max": "max 100000",
    "cpu.stat": "usage_usec 5\nnr_periods 40\nnr_throttled 10\nthrottled_usec 500000",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0",
    "memory.max": "max",
    "memory.peak": str(48 * 2**20),
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=2500000",
    "memory.swap.max": "max",
}


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tree like cgroup v2's: a new folder has the kernel's files, and goes with them."""
    parent = tmp_path / "user.slice"
    parent.mkdir()
    make, remove = Path.mkdir, Path.rmdir

    def mkdir(path: Path, *args: object, **options: object) -> None:
        make(path)
        for name, content in FILES.items():
            (path / name).write_text(content)

    def rmdir(path: Path) -> None:
        for each in path.iterdir():
            each.unlink()
        remove(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)
    monkeypatch.setattr(cgroup, "_parent", lambda controller, process: (2, parent))
    cgroup.capability.cache_clear()
    yield parent
    cgroup.capability.cache_clear()


def launch() -> Launch:
    return Launch(["worker"], {}, backend("fake"))


def test_a_memory_limit_in_the_second_hierarchy(fake_path, unified):
    assert Memory("64MiB", by="cgroup").check().status == "supported"
    started = launch()
    with Memory("64MiB").enforce(started) as enforced:
        (group,) = unified.iterdir()
        assert (group / "memory.max").read_text() == f"{64 * 2**20}\n"
        assert (group / "memory.swap.max").read_text() == "0\n"
        assert started.argv[-2:] == [str(group / "cgroup.procs"), "worker"]
        counted = enforced.counters()
    assert enforced.mechanism.startswith("cgroup v2 memory.max")
    del counted["shared_file_mib"]
    assert counted == {
        "memory_limit_mib": 64,
        "oom_kills": 1,
        "memory_limit_hits": 12,
        "group_peak_mib": 48,
        "memory_stall_s": 2.5,
    }
    assert list(unified.iterdir()) == []


def test_a_quota_in_the_second_hierarchy(fake_path, unified):
    assert Cpu(quota=0.5).check().status == "supported"
    with Cpu(quota=0.5).enforce(launch()) as enforced:
        (group,) = unified.iterdir()
        assert (group / "cpu.max").read_text() == "50000 100000\n"
        counted = enforced.counters()
    assert counted == {
        "cpu_quota": 0.5,
        "cpu_periods": 40,
        "throttled_periods": 10,
        "throttled_s": 0.5,
    }
    assert list(unified.iterdir()) == []


def test_a_stale_group_in_the_second_hierarchy_is_swept(fake_path, unified):
    stale = unified / "hwbench-999999999-1-0"
    stale.mkdir()
    with Memory("64MiB").enforce(launch()):
        assert not stale.exists()


# systemd.


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that tells what it was asked, and answers like one after an OOM kill."""
    programs, runtime = tmp_path / "bin", tmp_path / "run"
    (runtime / "systemd").mkdir(parents=True)
    (runtime / "systemd/private").touch()
    programs.mkdir()
    log = tmp_path / "asked"
    answer = "Result=oom-kill\\nMemoryPeak=67108864"
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {log}\nprintf "{answer}"\n')
    (programs / "systemd-run").write_text("#!/bin/sh\n")
    for each in programs.iterdir():
        each.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    return log


def test_a_scope_is_made_around_the_worker(fake_path, session):
    started = launch()
    with Memory("64MiB", by="systemd").enforce(started) as enforced:
        *options, unit, high, swap, end, worker = started.argv
        assert options == ["systemd-run", "--user", "--scope", "--quiet"]
        assert unit.startswith("--unit=hwbench-") and unit.endswith(".scope")
        assert (high, swap) == (f"--property=MemoryMax={64 * 2**20}", "--property=MemorySwapMax=0")
        assert (end, worker) == ("--", "worker")
        counted = enforced.counters()
    assert (counted["oom_kills"], counted["group_peak_mib"]) == (1, 64)
    name = unit.removeprefix("--unit=")
    shown, stopped, forgotten = session.read_text().splitlines()
    assert shown == f"--user show --property=Result --property=MemoryPeak {name}"
    assert (stopped, forgotten) == (f"--user stop {name}", f"--user reset-failed {name}")


def test_without_a_session_systemd_is_declared(session, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert "needs a systemd user session" in systemd.capability().reason
    assert "needs a systemd user session" in Memory("1GiB", by="systemd").check().reason
    monkeypatch.setenv("PATH", "")
    assert "not installed" in Memory.abilities()["systemd"].reason
