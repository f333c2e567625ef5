"""Nightly runs: series of every number, where they changed, and whether tonight is worse."""

from hwbench.history.account import History, history
from hwbench.history.judge import Finding, Rule, judge
from hwbench.history.nights import Key, Night, Series, read, series

__all__ = [
    "Finding",
    "History",
    "Key",
    "Night",
    "Rule",
    "Series",
    "history",
    "judge",
    "read",
    "series",
]
