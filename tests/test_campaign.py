"""Campaigns that stop by themselves: exact coverage, simulated coverage, purity, cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwbench import campaign
from hwbench.campaign import (
    Campaign,
    Counts,
    Report,
    Stratum,
    allocate,
    data_aware_proportions,
    fixed_plans,
    outcome,
    pooled,
)
from hwbench.stats import Interval, calibrated_confidence, normal_quantile, spent_confidence
from hwbench.stats.sequential import least_coverage, stop_table, stopped_coverage
from hwbench.stats.stratified import limits

ORACLE = Path(__file__).parents[2] / "shared" / "oracles" / "fault_sample_sizes.json"
FIELDS = {"sign": (1, 0.08), "exponent-msb": (1, 0.7), "exponent": (7, 0.04), "mantissa": (23, 0.0)}


def table(scale: float, cap: float = 0.95) -> tuple[tuple[Stratum, ...], np.ndarray]:
    """Heavy-tailed as real ones are: the highest exponent bit does most, the last layer nothing."""
    strata, hits = [], []
    for layer, weights in {"conv1": 72, "conv2": 864, "fc": 1152, "last": 240}.items():
        for name, (bits, rate) in FIELDS.items():
            size = weights * bits
            strata.append(Stratum(layer, name, size))
            hits.append(0 if layer == "last" else round(min(cap, scale * rate) * size))
    return tuple(strata), np.asarray(hits)


def sampled(made: Campaign, hits: np.ndarray, runs: int, seed: int = 0):
    """Limits, trials and hits of stopped campaigns drawn from a table of all faults."""
    rng, sizes = np.random.default_rng(seed), np.asarray(made.sizes)
    quantile = normal_quantile(made.nominal)
    seen, found = np.zeros((runs, sizes.size), int), np.zeros((runs, sizes.size), int)
    low, high, alive = np.zeros(runs), np.ones(runs), np.arange(runs)
    while alive.size:
        every = np.broadcast_to(sizes, (alive.size, sizes.size))
        new = allocate(every, found[alive].astype(float), seen[alive], made.per_round)
        good = hits - found[alive]
        found[alive] += rng.hypergeometric(good, sizes - seen[alive] - good, new)
        seen[alive] += new
        low[alive], high[alive] = limits(every, found[alive].astype(float), seen[alive], quantile)
        alive = alive[~made.ends(high[alive] - low[alive], seen[alive])]
    return low, high, seen, found


@pytest.mark.parametrize(("scale", "share"), [(0.35, 0.2), (8.0, 0.45)])
def test_stopped_campaigns_cover_and_save(scale, share):
    strata, hits = table(scale)
    made = Campaign(strata)
    low, high, seen, found = sampled(made, hits, 1200)
    truth = hits.sum() / sum(made.sizes)
    weights, rates = np.asarray(made.sizes) / sum(made.sizes), hits / np.asarray(made.sizes)
    left = 1 - seen / np.asarray(made.sizes)
    spread = np.sqrt((weights**2 * rates * (1 - rates) * left / seen).sum(axis=1))
    assert 0.985 <= np.mean((low <= truth) & (truth <= high)) <= 0.9995
    assert np.mean(high - low) <= 1.25 * np.mean(2 * normal_quantile(0.99) * spread)
    assert np.all(high - low <= 2 * made.margin)
    assert seen.sum(axis=1).mean() <= share * made.formula
    assert np.all(found[:, -4:] == 0)  # a layer without a hit


def test_the_formula_is_not_beaten_by_much_where_strata_tell_nothing():
    made = Campaign((Stratum("*", "*", 500_000),))
    *_, seen, _ = sampled(made, np.asarray([225_000]), 20)
    assert 0.95 * made.formula <= seen.sum(axis=1).mean() <= 1.25 * made.formula


@pytest.mark.parametrize(
    ("margin", "confidence", "per_round"), [(0.02, 0.95, 100), (0.05, 0.9, 50)]
)
def test_calibration_restores_what_repeated_looks_take(margin, confidence, per_round):
    nominal = calibrated_confidence(margin, confidence, per_round)
    assert least_coverage(margin, confidence, per_round) < confidence
    assert least_coverage(margin, nominal, per_round) >= confidence
    assert nominal < 1 - (1 - confidence) / 4  # a small price


def test_a_campaign_uses_the_calibrated_confidence_of_its_own_rule():
    made, _ = small(least=300)
    assert made.nominal > made.confidence
    assert least_coverage(0.04, made.nominal, 100, 300) >= made.confidence
    rule = stop_table(0.04, 0.95, 100, 300)
    assert np.all(rule.most[rule.trials < 300] == -1)
    assert np.all(rule.most[rule.trials >= 300] >= 0)
    with pytest.raises(ValueError, match="margin"):
        calibrated_confidence(0.5, 0.95, 100)


def test_exact_coverage_of_stopped_campaigns_equals_the_simulated_one():
    rate, rng = 0.03, np.random.default_rng(1)
    rule = stop_table(0.02, 0.95, 100)
    hits = np.cumsum(rng.binomial(100, rate, (3000, rule.trials.size)), axis=1)
    stops = np.argmax(np.minimum(hits, rule.trials - hits) <= rule.most, axis=1)
    found, trials = hits[np.arange(3000), stops], rule.trials[stops]
    sizes = np.full((3000, 1), 10**12)
    low, high = limits(sizes, found[:, None].astype(float), trials[:, None], normal_quantile(0.95))
    covered = np.mean((low <= rate) & (high >= rate))
    assert covered == pytest.approx(stopped_coverage(rule, rate), abs=0.012)
    assert np.all(high - low <= 0.04)


def test_looks_at_any_time_spend_no_more_than_alpha():
    spent = [1 - spent_confidence(0.99, look) for look in range(1, 2000)]
    assert 0.0099 < sum(spent) < 0.01
    with pytest.raises(ValueError, match="counted from 1"):
        spent_confidence(0.99, 0)


def replayed(made: Campaign, hits: np.ndarray, length: int) -> list[float]:
    """Outcomes of the first patterns; the n-th fault of a stratum is a hit by a fixed rule."""
    sizes = np.asarray(made.sizes)
    outcomes: list[float] = []
    while len(outcomes) < length:
        faults = made.progress(outcomes).faults
        if len(faults) <= len(outcomes):
            break
        for stratum, n in faults[len(outcomes) :]:
            rate = hits[stratum] / sizes[stratum]
            outcomes.append(float(int((n + 1) * rate) > int(n * rate)))
    return outcomes[:length]


def small(**changes) -> tuple[Campaign, np.ndarray]:
    strata, hits = table(1.0)
    return Campaign(strata, margin=0.04, confidence=0.95, per_round=100, **changes), hits


def test_a_campaign_goes_on_in_complete_rounds_and_stops_for_good():
    made, hits = small()
    outcomes = replayed(made, hits, 10**6)
    end = made.progress(outcomes)
    assert end.step.stops
    assert len(outcomes) == sum(end.counts.trials) == len(end.faults) >= made.floor
    assert len(outcomes) % made.per_round == 0
    assert end.step.interval.width <= 2 * made.margin
    assert end.step.interval.covers(end.step.estimate)
    latest = made.progress(outcomes[:-1]).counts
    wide = made.next_step(latest).interval.width
    assert wide > 2 * made.margin or sum(latest.trials) < made.floor
    before = made.progress(outcomes[:-1])
    assert not before.step.stops
    assert made.progress([*outcomes, 1.0, 1.0]) == end, "what comes after the end does not count"


def test_resuming_within_a_round_changes_nothing():
    made, hits = small()
    outcomes = replayed(made, hits, 250)
    full = made.progress(outcomes)
    assert full == made.progress(outcomes[:200])
    assert full.faults[:200] == made.progress(outcomes[:130]).faults
    assert len(set(full.faults)) == len(full.faults) == 300, "no fault is injected twice"


def test_the_margin_alone_does_not_stop_a_campaign_before_its_floor():
    made, _ = small(least=800)
    strata = len(made.strata)
    counts = Counts((40,) * strata, (0.0,) * strata)
    step = made.next_step(counts)
    assert step.interval.width <= 2 * made.margin
    assert sum(counts.trials) < 800
    assert sum(step.allocation) == made.per_round


def test_a_tiny_population_is_counted_out():
    made = Campaign((Stratum("a", "sign", 30), Stratum("b", "sign", 25)), margin=0.1, per_round=20)
    progress = made.progress(replayed(made, np.asarray([3, 25]), 100))
    assert progress.step.stops
    assert progress.counts == Counts((30, 25), (3.0, 25.0))
    assert progress.step.interval.low == pytest.approx(28 / 55)
    assert progress.step.interval.high == pytest.approx(28 / 55)


def test_every_stratum_is_looked_at_in_the_first_round():
    made, _ = small()
    step = made.next_step(made.nothing)
    assert min(step.allocation) >= 2
    assert (step.estimate, step.interval.low, step.interval.high) == (None, 0.0, 1.0)


def test_later_rounds_go_where_outcomes_vary_most():
    strata = (Stratum("a", "low", 10_000), Stratum("a", "high", 10_000))
    step = Campaign(strata).next_step(Counts((100, 100), (0.0, 50.0)))
    assert step.allocation[1] > step.allocation[0]
    assert step.interim.width > step.interval.width


def test_outcomes_are_what_their_names_say():
    assert [outcome("sdc_per_sample", k, 50) for k in (0, 5, 50)] == [0, 0.1, 1]
    assert [outcome("any_sdc", k, 50) for k in (0, 1, 50)] == [0, 1, 1]
    assert [outcome("critical", k, 50) for k in (0, 4, 5)] == [0, 0, 1]
    assert outcome("critical", 0, 5) == 0
    with pytest.raises(ValueError, match="cannot have changed"):
        outcome("any_sdc", 6, 5)


def test_shares_of_samples_are_covered_too():
    """Outcomes within [0, 1] vary less than a proportion would: never too narrow."""
    rng, made = np.random.default_rng(4), Campaign((Stratum("a", "sign", 10**6),))
    shares = rng.beta(0.1, 2.0, (800, 2000))
    low, high = limits(
        np.full((800, 1), 10**6),
        shares.sum(axis=1, keepdims=True),
        np.full((800, 1), 2000),
        normal_quantile(made.confidence),
    )
    assert np.mean((low <= 0.1 / 2.1) & (high >= 0.1 / 2.1)) >= 0.99


def test_too_many_strata_are_pooled_within_their_field():
    strata, _ = table(1.0)
    many = [
        Stratum(f"{each.site}.{i}", each.field, each.size) for i in range(20) for each in strata
    ]
    with pytest.raises(ValueError, match="pool them"):
        Campaign(tuple(many))
    few = pooled(many, 200)
    assert len(few) <= 25
    for field in FIELDS:
        sizes = [sum(e.size for e in some if e.field == field) for some in (many, few)]
        assert sizes[0] == sizes[1] > 0
    assert pooled(strata, 200) == tuple(sorted(strata, key=lambda each: each.size))
    with pytest.raises(ValueError, match="bit fields"):
        pooled([Stratum("a", str(i), 5) for i in range(30)], 200)


def test_the_report_says_what_was_saved_and_what_was_not():
    interval = Interval(0.1, 0.12, 0.99, "stopped-stratified-score")
    assert "12587 (76%) fewer than the 16587" in Report(4000, 16_587, interval).text
    assert "413 more than the 16587" in Report(17_000, 16_587, interval).text
    made, hits = small()
    found = made.report(made.progress(replayed(made, hits, 10**6)).counts)
    assert found.trials < found.formula
    early = made.report(made.progress(replayed(made, hits, 100)).counts)
    assert early.interval.method.startswith("spent")


@pytest.mark.parametrize("network", ["resnet20", "mobilenet-v2"])
def test_fixed_plans_are_the_published_ones(network):
    if not ORACLE.exists():
        pytest.skip("shared/oracles/fault_sample_sizes.json is not beside this checkout")
    published = json.loads(ORACLE.read_text())[network]
    plans = {each.name: each for each in fixed_plans(published["N_per_layer"])}
    assert plans["network-wise"].total == published["network_wise_n"]
    assert plans["layer-wise"].total == published["layer_wise_n_total"]
    assert plans["layer x bit"].total == published["layer_bit_n_total"]
    assert [each[0] for each in plans["layer x bit"].faults] == published["layer_bit_n_per_bit"]


def test_data_aware_plans_look_at_high_exponent_bits_and_cost_less():
    weights = np.random.default_rng(5).normal(0, 0.05, (64, 100)).astype(np.float32)
    rates = data_aware_proportions(weights)
    assert rates[30] == 0.5
    assert max(rates[:20]) < 0.02
    assert all(0 <= rate <= 0.5 for rate in rates)
    plans = {each.name: each.total for each in fixed_plans([64 * 640 * 10], proportions=rates)}
    assert plans["data-aware"] < 0.5 * plans["layer x bit"]
    with pytest.raises(ValueError, match="float32"):
        data_aware_proportions(weights.astype(np.float64))
    with pytest.raises(ValueError, match="32 bit"):
        fixed_plans([640], proportions=[0.5])


@pytest.mark.parametrize(
    "changes",
    [{"margin": 0.0}, {"confidence": 99}, {"per_round": 0}, {"estimand": "sdc"}, {"strata": ()}],
)
def test_what_is_no_campaign_is_refused(changes):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        campaign.Campaign(**{"strata": (Stratum("a", "sign", 5),), **changes})
