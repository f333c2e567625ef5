"""A worker on another architecture: its own interpreter, under qemu's user emulation.

The artifact and the data are the host's; packages of ours and of plug-ins, which are pure Python,
are linked beside the job, so that none of the host's compiled ones is ever found. Interpreter,
NumPy and the runtime are those of the root folder that the user names.
"""

from __future__ import annotations

import platform
import shutil
import struct
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from hwbench import registry
from hwbench.backend import Capability, Emulation, Environment
from hwbench.errors import Unsupported

# ``e_machine`` of an ELF file by what ``platform.machine()`` says there: linux/elf-em.h.
MACHINES = {"x86_64": 62, "aarch64": 183}
_ELF_HEADER = struct.Struct("<4sB13xH")
_LITTLE_64 = 2

# What would have the interpreter look for the host's libraries and packages.
HOSTS = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "LD_PRELOAD")

_INSTALL = "Hint: apt-get install qemu-user"
HOW = "see docs/boards.md for how to make one"


class Unlike(Exception):
    """The interpreter is there, and it is of another architecture than was asked for."""


def abilities() -> dict[str, Capability]:
    """Which other architectures workers can be run on here; the root folder is the user's."""
    found = {}
    for arch in MACHINES.keys() - {platform.machine()}:
        emulator = Emulation(arch, "", "").emulator
        if shutil.which(emulator):
            found[arch] = Capability("supported", f"{emulator}, with a root folder of yours: {HOW}")
        else:
            found[arch] = Capability("unsupported", f"{emulator} is not installed. {_INSTALL}")
    return found


def command(emulation: Emulation) -> list[str]:
    """What goes before the interpreter's arguments.

    Raises:
        Unsupported: the emulator, the root folder or the interpreter is missing.
        Unlike: the interpreter is of another architecture.
    """
    emulator = shutil.which(emulation.emulator)
    if emulator is None:
        raise Unsupported(f"{emulation.emulator} is not installed. {_INSTALL}")
    root, python = Path(emulation.root), Path(emulation.root, emulation.python.lstrip("/"))
    if not root.is_dir():
        raise Unsupported(f"there is no {emulation.arch} root folder {root}. Hint: {HOW}")
    found = _interpreter(root, python)
    machine = elf_machine(found)
    if machine != MACHINES[emulation.arch]:
        named = {number: name for name, number in MACHINES.items()}.get(machine or 0, "something")
        raise Unlike(f"{found} is for {named} processors, not for {emulation.arch}")
    return [emulator, "-L", str(root), "-cpu", emulation.cpu, str(found)]


def _interpreter(root: Path, python: Path) -> Path:
    """The file itself: an absolute link in the root folder means a place in that folder."""
    for _ in range(10):
        if not python.is_symlink():
            break
        target = python.readlink()
        python = root / target.relative_to("/") if target.is_absolute() else python.parent / target
    if not python.is_file():
        raise Unsupported(f"the root folder has no interpreter {python}. Hint: {HOW}")
    return python


def elf_machine(path: Path) -> int | None:
    """``e_machine`` of a 64-bit little-endian ELF file; ``None`` for anything else."""
    with path.open("rb") as file:
        header = file.read(_ELF_HEADER.size)
    if len(header) < _ELF_HEADER.size:
        return None
    magic, bits, machine = _ELF_HEADER.unpack(header)
    return int(machine) if magic == b"\x7fELF" and bits == _LITTLE_64 else None


def adapted(variables: dict[str, str], code: Path) -> dict[str, str]:
    """The worker's environment variables, with ``code`` in place of the host's packages."""
    kept = {name: value for name, value in variables.items() if name not in HOSTS}
    return {**kept, "PYTHONPATH": str(code), "PYTHONNOUSERSITE": "1"}


def link_packages(code: Path) -> None:
    """Make ``code`` a folder of links to our packages and to what registers with us.

    A folder of metadata beside them tells the entry points, as an installation would.
    """
    groups = (registry.BACKENDS, registry.SCENARIOS, registry.SUITES)
    points = [point for group in groups for point in entry_points(group=group)]
    code.mkdir()
    for name in sorted({"hwbench", *(point.value.split(":")[0].split(".")[0] for point in points)}):
        place = _place(name)
        if place:
            (code / place.name).symlink_to(place)
    told = code / "hwbench_linked-0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: hwbench-linked\nVersion: 0\n")
    (told / "entry_points.txt").write_text(_listed(points))


def _place(name: str) -> Path | None:
    """Folder or file of a top-level package or module, without importing it."""
    found = find_spec(name)
    if found is None or found.origin is None:
        return None
    origin = Path(found.origin)
    return origin.parent if found.submodule_search_locations else origin


def _listed(points: Iterable[EntryPoint]) -> str:
    by_group: dict[str, dict[str, str]] = {}
    for point in points:
        by_group.setdefault(point.group, {}).setdefault(point.name, point.value)
    return "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in found.items())
        for group, found in by_group.items()
    )


def failure(stderr: str, environment: Environment) -> dict[str, str]:
    """The outcome of a worker that could not even start there; empty where nothing is known.

    Args:
        stderr: the end of what emulator and interpreter wrote.
        environment: as asked, with an emulation.
    """
    reason = _reason(stderr, environment)
    return {"outcome": "unsupported", "message": reason} if reason else {}


def _reason(stderr: str, environment: Environment) -> str:
    emulation = environment.emulation
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if emulation is None or not lines:
        return ""
    last = lines[-1]
    if "unable to find CPU model" in last:
        known = f"{emulation.emulator} -cpu help"
        return f"{emulation.emulator} knows no CPU {emulation.cpu!r}. Hint: {known} lists them"
    if last.startswith("ModuleNotFoundError: No module named"):
        module = last.rpartition(" ")[2].strip("'")
        return f"{module} is not installed in {emulation.root}. Hint: {HOW}"
    if "Could not open" in last:
        return f"the root folder {emulation.root} is not whole: {last}. Hint: {HOW}"
    return ""
