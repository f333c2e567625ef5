"""A run's numbers for other systems: Prometheus, MLflow, JSON lines."""

from hwbench.sinks.export import SINKS, export

__all__ = ["SINKS", "export"]
