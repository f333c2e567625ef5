"""The base install plus one runtime has wheels for boards with an aarch64 processor."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
OFFLINE = ("NewConnectionError", "Temporary failure in name resolution", "No route to host")


@pytest.mark.slow
# By the glibc of the board, 2.x: 28 is Debian 10's, 35 Ubuntu 22.04's.
@pytest.mark.parametrize(("runtime", "glibc"), [("onnxruntime", 28), ("openvino", 35)])
def test_every_dependency_has_an_aarch64_wheel(runtime, glibc, tmp_path):
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][runtime]]
    names = [f"manylinux_2_{minor}_aarch64" for minor in range(glibc, 16, -1)]
    platforms = [each for name in names for each in ("--platform", name)]
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
        *("--target", str(tmp_path), "--only-binary=:all:", *platforms),
        *("--implementation", "cp", "--python-version", "3.11", "--report", "-", *wanted),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    if done.returncode and any(words in done.stderr for words in OFFLINE):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    names = [each["download_info"]["url"] for each in json.loads(done.stdout)["install"]]
    assert len(names) >= len(wanted)
    assert all(name.endswith(("-any.whl", "aarch64.whl")) for name in names), names
