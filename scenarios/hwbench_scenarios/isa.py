"""A lesser instruction set than the CPU has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hwbench.backend import SUPPORTED, Backend, Capability
from hwbench.errors import Unsupported
from hwbench.scenario import Condition, Enforced, Launch, parameter

FLAGS = {"sse4": "sse4_1", "avx2": "avx2", "avx512": "avx512f"}
VECTOR_BITS = {"sse4": 128, "avx2": 256, "avx512": 512}


@dataclass(frozen=True)
class Isa(Condition):
    """A ceiling on the runtime's own kernels, by its switches; other libraries may use more."""

    name: ClassVar[str] = "isa"
    severities: ClassVar[tuple[str, ...]] = ("ceiling",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "isa: {ceiling: [avx2, sse4]}"

    ceiling: Literal["sse4", "avx2", "avx512"] = parameter(
        ..., "highest instruction set: sse4, avx2 or avx512 (without VNNI, bf16 and AMX)"
    )

    @property
    def severity_name(self) -> str:
        """What orders the ceilings."""
        return "vector_bits"

    @property
    def severity(self) -> float:
        """Width of the widest registers."""
        return VECTOR_BITS[self.ceiling]

    def check(self) -> Capability:
        """See ``Condition.check``."""
        return _ability(self.ceiling)

    def refuses(self, backend: Backend) -> str:
        """See ``Condition.refuses``."""
        try:
            backend.isa_variables(self.ceiling)
        except Unsupported as gap:
            return gap.reason
        return ""

    def enforce(self, launch: Launch) -> AbstractContextManager[Enforced]:
        """See ``Condition.enforce``."""
        return _capped(self.ceiling, launch)

    @classmethod
    def abilities(cls) -> Mapping[str, Capability]:
        """See ``Condition.abilities``."""
        return {ceiling: _ability(ceiling) for ceiling in FLAGS}


def _ability(ceiling: str) -> Capability:
    """A ceiling that the CPU does not reach constrains nothing."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return Capability("unknown", "this system has no /proc/cpuinfo to read flags from")
    if FLAGS[ceiling] in path.read_text().split():
        return SUPPORTED
    return Capability("unsupported", f"this CPU has no {ceiling} itself")


@contextmanager
def _capped(ceiling: str, launch: Launch) -> Iterator[Enforced]:
    variables = launch.backend.isa_variables(ceiling)
    launch.variables.update(variables)
    yield Enforced(" ".join(f"{name}={value}" for name, value in variables.items()))
