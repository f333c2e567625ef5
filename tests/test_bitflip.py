"""Bit flips: Bernoulli to the letter, nested, and drawn apart for every site."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from hwbench.backend import Site
from hwbench.seeds import Key
from hwbench_scenarios.bitflip import BitFlip

WEIGHT = Site("fc.weight", "weight", "float32", (10, 5))
BYTES = Site("conv.weight", "weight", "int8", (4, 3, 3))
HALF = Site("half.weight", "weight", "bfloat16", (7,))
SITES = [WEIGHT, BYTES, HALF]


def key(pattern: int = 0, seed: int = 0) -> Key:
    return Key.of_pattern(seed, {"name": "bitflip"}, pattern)


def bits(drawn) -> set[tuple[str, int, int]]:
    """Site name, element and mask of every flip."""
    return {
        (drawn.sites[site], element, mask)
        for site, element, mask in zip(
            drawn.site.tolist(), drawn.element.tolist(), drawn.mask.tolist(), strict=True
        )
    }


def total_bits(sites) -> int:
    return sum(site.size * site.bits for site in sites)


@pytest.mark.parametrize("rate", [0.002, 0.05, 0.7])
def test_the_number_of_flips_is_binomial(rate):
    """Over 4,000 patterns of 1,600 bits, against the exact distribution."""
    n, draws = total_bits([WEIGHT]), 4000
    counts = np.array([len(BitFlip(rate=rate).draw([WEIGHT], key(i))) for i in range(draws)])
    mean, variance = n * rate, n * rate * (1 - rate)
    assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / draws))
    assert counts.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / draws))
    edges = stats.binom.ppf(np.linspace(0, 1, 9)[1:-1], n, rate)
    seen = np.histogram(counts, [-np.inf, *np.unique(edges) + 0.5, np.inf])[0]
    cumulative = np.array([0, *stats.binom.cdf(np.unique(edges), n, rate), 1])
    assert stats.chisquare(seen, draws * np.diff(cumulative)).pvalue > 1e-4


def test_every_bit_is_hit_alike():
    n, draws, rate = total_bits([HALF]), 4000, 0.1
    hits = np.zeros(n)
    for i in range(draws):
        for _, element, mask in bits(BitFlip(rate=rate).draw([HALF], key(i))):
            hits[16 * element + mask.bit_length() - 1] += 1
    assert stats.chisquare(hits, np.full(n, hits.mean())).pvalue > 1e-4
    assert hits.sum() == pytest.approx(n * draws * rate, rel=0.03)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 50), st.sampled_from([[WEIGHT], SITES]))
def test_flips_at_a_lower_rate_are_a_subset(one, two, pattern, sites):
    low, high = sorted([one, two])
    fewer, more = (bits(BitFlip(rate=rate).draw(sites, key(pattern))) for rate in (low, high))
    assert fewer <= more


def test_rates_are_nested_beyond_the_chunks_in_which_they_are_drawn():
    """A site of 320,000 bits, from a handful of flips to most of them."""
    large = Site("large", "weight", "float32", (100, 100))
    drawn = [bits(BitFlip(rate=rate).draw([large], key())) for rate in (1e-5, 1e-3, 0.02, 0.6)]
    assert all(fewer <= more for fewer, more in pairwise(drawn))
    for flips, rate in zip(drawn, (1e-5, 1e-3, 0.02, 0.6), strict=True):
        n = total_bits([large])
        assert abs(len(flips) - n * rate) < 5 * np.sqrt(n * rate)


@given(st.integers(0, total_bits(SITES)), st.integers(0, total_bits(SITES)), st.integers(0, 9))
def test_counts_are_exact_distinct_and_nested(one, two, pattern):
    low, high = sorted([one, two])
    fewer, more = (BitFlip(count=count).draw(SITES, key(pattern)) for count in (low, high))
    assert len(fewer) == len(bits(fewer)) == low
    assert len(more) == len(bits(more)) == high
    assert bits(fewer) <= bits(more)


def test_counts_hit_sites_by_their_bits():
    hits = [BitFlip(count=1).draw(SITES, key(i)).touched()[0] for i in range(2000)]
    expected = np.array([site.size * site.bits for site in SITES]) / total_bits(SITES) * 2000
    assert stats.chisquare([hits.count(site.name) for site in SITES], expected).pvalue > 1e-4


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.dtype)
def test_nothing_and_everything(site):
    assert len(BitFlip(rate=0).draw([site], key())) == 0
    assert len(BitFlip(count=0).draw([site], key())) == 0
    everything = total_bits([site])
    assert len(bits(BitFlip(rate=1).draw([site], key()))) == everything
    assert len(bits(BitFlip(count=everything).draw([site], key()))) == everything


def test_flips_lie_within_the_element():
    drawn = BitFlip(rate=1).draw(SITES, key())
    for index, site in enumerate(SITES):
        mine = drawn.at_site(site.name)
        assert set(mine.element.tolist()) == set(range(site.size))
        assert int(mine.mask.max()) == 1 << site.bits - 1
        assert (drawn.site == index).sum() == site.size * site.bits


def test_a_sites_flips_do_not_depend_on_the_other_sites():
    alone = bits(BitFlip(rate=0.05).draw([BYTES], key()))
    among = bits(BitFlip(rate=0.05).draw([HALF, BYTES, WEIGHT], key()))
    assert alone and alone == {flip for flip in among if flip[0] == BYTES.name}


def test_patterns_seeds_and_sites_are_drawn_apart():
    twin = Site("other.weight", "weight", "float32", (10, 5))
    drawn = BitFlip(rate=0.05).draw([WEIGHT, twin], key())
    assert bits(drawn.at_site(twin.name)) != {
        (twin.name, *flip[1:]) for flip in bits(drawn.at_site(WEIGHT.name))
    }
    flips = [bits(BitFlip(rate=0.05).draw([WEIGHT], each)) for each in (key(0), key(1), key(0, 1))]
    assert flips[0] != flips[1] != flips[2] != flips[0]


def test_flips_of_an_input_carry_its_sample():
    row = BitFlip(target="inputs", rate=0.2).draw([Site("x", "input", "uint8", (8,))], key(), 7)
    assert len(row) and set(row.row.tolist()) == {7}
    assert set(BitFlip(rate=0.2).draw([WEIGHT], key()).row.tolist()) == {-1}


def test_more_flips_than_bits_are_refused():
    with pytest.raises(ValueError, match="the sites have 112 bits"):
        BitFlip(count=113).draw([HALF], key())


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_rate_is_a_probability(rate):
    assume(not 0 <= rate <= 1)
    with pytest.raises(ValueError, match="0 to 1"):
        BitFlip(rate=rate)


def test_units():
    assert BitFlip(rate=0.1).unit == "pattern"
    assert BitFlip(rate=0.1, target="inputs").unit == "sample"
    assert BitFlip(rate=0.1).identity == BitFlip(rate=0.2).identity
    assert BitFlip(rate=0.1).identity != BitFlip(count=1).identity
