"""Whether latencies can be believed: what the machine and the samples themselves say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.record import Row
from hwbench.stats.latency import RECOMMENDED_PROCESSES

TRUSTWORTHY, UNSTABLE = "trustworthy", "unstable"

SPREAD = 0.05  # standard deviation of log medians between processes
RELATIVE_SD = 0.10  # of the calls within a process, by quartiles
AUTOCORRELATION = 0.9  # 0.46 is usual for calls back to back; this is a drift
OTHERS_CPU = 0.10  # cores
STEAL = 0.01  # of the time of all cores
FREQUENCY = 0.05  # change of core frequency
SPEEDUP = 1.10  # MLPerf's bound for a repeated sample
AGREEMENT = 0.99  # MLPerf's usual quality target


@dataclass(frozen=True)
class Finding:
    """Something wrong, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def findings(
    processes: Sequence[Row], *, constrained: bool, perturbed: bool, queued: bool = False
) -> list[Finding]:
    """What is wrong with the processes of one arm; nothing for a trustworthy one.

    Args:
        processes: their rows, all ``ok``.
        constrained: under a condition, whose load, throttling and spread are asked for.
        perturbed: under faults or noise, whose patterns may differ in speed and answers.
        queued: calls wait for one another, so that latencies vary and follow one another.
    """
    found = [_few(processes), _swapped(processes), _steal(processes), _same_input(processes)]
    if not perturbed:
        found.append(_answers(processes))
    if not perturbed and not constrained:
        found.append(_spread(processes))
    if not constrained:
        found += [_others(processes), _throttled(processes), _frequency(processes)]
    if not constrained and not queued:
        found += [_noisy(processes), _drifting(processes)]
    return [each for each in found if each is not None]


def verdict(found: Sequence[Finding]) -> str:
    """``trustworthy`` or ``unstable``."""
    return UNSTABLE if found else TRUSTWORTHY


def _values(processes: Sequence[Row], name: str) -> list[float]:
    return [each[name] for each in processes if each.get(name) is not None]


def _typical(processes: Sequence[Row], name: str) -> float:
    """The median over processes; 0 where nothing is known."""
    return float(np.median(_values(processes, name) or [0.0]))


def _few(processes: Sequence[Row]) -> Finding | None:
    if len(processes) >= RECOMMENDED_PROCESSES:
        return None
    what = f"{len(processes)} of at least {RECOMMENDED_PROCESSES} processes"
    return Finding(what, f"set latency.processes to {RECOMMENDED_PROCESSES} or more")


def _spread(processes: Sequence[Row]) -> Finding | None:
    medians = _values(processes, "latency_p50_ms")
    spread = float(np.std(np.log(medians), ddof=1)) if len(medians) > 1 else 0.0
    if spread <= SPREAD:
        return None
    return Finding(f"processes differ by {spread:.0%}", "run more of them, or quieten the machine")


def _noisy(processes: Sequence[Row]) -> Finding | None:
    spread = _typical(processes, "relative_sd")
    if spread <= RELATIVE_SD:
        return None
    return Finding(f"calls of a process vary by {spread:.0%}", "raise min_duration_s")


def _drifting(processes: Sequence[Row]) -> Finding | None:
    value = _typical(processes, "autocorrelation")
    if value <= AUTOCORRELATION:
        return None
    return Finding(f"calls drift within a process (autocorrelation {value:.2f})", "raise warmup_s")


def _others(processes: Sequence[Row]) -> Finding | None:
    cores = _typical(processes, "others_cpu")
    if cores <= OTHERS_CPU:
        return None
    return Finding(f"other processes kept {cores:.1f} cores busy", "stop them while it measures")


def _steal(processes: Sequence[Row]) -> Finding | None:
    share = max(_values(processes, "steal_share"), default=0.0)
    if share <= STEAL:
        return None
    what = f"the hypervisor took {share:.1%} of the time"
    return Finding(what, "use a dedicated machine, or another hour")


def _swapped(processes: Sequence[Row]) -> Finding | None:
    pages = sum(_values(processes, "swapped_pages"))
    if not pages:
        return None
    return Finding(f"{pages:.0f} pages were swapped", "free memory, or swapoff")


def _throttled(processes: Sequence[Row]) -> Finding | None:
    hot = sum(_values(processes, "cpu_throttles"))
    quota = sum(_values(processes, "throttled_periods"))
    if hot:
        return Finding(f"cores were slowed down for heat {hot:.0f} times", "cool, or pause between")
    if quota:
        return Finding(f"a CPU quota held it up {quota:.0f} times", "raise the quota")
    return None


def _frequency(processes: Sequence[Row]) -> Finding | None:
    low = min(_values(processes, "frequency_min_mhz"), default=0.0)
    high = max(_values(processes, "frequency_max_mhz"), default=0.0)
    if not low or high / low - 1 <= FREQUENCY:
        return None
    what = f"core frequencies went from {low:.0f} to {high:.0f} MHz"
    return Finding(what, "fix the governor at performance, and turbo off")


def _same_input(processes: Sequence[Row]) -> Finding | None:
    speedup = _typical(processes, "same_input_speedup")
    if speedup <= SPEEDUP:
        return None
    what = f"an input repeated is {speedup - 1:.0%} faster than in rotation"
    return Finding(what, "something is cached, and users may not see this speed")


def _answers(processes: Sequence[Row]) -> Finding | None:
    agreement = min(_values(processes, "sampled_agreement"), default=1.0)
    if agreement >= AGREEMENT:
        return None
    what = f"only {agreement:.1%} of the timed answers agree with the accuracy run"
    return Finding(what, "the speed is that of another function, look at batch and precision")
