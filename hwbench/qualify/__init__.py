"""Gates to a verdict: pass, fail or inconclusive, and what would decide. Runs no model."""

from hwbench.qualify.decide import FAIL, INCONCLUSIVE, PASS
from hwbench.qualify.files import load_gates, write
from hwbench.qualify.verdict import Judgement, Qualification, qualify

__all__ = [
    "FAIL",
    "INCONCLUSIVE",
    "PASS",
    "Judgement",
    "Qualification",
    "load_gates",
    "qualify",
    "write",
]
