"""Rounds of jobs to fresh worker processes; nothing that happens to a worker is lost."""

from hwbench.execute.pool import Engine, Progress, Stop, run_round
from hwbench.execute.supervise import Sink

__all__ = ["Engine", "Progress", "Sink", "Stop", "run_round"]
