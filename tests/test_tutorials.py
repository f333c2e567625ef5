"""The tutorials are run as they stand: files are written, commands executed, in their order.

A block's info string says what it is: ``LANGUAGE title=FILE`` is written, ``sh`` is run by bash
and ends with exit code 0, or one of ``exit=0,3``; ``sh install`` is a ``pip install``, which is
done into a folder of the test's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"precisions": ("torch", "openvino", "nncf", "torchao")}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words behind that, and its content."""

    language: str
    words: tuple[str, ...]
    content: str

    def option(self, name: str) -> str | None:
        """The value of ``name=value``."""
        return next((w.partition("=")[2] for w in self.words if w.startswith(f"{name}=")), None)


def blocks(page: Path) -> Iterator[Block]:
    for language, words, content in BLOCK.findall(page.read_text()):
        yield Block(language, tuple(words.split()), content)


def execute(block: Block, folder: Path) -> None:
    """Run a block of commands, or write a file."""
    title = block.option("title")
    if title is not None:
        (folder / title).parent.mkdir(exist_ok=True)
        (folder / title).write_text(block.content)
        return
    assert block.language == "sh", f"a block of {block.language} is neither a file nor commands"
    commands = block.content
    if "install" in block.words:
        commands = commands.replace(
            "pip install", "python -m pip install --quiet --no-index --target installed"
        )
    allowed = {int(each) for each in (block.option("exit") or "0").split(",")}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", commands],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode in allowed, f"{commands}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def _environment(folder: Path) -> dict[str, str]:
    """The interpreter of the tests first, and what the tutorial installs."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(folder / "installed"), *filter(None, sys.path)]),
        "HWBENCH_CACHE": str(folder / "cache"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


PAGES = sorted(page for page in TUTORIALS.glob("*.md") if page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_works_as_it_stands(page, tmp_path):
    for module in NEEDS.get(page.stem, ("onnxruntime",)):
        pytest.importorskip(module)
    for block in blocks(page):
        execute(block, tmp_path)


def test_every_tutorial_is_listed():
    listed = set(re.findall(r"\(([\w-]+\.md)\)", (TUTORIALS / "README.md").read_text()))
    assert listed == {page.name for page in PAGES}
