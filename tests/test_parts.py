"""Parts of rows: merged as they grow, and each row there once at any moment of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from hwbench import parts as parts_module
from hwbench.failpoint import VARIABLE
from hwbench.parts import FAN, Parts

SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])


@pytest.fixture
def parts(tmp_path) -> Parts:
    (tmp_path / "records").mkdir()
    return Parts(tmp_path / "records", SCHEMA)


def table(*numbers: int) -> pa.Table:
    return pa.Table.from_pylist([{"n": n, "text": str(n)} for n in numbers], SCHEMA)


def numbers(parts: Parts, start: int = 0) -> list[int]:
    return [n for batch in parts.batches(["n"], start) for n in batch["n"].to_pylist()]


def add(parts: Parts, *given: int) -> None:
    parts.append(table(*given))
    parts.merge()


def test_there_are_few_parts_and_every_row(parts):
    for n in range(FAN * FAN + 3):
        add(parts, 2 * n, 2 * n + 1)
        assert len(list(parts.folder.iterdir())) < 3 * FAN
    assert [each.last - each.first + 1 for each in parts.listed()] == [FAN * FAN, 1, 1, 1]
    assert numbers(parts) == list(range(2 * (FAN * FAN + 3)))


def test_rows_keep_their_places_while_parts_are_merged(parts):
    for n in range(FAN - 1):
        add(parts, n, 100 + n)
    seen = numbers(parts)
    add(parts, -1, -2)
    assert len(parts.listed()) == 1
    assert numbers(parts, len(seen)) == [-1, -2]
    assert numbers(parts, 3) == [*seen, -1, -2][3:]
    assert numbers(parts, 1000) == []


def test_large_parts_are_left_alone(parts, monkeypatch):
    monkeypatch.setattr(parts_module, "MOST_BYTES", 100)
    for n in range(2 * FAN):
        add(parts, n)
    assert len(parts.listed()) == 2 * FAN


def test_rows_of_a_part_that_is_merged_while_they_are_read_come_once(parts):
    for n in range(FAN - 1):
        add(parts, n)
    reading = parts.batches(["n"])
    first = next(reading)["n"].to_pylist()
    add(Parts(parts.folder, SCHEMA), FAN - 1)
    assert len(list(parts.folder.iterdir())) == 1
    rest = [n for batch in reading for n in batch["n"].to_pylist()]
    assert first + rest == list(range(FAN))


def test_what_has_no_final_name_is_removed_by_the_next_writer(parts):
    add(parts, 1)
    (parts.folder / ".00000002-00000002.parquet.0123").write_bytes(b"PAR1")
    assert numbers(parts) == [1]
    parts.tidy()
    assert [path.name for path in parts.folder.iterdir()] == ["00000001-00000001.parquet"]


POINTS = (
    *("records:written", "records:synced", "records:renamed", "records:committed"),
    *("records-merged:written", "records-merged:synced", "records-merged:renamed"),
    *("records-merged:committed", "records-merged:removing", "records-merged:removing#7"),
)

WRITER = """
import sys
from pathlib import Path
from tests.test_parts import FAN, Parts, SCHEMA, add
parts = Parts(Path(sys.argv[1]), SCHEMA)
for n in range(int(sys.argv[2]), FAN + 2):
    add(parts, n)
"""


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_anywhere_leaves_each_row_once(parts, point):
    """The rows are those of the flushes that were committed, and another writer goes on."""
    command = [sys.executable, "-c", WRITER, str(parts.folder)]
    killed = subprocess.run([*command, "0"], env={**os.environ, VARIABLE: point}, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = numbers(parts)
    assert left == list(range(len(left)))
    subprocess.run([*command, str(len(left))], env={**os.environ, VARIABLE: ""}, check=True)
    assert numbers(parts) == list(range(FAN + 2))
    parts.tidy()
    assert len(list(parts.folder.iterdir())) == len(parts.listed()) <= 3
