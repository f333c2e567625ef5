"""A virtual environment for each of other people's tools, made when it is first asked for."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".bench"
_INSTALL_S = 900


class Missing(Exception):
    """A tool that cannot be had here, and why."""


@dataclass(frozen=True)
class Tool:
    """A tool on the package index.

    Attributes:
        name: of its environment's folder.
        requirement: the version measured, installed without what it asks for.
        beside: what it imports, torch first and pinned as everywhere else; torchvision, which both
            tools name but do not import, would bring another torch.
        imports: the module that must import.
    """

    name: str
    requirement: str
    beside: tuple[str, ...]
    imports: str


MRFI = Tool("mrfi", "MRFI==2.1.0", ("torch==2.13.0", "numpy", "PyYAML", "scipy"), "mrfi")
PYTORCHFI = Tool("pytorchfi", "pytorchfi==0.6.0", ("torch==2.13.0", "numpy"), "pytorchfi.core")


def python_of(tool: Tool) -> Path:
    """The interpreter of a tool's environment, installed if need be.

    Raises:
        Missing: it cannot be installed, or does not import.
    """
    folder = CACHE / tool.name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = " ".join((tool.requirement, *tool.beside))
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing {tool.requirement} and torch into .bench/{tool.name}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        constraint = ["-c", str(ROOT / "constraints.txt")]
        for step in ([*constraint, each] for each in tool.beside):
            _run([*pip, *step])
        _run([*pip, "--no-deps", tool.requirement])
        _run([str(python), "-W", "ignore", "-c", f"import {tool.imports}"])
        stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{' '.join(command[-2:])}: {error}") from error
    if done.returncode:
        raise Missing(f"{' '.join(command[-2:])}: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """The line of a failed command that says why."""
    lines = [each for each in text.splitlines() if each.strip()]
    return lines[-1].strip() if lines else "no message"
