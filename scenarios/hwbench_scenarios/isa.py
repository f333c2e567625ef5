"""A lesser instruction set than the CPU has: by the runtime's own switches, or emulated."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hwbench.backend import SUPPORTED, Backend, Capability
from hwbench.errors import Unsupported
from hwbench.scenario import Condition, Enforced, Launch, parameter

NATIVE = "native"
FLAGS = {"sse4": "sse4_1", "avx2": "avx2", "avx512": "avx512f"}
VECTOR_BITS = {"sse4": 128, "avx2": 256, "avx512": 512}

# Models of qemu's user emulation by our names for them. Whatever the model, qemu 7.2 emulates
# up to AVX2 and FMA, and no AVX-512: the worker reads CPUID and says what it found.
EMULATED = {"haswell": "Haswell", "skylake-server": "Skylake-Server", "epyc": "EPYC"}
EMULATOR = "qemu-x86_64"
INSTALL = f"{EMULATOR} is not installed. Hint: apt-get install qemu-user"


@dataclass(frozen=True)
class Isa(Condition):
    """A lesser instruction set: a ceiling by the runtime's own switches, or an emulated CPU.

    ``sse4``, ``avx2`` and ``avx512`` cap the runtime's own kernels; other libraries may use more.
    ``haswell``, ``skylake-server`` and ``epyc`` run the whole worker under qemu, for any runtime:
    what it computes is as on such a CPU, how long that takes is not, so there is no latency.
    """

    name: ClassVar[str] = "isa"
    severities: ClassVar[tuple[str, ...]] = ("ceiling",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "isa: [avx2, sse4, haswell]"

    ceiling: Literal["native", "avx512", "avx2", "sse4", "haswell", "skylake-server", "epyc"] = (
        parameter(
            ...,
            "avx512 (without VNNI, bf16 and AMX), avx2 or sse4 by the runtime's switches; haswell,"
            " skylake-server or epyc emulated (up to AVX2); native: no ceiling",
        )
    )

    @property
    def severity_name(self) -> str:
        """What orders the ceilings."""
        return "vector_bits"

    @property
    def severity(self) -> float:
        """Width of the widest registers."""
        if self.ceiling == NATIVE:
            return max((VECTOR_BITS[each] for each in FLAGS if _has(each)), default=0)
        return VECTOR_BITS.get(self.ceiling, VECTOR_BITS["avx2"])

    @property
    def variant(self) -> str:
        """The CPU, where it is not a ceiling: several have registers of one width."""
        return "" if self.ceiling in VECTOR_BITS else self.ceiling

    def check(self) -> Capability:
        """See ``Condition.check``."""
        return _ability(self.ceiling)

    def refuses(self, backend: Backend) -> str:
        """See ``Condition.refuses``."""
        if self.ceiling in VECTOR_BITS:
            try:
                backend.isa_variables(self.ceiling)
            except Unsupported as gap:
                return gap.reason
        return ""

    def enforce(self, launch: Launch) -> AbstractContextManager[Enforced]:
        """See ``Condition.enforce``."""
        if self.ceiling in EMULATED:
            return _emulated(EMULATED[self.ceiling], launch)
        return _capped(self.ceiling, launch)

    @classmethod
    def abilities(cls) -> Mapping[str, Capability]:
        """See ``Condition.abilities``."""
        return {ceiling: _ability(ceiling) for ceiling in (*FLAGS, *EMULATED)}


def _has(ceiling: str) -> bool:
    path = Path("/proc/cpuinfo")
    return path.exists() and FLAGS[ceiling] in path.read_text().split()


def _ability(ceiling: str) -> Capability:
    """A ceiling that the CPU does not reach constrains nothing."""
    if ceiling == NATIVE:
        return SUPPORTED
    if ceiling in EMULATED:
        return SUPPORTED if shutil.which(EMULATOR) else Capability("unsupported", INSTALL)
    if not Path("/proc/cpuinfo").exists():
        return Capability("unknown", "this system has no /proc/cpuinfo to read flags from")
    if _has(ceiling):
        return SUPPORTED
    return Capability("unsupported", f"this CPU has no {ceiling} itself")


@contextmanager
def _capped(ceiling: str, launch: Launch) -> Iterator[Enforced]:
    if ceiling == NATIVE:
        yield Enforced("no ceiling")
        return
    variables = launch.backend.isa_variables(ceiling)
    launch.variables.update(variables)
    yield Enforced(" ".join(f"{name}={value}" for name, value in variables.items()))


@contextmanager
def _emulated(model: str, launch: Launch) -> Iterator[Enforced]:
    """The emulator goes right before the interpreter: what it ``exec``s would run natively."""
    emulator = shutil.which(EMULATOR)
    if emulator is None:
        raise Unsupported(INSTALL)
    at = launch.argv.index(sys.executable)
    launch.argv[at:at] = [emulator, "-cpu", model]
    yield Enforced(f"{EMULATOR} -cpu {model}", emulated=True)
