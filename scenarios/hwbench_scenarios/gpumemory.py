"""Less GPU memory than the card has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hwbench.backend import SUPPORTED, Backend, Capability
from hwbench.errors import Unsupported
from hwbench.scenario import Condition, Enforced, Launch, parameter

_NO_GPU = Capability("unsupported", "this machine has no NVIDIA GPU (/dev/nvidia0)")


@dataclass(frozen=True)
class GpuMemory(Condition):
    """A bound on the GPU memory that a session may take, kept by the runtime's own allocator.

    torch counts what its allocator holds, ONNX Runtime its arena's; what the driver and the
    libraries take beside that (some hundred MiB a process) is not in it. A worker that meets the
    bound ends as ``oom``. On the processor it bounds nothing.
    """

    name: ClassVar[str] = "gpumemory"
    severities: ClassVar[tuple[str, ...]] = ("limit_mib",)
    milder: ClassVar[Literal["lower", "higher"]] = "higher"
    example: ClassVar[str] = "gpumemory: {limit_mib: [4096, 1024]}"

    limit_mib: float = parameter(..., "how much a session may take", "MiB")

    def __post_init__(self) -> None:
        """Refuse what bounds nothing."""
        if not self.limit_mib > 0:
            raise ValueError(f"limit_mib is above 0, not {self.limit_mib:g}")

    def check(self) -> Capability:
        """See ``Condition.check``."""
        return SUPPORTED if Path("/dev/nvidia0").exists() else _NO_GPU

    def refuses(self, backend: Backend) -> str:
        """See ``Condition.refuses``."""
        try:
            backend.gpu_memory_variables(self.limit_mib)
        except Unsupported as gap:
            return gap.reason
        return ""

    @contextmanager
    def enforce(self, launch: Launch) -> Iterator[Enforced]:
        """See ``Condition.enforce``."""
        launch.variables.update(launch.backend.gpu_memory_variables(self.limit_mib))
        yield Enforced("the runtime's own allocator")

    @classmethod
    def abilities(cls) -> Mapping[str, Capability]:
        """See ``Condition.abilities``."""
        return {"gpu": SUPPORTED if Path("/dev/nvidia0").exists() else _NO_GPU}
