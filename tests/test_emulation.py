"""Workers on an emulated aarch64 board: what ran there, and every way in which it cannot."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from hwbench import armid, plan
from hwbench.backend import Emulation, Environment, environment_from
from hwbench.collect import collect
from hwbench.errors import RequestError, Unsupported
from hwbench.execute import emulation
from hwbench.fingerprint import cpu_flags
from hwbench.report.document import document
from hwbench.report.document import read as read_material
from hwbench.report.markdown import markdown
from hwbench.screen import places
from hwbench.seeds import Key
from hwbench.spec.load import load_mapping
from hwbench.store import Store
from hwbench.worker.golden import read

from .test_execute import processes, records, run

ROOT = os.environ.get("HWBENCH_ARM64_ROOT", "")
BOARD = Emulation("aarch64", "cortex-a72", ROOT)
ASKED = {"arch": "aarch64", "cpu": "cortex-a72"}
PLACE = "cpu-fp32-t1-aarch64-cortex-a72"


def _missing() -> str:
    if not ROOT:
        return "HWBENCH_ARM64_ROOT names no arm64 root folder (docs/boards.md)"
    try:
        emulation.command(BOARD)
    except Unsupported as gap:
        return gap.reason
    return ""


needs_board = pytest.mark.skipif(bool(_missing()), reason=_missing())


def elf(path: Path, machine: int) -> Path:
    """The head of a 64-bit little-endian program for a processor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + machine.to_bytes(2, "little"))
    return path


@pytest.fixture
def fake_root(tmp_path, monkeypatch):
    """A root folder whose interpreter is no more than a header, and a command that emulates."""
    elf(tmp_path / "root/usr/bin/python3", emulation.MACHINES["aarch64"])
    command = tmp_path / "bin" / "qemu-aarch64"
    command.parent.mkdir()
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "root"


def emulator(root: Path, script: str) -> None:
    """Have ``qemu-aarch64`` do something else: its arguments are -L root -cpu model python ..."""
    path = root.parent / "bin" / "qemu-aarch64"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def clean(store: Store, status: str, environment: str = f"fake-{PLACE}") -> str:
    """The note of an environment's clean cell, which has this status."""
    cells = collect(store)["cells"].query("scenario == 'clean'").set_index("environment")
    assert cells.loc[environment, "status"] == status
    return str(cells.loc[environment, "note"])


def swept(rig, root, **changes) -> Store:
    asked = {"backend": "fake", **ASKED, "root": str(root)}
    return run(
        rig, "run", environments=[{"backend": "fake"}, asked], scenarios=["clean"], **changes
    )


# What a spec says.


def spec_of(**environment):
    return load_mapping({"model": {"builtin": "digits-cnn"}, "environments": [environment]})


