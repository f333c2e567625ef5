"""How each metric's series is read."""

from __future__ import annotations

from hwbench.history.judge import Rule

# Latency: 2 % is what change points of 3 % noise can be placed by; twice as slow waits for nobody.
LATENCY = Rule(ratio=True, higher_is_better=False, threshold=0.02, breaks=1.0)
RATE = Rule(ratio=True, higher_is_better=True, threshold=0.02, breaks=0.5)
# Shares have no noise while model, data and seed stay: half a point beyond what was is a break.
ACCURACY = Rule(ratio=False, higher_is_better=True, threshold=0.005, breaks=0.005)
HARM = Rule(ratio=False, higher_is_better=False, threshold=0.005, breaks=0.005)

RULES = {
    "latency_p50_ms": LATENCY,
    "throughput_per_s": RATE,
    "rate_per_s": RATE,
    "accuracy": ACCURACY,
    "harmed_per_sample": HARM,
}
