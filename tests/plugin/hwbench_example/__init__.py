"""A third party's backend and scenario: everything that hwbench needs of a plug-in."""

from __future__ import annotations

from hwbench_example.backend import ExampleBackend
from hwbench_example.scenario import Brownout

__all__ = ["Brownout", "ExampleBackend"]