def test_a_list_of_processors_gives_distinct_environments(tmp_path):
    asked = {"backend": "onnxruntime", "precision": "int8", "arch": "aarch64", "root": tmp_path}
    made = spec_of(**asked, cpu=["cortex-a53", "cortex-a72"]).expand_environments()
    assert [each.id for each in made] == [
        "onnxruntime-cpu-int8-t1-aarch64-cortex-a53",
        "onnxruntime-cpu-int8-t1-aarch64-cortex-a72",
    ]
    assert [each.emulation.emulator for each in made] == ["qemu-aarch64"] * 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cpu": "cortex-a72"}, "belong to an emulated board: give arch as well"),
        ({"arch": "aarch64", "cpu": "cortex-a72"}, "arch needs cpu (such as cortex-a72) and root"),
        ({"arch": "riscv", "cpu": "x", "root": "/"}, "'aarch64'"),
        ({"arch": "aarch64", "cpu": "a b", "root": "/"}, "pattern"),
        ({"arch": "aarch64", "cpu": [], "root": "/"}, "at least 1"),
    ],
)
def test_a_board_that_is_not_whole_is_refused_in_a_line(given, words):
    with pytest.raises(RequestError) as caught:
        spec_of(backend="onnxruntime", **given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_root_folder_is_taken_from_the_spec(tmp_path):
    from hwbench.spec import load

    text = "model: {builtin: digits-cnn}\nenvironments:\n"
    text += "  - {backend: onnxruntime, arch: aarch64, cpu: cortex-a72, root: arm64}\n"
    (tmp_path / "spec.yaml").write_text(text)
    (made,) = load(tmp_path / "spec.yaml").expand_environments()
    assert made.emulation.root == str(tmp_path / "arm64")


def test_an_environment_survives_its_json():
    made = Environment("onnxruntime", emulation=BOARD)
    assert environment_from(json.loads(json.dumps(asdict(made)))) == made


def test_boards_and_this_machine_share_artifacts(rig):
    """What is deployed is one file, so that what differs is the processor."""
    asked = [{"backend": "fake"}, {"backend": "fake", **ASKED, "root": "/nowhere"}]
    spec = rig.spec(environments=asked)
    made = plan.make(spec, allow_code=False, cache=rig.cache, code_cache=rig.cache)
    one, other = made.deployments
    assert one.key != other.key and one.artifact == other.artifact


def test_conditions_are_refused_for_a_board_with_the_reason(rig):
    asked = {"backend": "fake", **ASKED, "root": "/nowhere"}
    spec = rig.spec(environments=[asked], scenarios=[{"cpu": {"quota": 0.5}}])
    made = plan.make(spec, allow_code=False, cache=rig.cache, code_cache=rig.cache)
    reason = made.refusal(made.deployments[0], made.cases[1])
    assert reason == "it would constrain the emulator, not the board that is emulated"


def test_an_emulated_processor_is_not_screened():
    assert places(Environment("fake", emulation=BOARD), ("cpu",)) == []


# What is missing, or other than asked.


def test_without_an_emulator_the_row_says_how_to_install_it(rig, monkeypatch):
    monkeypatch.setattr(emulation.shutil, "which", lambda name: None)
    note = clean(swept(rig, rig.folder), "unsupported")
    assert note == "qemu-aarch64 is not installed. Hint: apt-get install qemu-user"
    assert emulation.abilities()["aarch64"].reason == note


def test_without_a_root_folder_the_row_says_so(rig, fake_root):
    emulator(fake_root, "exit 1")
    note = clean(swept(rig, fake_root / "absent"), "unsupported")
    assert "no aarch64 root folder" in note and "docs/boards.md" in note


def test_without_an_interpreter_the_row_says_so(rig, fake_root):
    emulator(fake_root, "exit 1")
    (fake_root / "usr/bin/python3").unlink()
    assert "has no interpreter" in clean(swept(rig, fake_root), "unsupported")


def test_an_interpreter_of_this_machine_is_invalid(rig, fake_root):
    emulator(fake_root, "exit 1")
    elf(fake_root / "usr/bin/python3", emulation.MACHINES["x86_64"])
    assert "is for x86_64 processors, not for aarch64" in clean(swept(rig, fake_root), "invalid")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the stand-in runs natively: x86-64")
def test_an_interpreter_that_turns_out_otherwise_is_invalid(rig, fake_root):
    """An emulator that runs something else: the worker itself tells on which processor it is."""
    emulator(fake_root, f'shift 5; exec "{sys.executable}" "$@"')
    store = swept(rig, fake_root)
    assert "asked for aarch64, and the interpreter runs on x86_64" in clean(store, "invalid")
    assert {each["outcome"] for each in records(store) if "aarch64" in each["cell"]} == {"invalid"}
    (ran,) = processes(store, kind="accuracy", environment=f"fake-{PLACE}")
    assert ran["architecture"] == "x86_64" and ran["emulated"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("qemu-aarch64: unable to find CPU model 'x'", "knows no CPU 'cortex-a72'"),
        ("ModuleNotFoundError: No module named 'numpy'", "numpy is not installed in"),
        ("Could not open '/lib/ld-linux-aarch64.so.1': No such file", "is not whole"),
    ],
)
def test_what_keeps_a_worker_from_starting_is_unsupported(rig, fake_root, told, words):
    emulator(fake_root, f'echo "{told}" >&2; exit 1')
    assert words in clean(swept(rig, fake_root), "unsupported")


def test_a_runtime_that_crashes_there_is_a_row(rig, fake_root):
    emulator(fake_root, "kill -SEGV $$")
    note = clean(swept(rig, fake_root), "crash")
    assert note.startswith("SIGSEGV in phase start under qemu-aarch64 -cpu cortex-a72")


def test_links_in_a_root_folder_stay_in_it(tmp_path):
    """An absolute link means a place in the root folder, as it would on the board."""
    wanted = elf(tmp_path / "opt/python3.11", emulation.MACHINES["aarch64"])
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to("/opt/python3")
    (tmp_path / "opt/python3").symlink_to("python3.11")
    assert emulation._interpreter(tmp_path, tmp_path / "usr/bin/python3") == wanted


def test_only_packages_that_register_are_linked(tmp_path):
    """A fresh interpreter without any packages of its own finds every adapter's module."""
    emulation.link_packages(tmp_path / "code")
    assert {"hwbench", "hwbench_onnxruntime", "hwbench_scenarios"} <= {
        each.name for each in (tmp_path / "code").iterdir()
    }
    assert not (tmp_path / "code/numpy").exists()
    code = "from importlib.metadata import entry_points as e; import hwbench;"
    code += "print(*sorted(p.name for p in e(group='hwbench.backends')))"
    variables = emulation.adapted({**os.environ, "PYTHONPATH": "/nowhere"}, tmp_path / "code")
    command = [sys.executable, "-S", "-c", code]
    told = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert {"onnxruntime", "openvino", "torch"} <= set(told.stdout.split())


