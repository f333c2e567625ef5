"""The cache: one builder, a bound, nothing in use removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from hwbench import artifacts
from hwbench.errors import RequestError

MIB = 2**20


def entry(cache, name, age_s, size=MIB, part="artifacts"):
    """An entry last used so many seconds ago."""
    folder = cache / part / name
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(os.urandom(size))
    used = time.time() - age_s
    os.utime(folder, (used, used))
    return folder


def test_the_longest_unused_goes_first(tmp_path):
    old, middle = entry(tmp_path, "old", 300), entry(tmp_path, "middle", 200, part="data")
    new = entry(tmp_path, "new", 100)
    assert artifacts.evict(tmp_path, int(2.5 * MIB)) == [old]
    assert not old.exists()
    assert middle.exists()
    assert new.exists()


def test_within_the_bound_nothing_is_removed(tmp_path):
    entry(tmp_path, "a", 10)
    assert artifacts.evict(tmp_path, 2 * MIB) == []
    assert artifacts.evict(tmp_path / "absent", 0) == []


def test_what_is_in_use_stays(tmp_path):
    old, new = entry(tmp_path, "old", 300), entry(tmp_path, "new", 100)
    with artifacts.Hold([old]):
        os.utime(old, (0, 0))  # by its age it would be the first to go
        assert artifacts.evict(tmp_path, 0) == [new]
        assert old.exists()
    assert artifacts.evict(tmp_path, 0) == [old]


def test_what_another_process_uses_stays_until_it_is_killed(tmp_path):
    used = entry(tmp_path, "used", 300)
    holding = (
        "import sys, time; from pathlib import Path; from hwbench.artifacts import Hold\n"
        "hold = Hold([Path(sys.argv[1])]); hold.take(); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", holding, str(used)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert artifacts.evict(tmp_path, 0) == []
        other.kill()
        other.wait()
    assert artifacts.evict(tmp_path, 0) == [used]


def test_holding_marks_as_just_used(tmp_path):
    first, second = entry(tmp_path, "first", 300), entry(tmp_path, "second", 200)
    with artifacts.Hold([first]):
        pass
    assert [each.folder for each in artifacts.entries(tmp_path)] == [second, first]


def test_entries_made_later_are_held_when_taken_again(tmp_path):
    later = tmp_path / "artifacts" / "later"
    with artifacts.Hold([later]) as hold:
        entry(tmp_path, "later", 0)
        hold.take()
        assert artifacts.evict(tmp_path, 0) == []


def test_abandoned_builds_go_and_young_ones_stay(tmp_path):
    entry(tmp_path, ".build-old", 2 * 86400)
    entry(tmp_path, ".build-young", 10)
    artifacts.evict(tmp_path, MIB * 100)
    assert [each.name for each in (tmp_path / "artifacts").iterdir()] == [".build-young"]


@pytest.mark.parametrize("value", ["0", "-1", "much", "nan"])
def test_a_bound_that_means_nothing_is_refused(monkeypatch, value):
    monkeypatch.setenv(artifacts.BOUND, value)
    with pytest.raises(RequestError, match="HWBENCH_CACHE_GIB"):
        artifacts.bound_bytes()


def test_the_bound_is_in_gib(monkeypatch):
    monkeypatch.setenv(artifacts.BOUND, "0.5")
    assert artifacts.bound_bytes() == 2**29


BUILDER = """
import sys, time
from pathlib import Path
from hwbench.artifacts import building
final, log = Path(sys.argv[1]), Path(sys.argv[2])
waited = []
with building(final, lambda: waited.append(1)):
    if not final.exists():
        time.sleep(1.0)
        with log.open("a") as file:
            file.write("built\\n")
        final.mkdir()
print(len(waited))
"""


def test_two_processes_build_an_artifact_once(tmp_path):
    final, log = tmp_path / "artifacts" / "x", tmp_path / "log"
    command = [sys.executable, "-c", BUILDER, str(final), str(log)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    waited = [int(each.communicate(timeout=60)[0]) for each in both]
    assert log.read_text() == "built\n"
    assert max(waited) > 0  # the other said that it is alive while it waited
