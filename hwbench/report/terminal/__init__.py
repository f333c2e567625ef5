"""The summary a person reads at a glance in the terminal."""

from hwbench.report.terminal.summary import summary

__all__ = ["summary"]