def test_core_names():
    assert armid.named(0x410FD083) == "Cortex-A72 (MIDR 0x410fd083)"
    assert armid.named(0x000F0510).startswith("unknown core")


# The board itself.


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The built-in model in fp32 and int8, here and there."""
    from hwbench import engine
    from hwbench.engine import Options, Silent
    from hwbench.execute import Stop

    folder = tmp_path_factory.mktemp("emulated")
    plain = {"backend": "onnxruntime", "precision": ["fp32", "int8"]}
    content = {
        "model": {"builtin": "digits-cnn"},
        "data": {"builtin": "digits", "limit": 100},
        "environments": [plain, {**plain, **ASKED, "root": ROOT}],
        "scenarios": [{"bitflip": {"rate": 1.0e-4}, "patterns": 2}, {"cpu": {"quota": 0.5}}],
        "latency": {"processes": 1, "min_duration_s": 0.01},
    }
    options = Options(output=folder / "run", workers=1, cache=folder / "cache")
    return engine.start(load_mapping(content), options, Silent(), Stop())


@needs_board
def test_a_board_tells_what_it_is(emulated):
    table = collect(emulated)["environments"].set_index("environment")
    there = table.loc[f"onnxruntime-{PLACE}"]
    assert there["status"] == "ok" and there["architecture"] == "aarch64"
    assert there["cpu"].startswith("Cortex-A72") and there["emulator"].endswith("-cpu cortex-a72")
    assert there[["load_ms", "run_peak_rss_mib"]].isna().all()
    here = table.loc["onnxruntime-cpu-fp32-t1"]
    assert here["emulator"] is None or not isinstance(here["emulator"], str)
    rows = processes(emulated, kind="accuracy", environment=f"onnxruntime-{PLACE}")
    assert {each["cpu_isa"] for each in rows} == {"asimd"}  # a Cortex-A72 has no dot products
    assert all(each["golden_reproduced"] for each in rows)


@needs_board
def test_a_board_computes_what_this_machine_does(emulated):
    """Sums of int8 products are exact, those of floats differ in their order alone."""
    here, there = (
        {each: golden(emulated, f"onnxruntime-cpu-{each}-t1{where}") for each in ("fp32", "int8")}
        for where in ("", "-aarch64-cortex-a72")
    )
    scale = np.abs(here["fp32"]).max(axis=1, keepdims=True)
    assert np.abs(here["fp32"] - there["fp32"]).max() <= 16 * np.spacing(np.float32(scale.max()))
    if {"avx512_vnni", "avx_vnni", "amx_int8"} & cpu_flags():  # else this machine saturates
        assert np.array_equal(here["int8"], there["int8"])
    assert collect(emulated)["drift"].query("scenario == 'clean'")["accuracy"].min() > 0.95


def golden(store: Store, environment: str) -> np.ndarray:
    """Unperturbed outputs, shape (samples, classes)."""
    path = store.folder / "golden" / f"{Key(('digits-cnn', environment)).hex()}.npz"
    return next(iter(read(path).values())).astype(float)


@needs_board
def test_faults_are_those_of_this_machine(emulated):
    """The same bits of the same file, wherever it runs."""
    by_place = {}
    for each in records(emulated):
        if each["scenario"].startswith("bitflip"):
            by_place.setdefault(each["environment"], set()).add(each["edits_hash"])
    assert len(by_place) == 4
    assert by_place[f"onnxruntime-{PLACE}"] == by_place["onnxruntime-cpu-fp32-t1"]


@needs_board
def test_a_board_has_no_latency_and_no_conditions(emulated):
    tables = {name: table.set_index("environment") for name, table in collect(emulated).items()}
    row = tables["latency"].query("scenario == 'clean'").loc[f"onnxruntime-{PLACE}"]
    assert row["status"] == "unsupported" and np.isnan(row["latency_p50_ms"])
    assert "emulator's latency" in row["note"]
    cell = tables["cells"].query("scenario == 'cpu-quota'").loc[f"onnxruntime-{PLACE}"]
    assert "would constrain the emulator" in cell["note"]


@needs_board
def test_a_report_tells_of_an_emulated_board(emulated):
    made = markdown(document(read_material(emulated, collect(emulated))))
    assert "ran on an emulated processor (Cortex-A72 (MIDR 0x410fd083), aarch64;" in made


@needs_board
def test_a_processor_that_nobody_knows_is_unsupported(rig):
    store = run(
        rig,
        "run",
        environments=[{"backend": "fake", **ASKED, "cpu": "cortex-a1", "root": ROOT}],
        scenarios=["clean"],
    )
    note = clean(store, "unsupported", "fake-cpu-fp32-t1-aarch64-cortex-a1")
    assert "knows no CPU 'cortex-a1'" in note
