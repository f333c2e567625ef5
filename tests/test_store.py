"""The run folder: what is committed is whole, and what is not does not exist."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from hwbench import store as store_module
from hwbench.durable import write_durably
from hwbench.errors import RequestError
from hwbench.record import PARTS, SCHEMA_VERSION, row, rows_from
from hwbench.store import Store


def trial(pattern: int):
    return row(
        "records", {"cell": "c", "pattern": pattern, "outcomes": b"\x01", "partials": b"\x02"}
    )


@pytest.fixture
def store(tmp_path) -> Store:
    made = Store.create(tmp_path / "run")
    made.write_json("run.json", {"schema": SCHEMA_VERSION})
    return made


def patterns(store: Store) -> list[int]:
    return [each["pattern"] for each in store.read("records").to_pylist()]


def test_rows_come_back_as_they_were(store):
    given = row(
        "records",
        {
            "cell": "c",
            "severity": 1e-6,
            "pattern": 2,
            "outcomes": b"\x00\xff",
            "custom": [0.1, 2],
        },
    )
    store.append("records", [given])
    store.flush()
    assert store.read("records").to_pylist() == [given]


def test_parts_are_read_in_the_order_of_writing(store):
    for part in range(5):
        store.append("records", [trial(2 * part), trial(2 * part + 1)])
        store.flush()
    assert len(list((store.folder / "records").glob("*.parquet"))) == 5
    assert patterns(store) == list(range(10))


def test_rows_are_pending_until_flushed(store):
    store.append("records", [trial(0)])
    assert patterns(Store.open(store.folder)) == []
    store.flush()
    assert patterns(Store.open(store.folder)) == [0]
    store.flush()
    assert patterns(store) == [0]


def test_rows_reach_the_disk_in_time(store, monkeypatch):
    monkeypatch.setattr(store_module, "FLUSH_S", -1.0)
    store.append("records", [trial(0)])
    assert patterns(Store.open(store.folder)) == [0]


def test_many_rows_reach_the_disk_at_once(store, monkeypatch):
    monkeypatch.setattr(store_module, "FLUSH_ROWS", 3)
    store.append("records", [trial(0), trial(1)])
    assert patterns(Store.open(store.folder)) == []
    store.append("records", [trial(2)])
    assert patterns(Store.open(store.folder)) == [0, 1, 2]


def test_what_has_no_final_name_does_not_exist(store):
    store.append("records", [trial(0)])
    store.flush()
    (part,) = (store.folder / "records").iterdir()
    (store.folder / "records" / f".{part.name}.0123").write_bytes(part.read_bytes()[:50])
    assert patterns(Store.open(store.folder)) == [0]


def test_an_empty_part_has_its_columns(store):
    for part, columns in PARTS.items():
        assert store.read(part).column_names == [column.name for column in columns]
    assert store.read("records", ["cell", "batch"]).column_names == ["cell", "batch"]
    store.append("records", [trial(0)])
    store.flush()
    assert store.read("records", ["cell", "batch"]).column_names == ["cell", "batch"]


def test_threads_lose_nothing(store, monkeypatch):
    monkeypatch.setattr(store_module, "FLUSH_ROWS", 7)

    def write(first: int) -> None:
        for pattern in range(first, first + 50):
            store.append("records", [trial(pattern)])

    threads = [threading.Thread(target=write, args=[50 * i]) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    store.flush()
    assert sorted(patterns(store)) == list(range(200))


def test_columns_are_those_of_the_schema():
    assert row("latency", {"batch": 1})["block"] is None
    with pytest.raises(KeyError, match="colour"):
        row("latency", {"colour": 1})


def test_a_folder_takes_one_run(store, tmp_path):
    with pytest.raises(RequestError, match="holds a run already"):
        Store.create(store.folder)
    with pytest.raises(RequestError, match="holds no run"):
        Store.open(tmp_path)


def test_a_run_of_another_schema_is_refused(store):
    store.write_json("run.json", {"schema": SCHEMA_VERSION + 1})
    with pytest.raises(RequestError, match="another schema"):
        Store.open(store.folder)


def test_another_process_is_refused_until_the_lock_is_gone(store):
    script = (
        "import sys; from pathlib import Path; from hwbench.store import Store; "
        "from hwbench.errors import RequestError\n"
        "try: Store.open(Path(sys.argv[1])).lock()\n"
        "except RequestError as error: sys.exit(error.line())\n"
    )

    def other() -> str:
        command = [sys.executable, "-c", script, str(store.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()

    store.lock()
    told = other()
    assert told.startswith(f"{store.folder}: another sweep writes here.") and "\n" not in told
    store.unlock()
    assert other() == ""


def refused(call) -> str:
    with pytest.raises(RequestError) as caught:
        call()
    line = caught.value.line()
    assert "\n" not in line and "Hint:" in line
    return line


def test_a_full_disk_is_one_line_and_keeps_what_was_written(store, monkeypatch):
    store.append("records", [trial(0)])
    store.flush()
    store.append("records", [trial(1)])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert "No space left on device" in refused(store.flush)
    assert patterns(Store.open(store.folder)) == [0]
    assert not [each for each in (store.folder / "records").iterdir() if each.name.startswith(".")]
    store.flush()
    assert patterns(store) == [0, 1]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused(lambda: Store.create(tmp_path / "file" / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(store, tmp_path):
    (store.folder / "records").chmod(0o500)
    store.append("records", [trial(0)])
    try:
        assert "Permission denied" in refused(store.flush)
    finally:
        (store.folder / "records").chmod(0o700)


def test_a_read_only_file_system_is_one_line(store, monkeypatch):
    """As root, too."""

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store_module.Path, "open", read_only)
    assert "Read-only file system" in refused(store.lock)
    assert "Read-only file system" in refused(lambda: store.write_json("plan.json", {}))


def test_a_durable_write_replaces_whole_files(tmp_path):
    write_durably(tmp_path / "a.json", b"one")
    write_durably(tmp_path / "a.json", b"two")
    assert (tmp_path / "a.json").read_bytes() == b"two"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_rows_told_as_columns_are_those_told_one_by_one():
    shared = {"cell": "a/b/c", "pattern": 3}
    columns = {"site": ["x", "y"], "element": [0, 7], "row": [None, 2]}
    one_by_one = [
        row("faults", {**shared, "site": "x", "element": 0, "row": None}),
        row("faults", {**shared, "site": "y", "element": 7, "row": 2}),
    ]
    assert rows_from("faults", shared, columns) == one_by_one
    assert rows_from("faults", shared, {"site": []}) == []
    with pytest.raises(KeyError, match="no column"):
        rows_from("faults", shared, {"wrong": [1]})
