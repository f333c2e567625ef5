"""The command line as a user meets it: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hwbench import builtin, cli
from hwbench.cli.asked import chosen_spec
from hwbench.report import docs

pytest.importorskip("onnxruntime")

SPEC = """\
name: small
model: {builtin: digits-cnn}
data: {builtin: digits, limit: 96}
environments:
  - {backend: onnxruntime, precision: [fp32, int8, bf16]}
scenarios:
  - clean
  - {bitflip: {target: weights, rate: 1.0e-4}, patterns: 3}
  - {bitflip: {target: inputs, count: 2}}
  - [{bitflip: {target: weights, count: 1}}, {noise: {snr_db: 20}}]
metrics: [sqnr_golden_db]
latency: {processes: 3, min_duration_s: 0.02, warmup_s: 0.01}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(SPEC)
    return tmp_path


def run(capsys, monkeypatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["hwbench", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_sweep_prints_what_it_found_and_report_prints_it_again(here, capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "sweep", "small.yaml", "-o", "run")
    assert code == 0
    for expected in ("asked and actual", "bitflip-weights", "sqnr_golden_db", "Latency"):
        assert expected in out
    assert "onnxruntime-cpu-bf16-t1 is unsupported: ONNX Runtime has no bfloat16" in out
    code, again, _ = run(capsys, monkeypatch, "report", "run")
    assert code == 0
    assert again == out
    code, out, _ = run(capsys, monkeypatch, "report", "run", "--json")
    tables = json.loads(out)
    assert {row["status"] for row in tables["cells"]} == {"ok", "unsupported"}
    assert (here / "run/tables/drift.csv").exists()
    assert "bitflip-weights" in (here / "run/report.html").read_text()
    assert "bitflip-weights" in (here / "run/report.md").read_text()


def test_a_finished_run_resumes_to_itself(here, capsys, monkeypatch):
    assert run(capsys, monkeypatch, "sweep", "small.yaml", "-o", "run", "--no-report")[0] == 0
    assert not (here / "run/report.html").exists()
    before = sorted(path.name for path in (here / "run/records").iterdir())
    assert run(capsys, monkeypatch, "sweep", "--resume", "run")[0] == 0
    assert sorted(path.name for path in (here / "run/records").iterdir()) == before


def test_interrupted_is_130_and_resumes_to_the_same_records(here):
    (here / "long.yaml").write_text(SPEC.replace("patterns: 3", "patterns: 300"))
    tool = [sys.executable, "-m", "hwbench", "sweep"]
    command = [*tool, "long.yaml", "-o", "run", "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # Only a sweep that runs can be interrupted: wait until trials are on disk.
    end = time.monotonic() + 60
    while not list((here / "run/processes").glob("*.parquet")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "hwbench sweep --resume run" in err
    done = subprocess.run([*tool, "--resume", "run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    straight = subprocess.run([*tool, "long.yaml", "-o", "other"], capture_output=True, text=True)
    assert straight.returncode == 0, straight.stderr
    assert _records(here / "run") == _records(here / "other")


def _records(folder: Path) -> list[dict[str, object]]:
    from hwbench.store import Store

    rows = Store.open(folder).read("records").to_pylist()
    return sorted(rows, key=lambda r: (r["cell"], r["pattern"], r["batch"]))


def test_a_budget_cuts_counts_and_says_so(here, capsys, monkeypatch):
    (here / "long.yaml").write_text(SPEC.replace("patterns: 3", "patterns: 20000"))
    code, out, _ = run(capsys, monkeypatch, "sweep", "long.yaml", "--budget", "8s", "-o", "run")
    assert code == 0
    assert "budget 8s: patterns were cut to" in out
    assert json.loads((here / "run/run.json").read_text())["budget"]["share_of_patterns"] < 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep", "absent.yaml"], "absent.yaml: no such file"),
        (["sweep", "small.yaml", "--budget", "soon"], "'soon' is no time"),
        (["sweep", "--resume", "nowhere"], "holds no run"),
        (["sweep", "--resume", "nowhere", "--model", "m.onnx"], "takes everything from the run"),
        (["sweep", "--labels", "y"], "belong to --data"),
        (["sweep", "smoke", "--model", "m.onnx", "--data", "d.npz"], "m.onnx: no such file"),
        (["sweep", "smoke", "--model", str(builtin.DIGITS_ONNX)], "no data"),
        (["report", "nowhere"], "holds no run"),
        (["plan", "absent.yaml"], "absent.yaml: no such file"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(here, capsys, monkeypatch, arguments, expected):
    code, _, err = run(capsys, monkeypatch, *arguments)
    assert code == 2
    assert expected in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_nothing_that_could_run_is_exit_2(here, capsys, monkeypatch):
    only = SPEC.replace("[fp32, int8, bf16]", "bf16")
    (here / "none.yaml").write_text(only)
    code, out, err = run(capsys, monkeypatch, "sweep", "none.yaml", "-o", "run")
    assert code == 2
    assert "unsupported" in out
    assert "nothing could be run" in err


def test_code_needs_leave(here, capsys, monkeypatch):
    np.savez(here / "d.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    torch_spec = (
        'model: {torch: "os:abort"}\ndata: {npz: d.npz}\nenvironments: [{backend: torch}]\n'
    )
    (here / "code.yaml").write_text(torch_spec)
    code, _, err = run(capsys, monkeypatch, "sweep", "code.yaml")
    assert code == 2
    assert "--allow-code" in err


def test_a_model_on_the_command_line_meets_a_suite(here, capsys, monkeypatch):
    with np.load(builtin.DIGITS_DATA) as arrays:
        x = (arrays["x_test"][:40] / 16).astype(np.float32)
        np.savez(here / "d.npz", x=x, y=arrays["y_test"][:40])
        np.savez(here / "c.npz", x=(arrays["x_calibration"] / 16).astype(np.float32))
    given = ["--model", str(builtin.DIGITS_ONNX), "--data", "d.npz", "--calibration", "c.npz"]
    code, out, _ = run(capsys, monkeypatch, "plan", "nightly", *given)
    assert code == 0
    assert "to build" in out
    assert "bitflip-inputs" in out
    code, out, _ = run(capsys, monkeypatch, "plan", "nightly", *given, "--json")
    planned = json.loads(out)
    assert {cell["n_samples"] for cell in planned["cells"]} == {40}
    assert planned["latency_processes"] == 5 * len({c["environment"] for c in planned["cells"]})


def test_init_writes_a_spec_that_plans(here, capsys, monkeypatch):
    assert run(capsys, monkeypatch, "init", "new.yaml")[0] == 0
    assert run(capsys, monkeypatch, "plan", "new.yaml")[0] == 0
    code, _, err = run(capsys, monkeypatch, "init", "new.yaml")
    assert code == 2
    assert "--force" in err
    model, data = str(builtin.DIGITS_ONNX), str(builtin.DIGITS_DATA)
    assert run(capsys, monkeypatch, "init", "mine.yaml", "--model", model, "--data", data)[0] == 0
    assert "digits.npz" in (here / "mine.yaml").read_text()


def test_list_names_everything_and_its_examples(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "list")
    assert code == 0
    for name in ("onnxruntime", "openvino", "torch", "bitflip", "noise", "nightly", "top1"):
        assert name in out
    assert "example" in json.loads(run(capsys, monkeypatch, "list", "--json")[1])["scenarios"][0]


def test_list_shows_one_part(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "list", "scenarios")
    assert code == 0 and "[dB]" in out and "e.g. {noise" in out and "Backends" not in out
    assert list(json.loads(run(capsys, monkeypatch, "list", "suites", "--json")[1])) == ["suites"]
    code, _, err = run(capsys, monkeypatch, "list", "scenario")
    assert code == 2 and "scenarios" in err


def test_what_a_spec_leaves_out_stays_out_beside_a_value_of_the_command_line(tmp_path):
    """A folder of images has labels unless the spec says otherwise."""
    (tmp_path / "spec.yaml").write_text(
        "model: {builtin: digits-cnn}\ndata: {images: pictures}\n"
        "environments: [{backend: onnxruntime}]\nscenarios: [clean]\n"
    )
    spec = chosen_spec(str(tmp_path / "spec.yaml"), {"seed": 3})
    assert spec.seed == 3 and spec.data is not None
    assert "labels" not in spec.data.model_fields_set


def test_doctor_asks_every_runtime(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "doctor")
    assert code == 0
    assert "fingerprint" in out
    assert "fp32" in out
    found = json.loads(run(capsys, monkeypatch, "doctor", "--json")[1])
    assert found["backends"]["onnxruntime"]["state"] == "found"
    assert found["conditions"]["contention"]["cpu"]["status"] == "supported"
    assert "qemu-aarch64" in found["boards"]["aarch64"]["reason"]
    assert "contention" in out


def test_version_and_schema(capsys, monkeypatch):
    assert run(capsys, monkeypatch, "--version")[1].startswith("hwbench ")
    assert "environments" in json.loads(run(capsys, monkeypatch, "schema")[1])["properties"]


def test_help_imports_no_runtime():
    code = (
        "import sys; sys.argv = ['hwbench', 'sweep', '--help']\n"
        "from hwbench import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'onnx', 'pandas', 'scipy', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_worker_imports_no_more_than_it_needs():
    code = (
        "import sys, hwbench.worker.__main__\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'onnx', 'pandas', 'scipy', 'pydantic',"
        " 'pyarrow', 'yaml', 'rich', 'typer', 'psutil'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_the_generated_pages_are_up_to_date(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["docs", "--check"])
    assert docs.main() == 0, capsys.readouterr().out + "run `python -m hwbench.report.docs`"
