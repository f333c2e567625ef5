"""How often `hwbench history` is right: python benchmarks/history_rates.py [--series N]

Series of nightly latencies are simulated and judged as a user's are, every night anew. An alarm is
a night with exit code 1 behind one without: a change that stays red for days is one alarm.

  flat      independent noise of 3 %
  ar        the same with autocorrelation 0.5 from night to night
  spikes    3 % noise, and 3 nights in 100 slower by an exponential of mean 20 %
  step      119 nights of 3 % noise of which the last few are 5 % slower: found, and alarmed?
  break     the same, 2.5 times as slow: alarm in the first night?

Every figure stands beside its 95 % limits: exact ones of a share, Poisson ones of a count.
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
from scipy.stats import chi2

from hwbench.history.judge import Finding, Rule, judge
from hwbench.history.rules import LATENCY
from hwbench.stats import clopper_pearson

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


def share(hits: npt.ArrayLike) -> list[float]:
    """A share and its limits."""
    flags = np.asarray(hits, dtype=np.bool_)
    limits = clopper_pearson(int(flags.sum()), flags.size)
    return [round(each, 4) for each in (float(flags.mean()), limits.low, limits.high)]


def rate(counts: list[int]) -> list[float]:
    """Events per series and the limits of that, as of a Poisson count."""
    events, n = sum(counts), len(counts)
    low = chi2.ppf(0.025, 2 * events) / 2 if events else 0.0
    high = chi2.ppf(0.975, 2 * events + 2) / 2
    return [round(each / n, 4) for each in (events, low, high)]


def nightly(make: Callable[[np.random.Generator, int], Floats], count: int) -> list[float]:
    """Alarms per 100 nights."""
    draw = np.random.default_rng(7)
    return rate([alarms(make(draw, BEFORE + NIGHTS), LATENCY) for _ in range(count)])


def ends(count: int) -> list[float]:
    """Share of flat series with a change, for the better or the worse, at their end."""
    draw = np.random.default_rng(8)
    last = [judge(np.exp(flat(draw, 120)).tolist(), LATENCY).last for _ in range(count)]
    return share([each is not None for each in last])


def steps(nights: int, count: int) -> dict[str, list[float]]:
    """Share of steps that are found, and that are an alarm, within some nights."""
    draw = np.random.default_rng([9, nights])
    told = np.array([found_by(draw, nights, LATENCY) for _ in range(count)])
    return {"found": share(told[:, 0]), "alarm": share(told[:, 1])}


def breaks(count: int) -> list[float]:
    """Share of large breaks that are an alarm the first night."""
    draw = np.random.default_rng(10)
    made = [judge(np.exp(stepped(1.5, 1)(draw)).tolist(), LATENCY).alarm for _ in range(count)]
    return share([each is not None for each in made])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, default=200)
    studies: dict[str, tuple[str, Callable[[int], Any]]] = {
        "step": ("+5 %, within 5 nights", lambda n: steps(5, n)),
        "step10": ("+5 %, within 10 nights", lambda n: steps(10, n)),
        "end": ("flat, 5 times as many series: flagged at the end of 120", lambda n: ends(5 * n)),
        "break": ("2.5 times as slow: alarm the first night", breaks),
        "flat": ("flat: alarms per 100 nights", lambda n: nightly(flat, n)),
        "ar": ("autocorrelation 0.5: alarms per 100 nights", lambda n: nightly(autocorrelated, n)),
        "spikes": ("spikes: alarms per 100 nights", lambda n: nightly(spiked, n)),
    }
    parser.add_argument("--only", choices=studies, nargs="*", default=list(studies))
    options = parser.parse_args()
    for name in options.only:
        what, study = studies[name]
        start = time.process_time()
        result = study(options.series)
        print(
            json.dumps({what: result, "cpu_s": round(time.process_time() - start, 1)}), flush=True
        )


if __name__ == "__main__":
    main()
