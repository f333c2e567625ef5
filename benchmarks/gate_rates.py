"""How often gates pass devices at their limit, and devices at half of it, looks and follow-ups in.

    python benchmarks/gate_rates.py [--devices 400] [--only drop]

Every device goes through the code that ``hwbench qualify`` runs. *At the limit* it is looked at
again and again while data come in, from the first look to the last, and is stopped at the first
verdict: whoever stops early or resumes sees some of these looks. *At half the limit* it has one
run, and where that is inconclusive, one follow-up of the size that the verdict names.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize

from hwbench import stats
from hwbench.qualify import FAIL, INCONCLUSIVE, PASS
from hwbench.qualify.decide import decide
from hwbench.qualify.evidence import Crossed, Evidence, Processes, Samples
from hwbench.qualify.scale import LOG, PLAIN, Scale, of_gate
from hwbench.qualify.summed import Summed
from hwbench.qualify.totals import metric_of
from hwbench.spec.gates import GateSpec

Counts = dict[str, int]
Matrix = npt.NDArray[np.int8]

BLOCK = 2000  # patterns that are drawn at a time
RIGHT = 0.9  # clean accuracy of all devices


@dataclass(frozen=True)
class Study:
    """One kind of gate and device.

    Attributes:
        name: for --only.
        what: printed.
        gate: the requirement.
        scale: of its evidence.
        limit: the device's value at the gate's limit.
        half: at half the limit, or at the good end of the zone.
        device: makes a device of a value: evidence from counts.
        start: counts of the first run.
        looks: counts at which a device at the limit is looked at.
    """

    name: str
    what: str
    gate: GateSpec
    scale: Scale
    limit: float
    half: float
    device: Callable[[float, np.random.Generator], Callable[[Counts], Evidence]]
    start: Counts
    looks: list[Counts]


def chips(gate: GateSpec, bad: float, spread: float) -> Callable[..., Callable[[Counts], Evidence]]:
    """Devices whose accuracy drops in a share ``bad`` of patterns, by less in the others.

    Images differ in how easily they are lost (gamma variables); the share of images that a bad
    pattern loses is what gives the drop asked for, and varies between patterns by ``spread``.
    """
    eases = np.random.default_rng(1).gamma(4.0, 0.25, size=4096)
    levels = np.exp(spread * np.random.default_rng(2).normal(size=512))

    def drop(level: float) -> float:
        lost = np.minimum(1.0, level * levels[:, None] * eases[None]).mean()
        return RIGHT * (bad * float(lost) + (1 - bad) * 0.0005)

    @lru_cache
    def level_of(value: float) -> float:
        return float(optimize.brentq(lambda each: drop(each) - value, 0.0, 60.0))

    def device(value: float, rng: np.random.Generator) -> Callable[[Counts], Evidence]:
        level = level_of(value)
        seed = int(rng.integers(2**62))

        return grown(
            lambda counts: lost_samples(seed, level, counts, bad, spread),
            lambda values: Crossed(values, -1.0, 1.0, _bounds(seed, values.shape[1]), gate.zone),
        )

    return device


def grown(
    make: Callable[[Counts], Matrix], judge: Callable[[Matrix], Evidence]
) -> Callable[[Counts], Evidence]:
    """Evidence from counts; a block of patterns is made once."""
    known: dict[int, Matrix] = {}

    def evidence(counts: Counts) -> Evidence:
        patterns, samples = counts["patterns"], counts["samples"]
        whole = -(-patterns // BLOCK) * BLOCK
        if len(known.get(samples, ())) < whole:
            known[samples] = make({"patterns": whole, "samples": samples})
        return judge(known[samples][:patterns])

    return evidence


def _right(seed: int, samples: int) -> npt.NDArray[np.bool_]:
    """Samples that the clean device classifies rightly."""
    return np.asarray(np.random.default_rng([seed, 3]).random(samples) < RIGHT)


def _bounds(seed: int, samples: int) -> tuple[float, float]:
    """Of the drop that a pattern can cause: no more than there was to lose."""
    right = float(_right(seed, samples).mean())
    return right - 1.0, right


def lost_samples(seed: int, level: float, counts: Counts, bad: float, spread: float) -> Matrix:
    """1 where a pattern loses a sample; a larger matrix holds every smaller one.

    So it does because a stream of random numbers begins alike however many are drawn.
    """
    samples = counts["samples"]
    draws = np.random.default_rng([seed, 0]).gamma(4.0, 0.25, size=samples)
    right = _right(seed, samples)
    patterns = counts["patterns"]
    found = np.zeros((patterns, samples), np.int8)
    mild = np.random.default_rng([seed, 2]).integers(2_000, size=patterns)
    hit = np.flatnonzero(mild < samples)  # nearly harmless: one sample in 2,000
    found[hit, mild[hit]] = right[mild[hit]]
    which = np.random.default_rng([seed, 1]).random(patterns) < bad
    for pattern in np.flatnonzero(which):
        own = np.random.default_rng([seed, 4, int(pattern)])
        harm = level * math.exp(spread * own.normal()) * draws
        found[pattern] = right & (own.random(samples) < harm)
    return found


def singles(gate: GateSpec) -> Callable[..., Callable[[Counts], Evidence]]:
    """Devices of whose single faults a tenth change decisions: of a beta-distributed share."""

    def device(value: float, rng: np.random.Generator) -> Callable[[Counts], Evidence]:
        seed = int(rng.integers(2**62))
        mean = value / 0.1

        def matrix(counts: Counts) -> Matrix:
            patterns, samples = counts["patterns"], counts["samples"]
            counting = np.random.default_rng([seed, 0]).random(patterns) < 0.1
            shares = np.random.default_rng([seed, 2]).beta(mean, 1 - mean, size=patterns) * counting
            values = np.zeros((patterns, samples), np.int8)
            for pattern in np.flatnonzero(shares):
                row = np.random.default_rng([seed, 1, int(pattern)]).random(samples)
                values[pattern] = row < shares[pattern]
            return values

        return grown(matrix, lambda each: Crossed(each, 0.0, 1.0, (0.0, 1.0), gate.zone))

    return device


def noisy(value: float, rng: np.random.Generator) -> Callable[[Counts], Evidence]:
    """Devices under noise that is drawn for each sample; samples differ in their risk."""
    risk = rng.beta(0.5, 0.5 * (1 / value - 1), size=40_000)
    seed = int(rng.integers(2**62))

    def evidence(counts: Counts) -> Evidence:
        rows = [
            np.random.default_rng([seed, draw]).random(40_000)[: counts["samples"]]
            < risk[: counts["samples"]]
            for draw in range(counts["patterns"])
        ]
        return Samples(np.asarray(rows, np.int8), 0.0, 1.0, drawn=True)

    return evidence


def clocks(spread: float, slow: float) -> Callable[..., Callable[[Counts], Evidence]]:
    """Processes with normal logs; a share of them is slower by an exponential 10 %."""

    def device(value: float, rng: np.random.Generator) -> Callable[[Counts], Evidence]:
        logs = spread * rng.normal(size=2_000)
        logs += np.where(rng.random(2_000) < slow, rng.exponential(0.1, 2_000), 0.0) - 0.1 * slow
        return lambda counts: Processes(math.log(value) + logs[: counts["processes"]])

    return device


def races(spread: float) -> Callable[..., Callable[[Counts], Evidence]]:
    """Two arms of processes."""

    def device(value: float, rng: np.random.Generator) -> Callable[[Counts], Evidence]:
        logs = rng.normal(size=(2, 2_000)) * spread

        def evidence(counts: Counts) -> Evidence:
            n = counts["processes"]
            return Processes(math.log(value) + logs[0, :n], logs[1, :n])

        return evidence

    return device


def noise_power(gate: GateSpec, spread: float) -> Callable[..., Callable[[Counts], Evidence]]:
    """Devices whose chips, and batches of 32 samples, differ in the noise that they add."""
    scale = of_gate(gate)
    number = metric_of(gate, scale)

    def device(value: float, rng: np.random.Generator) -> Callable[[Counts], Evidence]:
        chip = rng.lognormal(-(spread**2) / 2, spread, size=(16_000, 1))
        batch = rng.lognormal(-0.02, 0.2, size=(1, 200))

        def evidence(counts: Counts) -> Evidence:
            patterns, batches = counts["patterns"], counts["samples"] // 32
            added = 10 ** (-value / 10) * chip[:patterns] * batch[:, :batches]
            sums = np.stack((np.ones_like(added), added), axis=-1)
            return Summed(sums, number, "pattern", "batch", 32)

        return evidence

    return device


def _gate(**content: object) -> GateSpec:
    return GateSpec.model_validate(content)


def _grown(name: str, values: Iterable[int], fixed: Counts) -> list[Counts]:
    return [{**fixed, name: value} for value in values]


def studies() -> Iterator[Study]:
    """Everything that is simulated."""
    drop = _gate(metric="accuracy", versus="clean", max=0.02, scenario="bitflip")
    for name, bad, spread in (("drop", 0.03, 0.3), ("collapse", 0.012, 1.0)):
        what = f"accuracy drop, {bad:.1%} of patterns do the damage"
        made = chips(drop, bad, spread)
        looks = _grown("patterns", range(1000, 8001, 1000), {"samples": 1000})
        start = {"patterns": 50, "samples": 500}
        half = 0.01
        level = 0.02 if bad == 0.03 else 0.0095
        gate = drop if bad == 0.03 else _gate(**{**drop.model_dump(), "max": level})
        if bad != 0.03:
            made, half = chips(gate, bad, spread), level / 2
        yield Study(name, what, gate, PLAIN, level, half, made, start, looks)
    sdc = _gate(metric="p_sdc", max=0.02, scenario="singlebit")
    looks = _grown("patterns", range(1000, 8001, 1000), {"samples": 1000})
    start = {"patterns": 100, "samples": 500}
    what = "P(sdc) per sample, a tenth of single faults counts"
    yield Study("sdc", what, sdc, PLAIN, 0.02, 0.01, singles(sdc), start, looks)
    noise = _gate(metric="p_sdc", max=0.04, scenario="noise")
    looks = _grown("patterns", range(1, 41), {"samples": 1000})
    start = {"patterns": 3, "samples": 300}
    what = "P(sdc) per sample under noise"
    yield Study("noise", what, noise, PLAIN, 0.04, 0.02, noisy, start, looks)
    sqnr = _gate(metric="sqnr_golden_db", min=20, scenario="bitflip")
    looks = _grown("patterns", (30 * 2**look for look in range(7)), {"samples": 1024})
    start = {"patterns": 30, "samples": 1024}
    for name, spread in (("sqnr", 0.5), ("sqnr-skewed", 1.0), ("sqnr-heavy", 1.5)):
        what = f"SQNR, chips differ by a factor e^{spread:g}; 'half' is 3 dB better"
        made = noise_power(sqnr, spread)
        yield Study(name, what, sqnr, of_gate(sqnr), 20.0, 23.0, made, start, looks)
    p99 = _gate(metric="latency_p99_ms", max=20)
    looks = _grown("processes", range(3, 121), {})
    for name, spread, slow in (("latency", 0.03, 0.0), ("slow", 0.02, 0.2)):
        made = clocks(spread, slow)
        tail = ", a fifth of them slowed down" if slow else ""
        what = f"p99, processes differ by {spread:.0%}{tail}"
        yield Study(name, what, p99, LOG, 20.0, 10.0, made, {"processes": 5}, looks)
        zone = f"{what}; 'half' is the zone's good end"
        yield Study(f"{name}-zone", zone, p99, LOG, 20.0, 18.0, made, {"processes": 5}, looks)
    ratio = _gate(metric="latency_p50_ms", versus="baseline", max=1.2)
    what = "p50 to the baseline's; 'half' is 1.1"
    yield Study("ratio", what, ratio, LOG, 1.2, 1.1, races(0.05), {"processes": 5}, looks)


def watched(study: Study, rng: np.random.Generator) -> str:
    """The first verdict on a device at the limit, looked at all the time."""
    evidence = study.device(study.limit, rng)
    for counts in study.looks:
        made = decide(study.gate, evidence(counts), study.scale, plan=False)
        if made.verdict != INCONCLUSIVE:
            return made.verdict
    return INCONCLUSIVE


def followed(study: Study, value: float, rng: np.random.Generator) -> tuple[str, str, Counts]:
    """First and last verdict on a device, and what was added between them."""
    evidence = study.device(value, rng)
    first = decide(study.gate, evidence(study.start), study.scale)
    if first.needs is None:
        return first.verdict, first.verdict, {}
    more = dict(first.needs.more)
    counts = {name: count + more.get(name, 0) for name, count in study.start.items()}
    last = decide(study.gate, evidence(counts), study.scale, plan=False)
    return first.verdict, last.verdict, more


def plain(rng: np.random.Generator, devices: int) -> float:
    """How often a plain 95 % Wilson interval passes a proportion at its limit, looked at so."""
    passed = 0
    for _ in range(devices):
        hits = np.cumsum(rng.random(1200) < 0.1)
        limits = (stats.wilson(int(hits[n - 1]), n, 0.9).high for n in range(20, 1201, 20))
        passed += any(limit <= 0.1 for limit in limits)
    return passed / devices


def report(study: Study, devices: int, seed: int) -> None:
    """One study in a few lines."""
    streams = [np.random.default_rng([seed, index]) for index in range(2 * devices)]
    at = [watched(study, stream) for stream in streams[:devices]]
    half = [followed(study, study.half, stream) for stream in streams[devices:]]
    wrong = [followed(study, study.limit, stream)[1] for stream in streams[devices:]]
    passed = sum(last == PASS for _, last, _ in half)
    failed = sum(last == FAIL for _, last, _ in half)
    high = stats.clopper_pearson(at.count(PASS), devices).high
    low = stats.clopper_pearson(passed, devices).low
    print(f"{study.name}: {study.what} ({study.gate.label}, zone {study.gate.zone:g})")
    print(
        f"  at the limit, {len(study.looks)} looks: {at.count(PASS) / devices:.1%} pass"
        f" (95 % limit {high:.1%}), {at.count(FAIL) / devices:.1%} fail;"
        f" {wrong.count(PASS) / devices:.1%} pass after one follow-up"
    )
    at_once = sum(first == PASS for first, _, _ in half) / devices
    print(
        f"  at half: {at_once:.1%} pass at once, {passed / devices:.1%} after at most one"
        f" follow-up (95 % limit {low:.1%}), {failed / devices:.1%} fail"
    )
    for name in study.start:
        sizes = [more[name] for _, _, more in half if name in more]
        if sizes:
            ends = np.quantile(sizes, [0.1, 0.5, 0.9]).astype(int).tolist()
            print(f"    follow-ups of {name}: {len(sizes)}, size {ends} (10, 50, 90 %)")


def main() -> None:
    """Print every study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    if not asked.only:
        share = plain(np.random.default_rng(asked.seed), asked.devices)
        print(f"a plain interval, 60 looks: {share:.1%} of devices at the limit pass")
    for study in studies():
        if asked.only in ("", study.name):
            report(study, asked.devices, asked.seed)


if __name__ == "__main__":
    main()
