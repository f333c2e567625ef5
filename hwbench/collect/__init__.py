"""Rows to tidy tables: pandas over the stored parts. Nothing here runs a model."""

from hwbench.collect.tables import TABLES, collect, write

__all__ = ["TABLES", "collect", "write"]
