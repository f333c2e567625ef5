"""docs/python.md: every block runs, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwbench.spec import load_mapping
from hwbench.testing.runs import generate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    content = {
        "model": {"builtin": "digits-cnn"},
        "data": {"builtin": "digits", "limit": 100},
        "environments": [{"backend": "onnxruntime"}],
        "scenarios": [{"noise": {"snr_db": [10.0, 0.0]}, "patterns": 2}],
    }
    generate(load_mapping(content), tmp_path / "run", cache=tmp_path / "drawn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    shown = capsys.readouterr().out
    assert "noise-inputs costs" in shown and "onnxruntime-cpu-int8-t1" in shown
