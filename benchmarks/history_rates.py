"""How often `hwbench history` is right: python benchmarks/history_rates.py [--series N]

Series of nightly latencies are simulated and judged as a user's are, every night anew. An alarm is
a night with exit code 1 behind one without: a change that stays red for days is one alarm.

  flat      independent noise of 3 %
  ar        the same with autocorrelation 0.5 from night to night
  spikes    3 % noise, and 3 nights in 100 slower by an exponential of mean 20 %
  step      119 nights of 3 % noise of which the last few are 5 % slower: found, and alarmed?
  break     the same, 2.5 times as slow: alarm in the first night?
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import signal

from hwbench.history.judge import Finding, Rule, judge
from hwbench.history.rules import LATENCY

NOISE, NIGHTS, BEFORE = 0.03, 100, 20
Floats = npt.NDArray[np.float64]


def flat(draw: np.random.Generator, n: int) -> Floats:
    noise: Floats = NOISE * draw.normal(size=n)
    return noise


def autocorrelated(draw: np.random.Generator, n: int) -> Floats:
    shocks = NOISE * np.sqrt(1 - 0.5**2) * draw.normal(size=n + 50)
    return np.asarray(signal.lfilter([1.0], [1.0, -0.5], shocks)[50:])


def spiked(draw: np.random.Generator, n: int) -> Floats:
    spikes = np.log1p(draw.exponential(0.2, size=n)) * (draw.uniform(size=n) < 0.03)
    return np.asarray(flat(draw, n) + spikes)


def stepped(size: float, nights: int) -> Callable[[np.random.Generator], Floats]:
    def made(draw: np.random.Generator) -> Floats:
        values = flat(draw, 120)
        values[120 - nights :] += np.log1p(size)
        return values

    return made


def alarms(logs: Floats, rule: Rule) -> int:
    """Alarms over the last ``NIGHTS`` nights, each judged by what was known then."""
    values, red, count = np.exp(logs), False, 0
    for night in range(len(values) - NIGHTS, len(values)):
        now = judge(values[: night + 1].tolist(), rule).alarm is not None
        count, red = count + (now and not red), now
    return count


def found(finding: Finding, n: int, nights: int) -> bool:
    """Whether a change for the worse was found about where it is."""
    last = finding.last
    return last is not None and finding.worse and abs(last.index - (n - nights)) <= 5


def found_by(draw: np.random.Generator, nights: int, rule: Rule) -> tuple[bool, bool]:
    """Found, and alarmed, on any of the first ``nights`` nights behind a step of 5 %."""
    logs = stepped(0.05, nights)(draw)
    told = alarmed = False
    for night in range(1, nights + 1):
        end = 120 - nights + night
        finding = judge(np.exp(logs[:end]).tolist(), rule)
        told |= found(finding, end, night)
        alarmed |= finding.alarm is not None
    return told, alarmed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, default=200)
    count = parser.parse_args().series
    start = time.process_time()
    result: dict[str, Any] = {}
    for name, make in (("flat", flat), ("ar", autocorrelated), ("spikes", spiked)):
        draw = np.random.default_rng(7)
        runs = [alarms(make(draw, BEFORE + NIGHTS), LATENCY) for _ in range(count)]
        result[f"{name}: alarms per 100 nights"] = (
            float(np.mean(runs)),
            float(np.std(runs) / np.sqrt(count)),
        )
        print(name, result[f"{name}: alarms per 100 nights"], flush=True)
    draw = np.random.default_rng(8)
    ends = [judge(np.exp(flat(draw, 120)).tolist(), LATENCY).last for _ in range(5 * count)]
    result["flat: flagged at the end of 120"] = float(np.mean([e is not None for e in ends]))
    for nights in (5, 10):
        runs_by = [found_by(draw, nights, LATENCY) for _ in range(count)]
        result[f"+5 %: found, alarmed within {nights}"] = np.mean(runs_by, axis=0).tolist()
    doubled = [judge(np.exp(stepped(1.5, 1)(draw)).tolist(), LATENCY).alarm for _ in range(count)]
    result["2.5 times as slow: alarm the first night"] = float(
        np.mean([a is not None for a in doubled])
    )
    result["cpu_s"] = round(time.process_time() - start, 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
