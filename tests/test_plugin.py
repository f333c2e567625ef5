"""A plug-in of a third party, installed as a distribution of its own, found by entry points."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwbench.testing import models

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the plug-in was installed into."""
    made = tmp_path_factory.mktemp("plugin")
    source, target = made / "source", made / "target"
    shutil.copytree(PLUGIN, source)  # building writes beside the sources
    options = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--target",
        str(target),
    ]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"pip cannot build here: {done.stderr.strip().splitlines()[-1]}")
    return target


@pytest.fixture
def run(installed, tmp_path):
    """Runs a Python command where the plug-in is installed."""

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(installed), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": path, "HWBENCH_CACHE": str(tmp_path / "cache")}
        return subprocess.run(
            [sys.executable, *command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def hwbench(run, *words: str) -> str:
    done = run("-c", "from hwbench.cli import main; main()", *words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_it_passes_the_conformance_suite(run):
    suite = str(PLUGIN / "conformance.py")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(PLUGIN), suite)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 20, done.stdout


def test_it_is_listed(run):
    listed = json.loads(hwbench(run, "list", "--json"))
    assert "example" in [each["name"] for each in listed["backends"]]
    assert "brownout" in [each["name"] for each in listed["scenarios"]]
    assert "share of each tensor's words" in hwbench(run, "list", "scenarios")


def test_it_is_swept_end_to_end(run, tmp_path):
    """Beside an in-tree backend: equal decisions, and a larger part costs more."""
    pytest.importorskip("onnxruntime")
    source = models.conv_net(tmp_path)
    np.savez(tmp_path / "rows.npz", x=models.samples(32))
    (tmp_path / "spec.yaml").write_text(
        f"model: {{onnx: {Path(str(source.onnx)).name}}}\n"
        "data: {npz: rows.npz}\n"
        "environments: [{backend: [onnxruntime, example]}]\n"
        "scenarios: [clean, {brownout: {part: [0.1, 1.0]}, patterns: 3}]\n"
        "latency: false\n"
    )
    done = json.loads(hwbench(run, "sweep", "spec.yaml", "--json"))
    assert {cell["status"] for cell in done["cells"]} == {"ok"}
    rows = {(each["environment"], each["severity"]): each for each in done["drift"]}
    for environment in ("onnxruntime-cpu-fp32-t1", "example-cpu-fp32-t1"):
        lost = [rows[environment, part]["agreement_golden"] for part in (0.1, 1.0)]
        assert lost[1] <= lost[0] <= 1
    assert rows["example-cpu-fp32-t1", None]["agreement_baseline"] == 1
