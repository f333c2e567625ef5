"""The third party's own test file; run with ``pytest conformance.py`` where it is installed."""

from __future__ import annotations

from hwbench_example import ExampleBackend

from hwbench.testing.conformance import BackendConformance


class TestExample(BackendConformance):
    """Everything that a backend promises."""

    backend = ExampleBackend
