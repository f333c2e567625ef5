"""Rows to tidy tables: pandas over the stored parts. Nothing here runs a model."""

from hwbench.collect.schema import TABLES
from hwbench.collect.tables import collect, write

__all__ = ["TABLES", "collect", "write"]
