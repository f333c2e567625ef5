"""hwbench: does a trained network still work, and fast enough, on misbehaving hardware?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwbench.api import Run, resume, sweep

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "resume", "sweep"]


def __getattr__(name: str) -> Any:
    """``hwbench.Run`` and its companions on first use: every worker imports this package."""
    if name in __all__:
        return getattr(import_module("hwbench.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
