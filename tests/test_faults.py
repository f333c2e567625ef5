"""Fault models: nested, apart, and nowhere but where they were asked to be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hwbench import edits, fields
from hwbench.backend import Site, TensorSpec
from hwbench.case import Layer, SiteFilter, layer_from
from hwbench.errors import RequestError, Unsupported
from hwbench.seeds import Key
from hwbench.spec.cases import expand
from hwbench_scenarios.bitflip import BitFlip
from hwbench_scenarios.burst import Burst
from hwbench_scenarios.places import permuted
from hwbench_scenarios.singlebit import SingleBit
from hwbench_scenarios.stuckat import StuckAt
from hwbench_scenarios.words import RandomWord, Zero

WEIGHT = Site("fc.weight", "weight", "float32", (10, 5), "Gemm", "fc")
BYTES = Site("conv.weight", "weight", "int8", (4, 3, 3), "Conv", "conv")
HALF = Site("half.weight", "weight", "bfloat16", (7, 2), "MatMul", "head")
WIDE = Site("conv.bias", "bias", "int32", (4,), "Conv", "conv")
SITES = [WEIGHT, BYTES, HALF, WIDE]

MODELS = {
    "bitflip": BitFlip,
    "adjacent": lambda **k: BitFlip(adjacent=3, **k),
    "words": lambda **k: BitFlip(words=2, **k),
    "both": lambda **k: BitFlip(adjacent=2, words=3, **k),
    "bits": lambda **k: BitFlip(bits=(6, 30), **k),
    "exponent": lambda **k: BitFlip(field="exponent", **k),
    "channels": lambda **k: BitFlip(channels=(1, 3), **k),
    "stuck-0": lambda **k: StuckAt(value=0, **k),
    "stuck-1": lambda **k: StuckAt(value=1, adjacent=2, **k),
    "zero": Zero,
    "randomword": RandomWord,
    "burst-bits": lambda **k: Burst(length=37, **k),
    "burst-bytes": lambda **k: Burst(length=3, grain="bytes", **k),
}
RATES, COUNTS, PATTERNS = st.floats(0, 0.5), st.integers(0, 12), st.integers(0, 30)


def key(scenario, pattern=0, seed=0) -> Key:
    return Key.of_pattern(seed, scenario.identity, pattern)


def drawn(scenario, pattern=0, sites=SITES):
    return scenario.draw(sites, key(scenario, pattern))


def hits(found: edits.Edits) -> set[tuple[str, int, int, int]]:
    """Site, element, bit and op; of an overwritten word, the whole mask."""
    result = set()
    for site, element, mask, op in zip(
        found.site.tolist(), found.element.tolist(), found.mask.tolist(), found.op, strict=True
    ):
        whole = op == edits.Op.WRITE
        bits = [mask] if whole else [b for b in range(64) if mask >> b & 1]
        result |= {(found.sites[site], element, bit, int(op)) for bit in bits}
    return result


# What was drawn before there were other models must be drawn for ever.


@pytest.mark.parametrize(
    ("parameters", "digest"),
    [
        ({"rate": 1e-3}, "0ef0c4d00d3c6f988ee839d0828f4bc0"),
        ({"rate": 0.05}, "da3866617553649ab2f2975e3d035826"),
        ({"count": 7}, "7d457da753aaf6301063d6f72af474fe"),
        ({"count": 500}, "ee166a85f583aae9d60090cf21ad2a21"),
    ],
)
def test_flips_of_old_specs_stay_what_they_were(parameters, digest):
    sites = [
        Site("fc.weight", "weight", "float32", (10, 5)),
        Site("conv.weight", "weight", "int8", (4, 3, 3)),
        Site("half.weight", "weight", "bfloat16", (7,)),
        Site("big", "weight", "float32", (100, 100)),
    ]
    scenario = BitFlip(**parameters)
    (severity,) = parameters
    assert scenario.identity == {"name": "bitflip", "target": "weights", severity: None}
    assert scenario.draw(sites, Key.of_pattern(3, scenario.identity, 5)).digest() == digest


# Properties of every model.


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@settings(max_examples=12)
@given(RATES, RATES, COUNTS, COUNTS, PATTERNS)
def test_a_lower_severity_is_a_subset(make, one, two, few, many, pattern):
    for name, values in (("rate", (one, two)), ("count", (few, many))):
        low, high = (hits(drawn(make(**{name: value}), pattern)) for value in sorted(values))
        assert low <= high


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@settings(max_examples=8)
@given(st.floats(0.05, 0.5), PATTERNS)
def test_a_sites_faults_do_not_depend_on_the_other_sites(make, rate, pattern):
    scenario = make(rate=rate)
    among = {each for each in hits(drawn(scenario, pattern)) if each[0] == WEIGHT.name}
    assert hits(drawn(scenario, pattern, [WEIGHT])) == among


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@settings(max_examples=8)
@given(st.floats(0, 1), PATTERNS)
def test_every_edit_can_be_carried_out(make, rate, pattern):
    found = drawn(make(rate=rate), pattern)
    for site in SITES:
        stored = np.zeros(site.shape, f"u{site.bits // 8}")
        edits.apply(stored, found.at_site(site.name))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_everything_is_hit_at_rate_1(make):
    """Every eligible bit, and no other."""
    scenario = make(rate=1.0)
    for site in SITES:
        if not scenario.places(site):
            continue
        bits = site.bits
        wanted = scenario.eligible(site) if isinstance(scenario, BitFlip) else range(bits)
        if getattr(scenario, "adjacent", None) and len(set(wanted)) < 2:
            continue
        channels = (1, 3) if getattr(scenario, "channels", None) else None
        elements = np.arange(site.size).reshape(site.shape)
        if channels:
            axis = site.shape[-1] if site.op_type == "MatMul" else site.shape[0]
            chosen = [c for c in channels if c < axis]
            elements = elements[:, chosen] if site.op_type == "MatMul" else elements[chosen]
        found = drawn(scenario, 0, [site])
        assert set(found.element.tolist()) == set(elements.ravel().tolist())
        if scenario.op != edits.Op.WRITE:
            union = np.bitwise_or.reduce(found.mask)
            assert int(union) == sum(1 << bit for bit in wanted)


@given(st.sampled_from(["sign", "exponent", "mantissa"]), RATES, PATTERNS)
def test_flips_stay_in_their_field(field, rate, pattern):
    found = drawn(BitFlip(field=field, rate=rate), pattern)
    for site in SITES:
        inside = sum(1 << b for b in fields.fields(site.dtype).get(field, ()))
        assert not np.any(found.at_site(site.name).mask & ~np.uint64(inside))
    assert set(found.touched()) <= {WEIGHT.name, HALF.name}


@given(st.integers(2, 8), st.integers(2, 5), PATTERNS)
def test_an_upset_is_a_block_of_neighbours(adjacent, words, pattern):
    scenario = BitFlip(adjacent=adjacent, words=words, count=1)
    found = drawn(scenario, pattern, [WEIGHT, BYTES])
    assert np.diff(found.element).tolist() == [1] * (words - 1)
    (mask,) = set(found.mask.tolist())
    assert mask // (mask & -mask) == 2**adjacent - 1


@given(st.integers(1, 200), st.sampled_from(["bits", "bytes"]), PATTERNS)
def test_a_burst_is_one_run(length, grain, pattern):
    scenario = Burst(length=length, grain=grain, count=1)
    found = drawn(scenario, pattern, [WEIGHT])
    inverted = edits.apply(np.zeros(WEIGHT.shape, np.uint32), found)
    bits = np.flatnonzero(np.unpackbits(inverted.reshape(-1).view(np.uint8), bitorder="little"))
    assert len(bits) == length * (8 if grain == "bytes" else 1)
    assert bits[-1] - bits[0] == len(bits) - 1
    assert grain == "bits" or bits[0] % 8 == 0


def test_stuck_cells_are_the_same_at_0_and_at_1():
    zeros, ones = (drawn(StuckAt(value=value, rate=0.2)) for value in (0, 1))
    assert {h[:3] for h in hits(zeros)} == {h[:3] for h in hits(ones)}
    stored = np.random.default_rng(0).integers(2**32, size=WEIGHT.shape, dtype=np.uint32)
    both = [edits.apply(stored, each.at_site(WEIGHT.name)) for each in (zeros, ones)]
    assert np.array_equal(both[0] | stored, stored) and np.array_equal(both[1] & stored, stored)
    stuck = np.bitwise_count(both[0] ^ both[1]).sum()
    assert stuck == zeros.at_site(WEIGHT.name).n_bits > 0


def test_random_words_are_uniform_and_zero_words_zero():
    large = Site("large", "weight", "uint8", (200, 200))
    found = drawn(RandomWord(rate=0.9), 0, [large])
    counts = np.bincount(found.mask.astype(np.int64), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4
    zeroed = edits.apply(np.ones(large.shape, np.uint8), drawn(Zero(count=7), 0, [large]))
    assert (zeroed == 0).sum() == 7
    scenario = Zero(count=7)
    assert scenario.share(drawn(scenario, 0, [large]), [large]) == 7 / 40_000


# One bit per pattern.


@settings(max_examples=20)
@given(st.integers(1, 1500), st.integers(0, 99))
def test_a_permutation_is_one(n, seed):
    places = [permuted(i, n, Key((str(seed),))) for i in range(n)]
    assert sorted(places) == list(range(n))


def test_a_permutation_prefers_nothing():
    first = [permuted(0, 37, Key((str(seed),))) for seed in range(3700)]
    assert stats.chisquare(np.bincount(first, minlength=37)).pvalue > 1e-4


@pytest.mark.parametrize("balance", ["none", "site", "bit"])
def test_as_many_patterns_as_bits_are_exhaustive(balance):
    scenario, sites = SingleBit(balance=balance), [BYTES, HALF]
    total = sum(site.size * site.bits for site in sites)
    found = [drawn(scenario, pattern, sites) for pattern in range(total)]
    assert all(len(each) == each.n_bits == 1 for each in found)
    assert len(set().union(*map(hits, found))) == total
    with pytest.raises(Unsupported, match=f"patterns: {total} is exhaustive"):
        drawn(scenario, total, sites)


def test_balance_is_kept_at_every_length():
    scenario = SingleBit(balance="bit")
    strata: dict[tuple[str, int], int] = {}
    for pattern in range(300):
        ((name, _, bit, _),) = hits(drawn(scenario, pattern, [BYTES, WEIGHT]))
        strata[name, bit] = strata.get((name, bit), 0) + 1
        if (pattern + 1) % 40 == 0:
            assert set(strata.values()) == {(pattern + 1) // 40} and len(strata) == 40


def test_any_bit_is_hit_alike():
    scenario = SingleBit()
    counts = np.zeros(HALF.size)
    for seed in range(2800):
        counts[scenario.draw([HALF], key(scenario, 3, seed)).element[0]] += 1
    assert stats.chisquare(counts).pvalue > 1e-4


@given(PATTERNS, st.sampled_from(["none", "site", "bit"]))
def test_a_single_bit_obeys_its_restrictions(pattern, balance):
    scenario = SingleBit(field="exponent", channels=(1,), balance=balance)
    ((name, element, bit, _),) = hits(drawn(scenario, pattern))
    if name == WEIGHT.name:
        assert 5 <= element < 10 and 23 <= bit < 31
    else:
        assert name == HALF.name and element % 2 == 1 and 7 <= bit < 15


# Refusals, and the way through a spec.


@pytest.mark.parametrize(
    "make",
    [
        lambda: BitFlip(count=1, bits=(1,), field="sign"),
        lambda: BitFlip(count=1, bits=()),
        lambda: BitFlip(count=1, bits=(-1,)),
        lambda: BitFlip(count=1, bits=(64,)),
        lambda: BitFlip(count=1, adjacent=1),
        lambda: BitFlip(count=1, words=2, channels=(0,)),
        lambda: BitFlip(count=1, axis=1),
        lambda: BitFlip(count=1, channels=(-1,)),
        lambda: Burst(count=1, length=0),
    ],
)
def test_what_means_nothing_is_refused(make):
    with pytest.raises(ValueError):
        make()


def test_bits_that_no_site_has_are_unsupported():
    for scenario in (BitFlip(count=1, field="sign"), SingleBit(bits=(9,)), Zero(count=1)):
        site = BYTES if scenario.name != "zero" else Site("none", "weight", "int8", (0,))
        with pytest.raises(Unsupported, match="no place"):
            drawn(scenario, 0, [site])


def test_an_input_without_such_bits_is_refused_before_anything_runs():
    tokens, pixels = (TensorSpec("x", (None, 4), each) for each in ("int64", "float32"))
    scenario = BitFlip(target="inputs", count=1, field="sign")
    assert "int64" in scenario.refuses(tokens) and not scenario.refuses(pixels)
    assert not BitFlip(target="inputs", count=1).refuses(tokens)


def test_lists_of_bits_are_one_restriction_and_lists_of_lists_expand():
    entry = {"bitflip": {"count": [1, 2], "bits": [30, 29]}}
    one, two = expand([entry])[1:]
    assert one.layers[0].scenario == BitFlip(count=1, bits=(30, 29))
    assert (one.id, two.severity) == ("bitflip-bit30.29-weights@count=1", 2)
    several = expand([{"bitflip": {"count": 1, "bits": [[30], [0, 1]]}}])[1:]
    assert [each.layers[0].scenario.bits for each in several] == [(30,), (0, 1)]
    with pytest.raises(RequestError, match="bits"):
        expand([{"bitflip": {"count": 1, "bits": ["high"]}}])


def test_a_layer_survives_json():
    sites = SiteFilter(layers=("conv*",), op_types=("Conv",), kinds=("weight", "bias"))
    layer = Layer(BitFlip(count=1, bits=(3, 4), channels=(0,)), sites)
    assert layer_from(json.loads(json.dumps(layer.to_json()))) == layer
    (case,) = expand([{"bitflip": {"count": 1}, "sites": {"layers": "conv*", "op_types": "Conv"}}])[
        1:
    ]
    kept = [site.name for site in SITES if case.layers[0].sites.keeps(site)]
    assert kept == [BYTES.name]
    assert [site.name for site in SITES if sites.keeps(site)] == [BYTES.name, WIDE.name]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "int32"])
def test_every_bit_is_in_one_field(dtype):
    width = Site("s", "weight", dtype, (1,)).bits
    bits = [bit for each in fields.fields(dtype).values() for bit in each]
    assert sorted(bits) == list(range(width))
    assert fields.field_of(dtype, 1 << width - 1) == (
        "sign" if "float" in dtype else "bit 7" if width == 8 else f"bits {width - 8}-{width - 1}"
    )
    assert fields.field_of(dtype, (1 << width) - 1) == fields.SEVERAL
