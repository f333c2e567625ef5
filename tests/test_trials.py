"""Sets of trials as runs: the same as sets of pairs, whatever is done to them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwbench.trials import Trials

PATTERNS = 12


@st.composite
def sets(draw):
    n_batches = draw(st.integers(1, 4))
    pair = st.tuples(st.integers(0, PATTERNS - 1), st.integers(0, n_batches - 1))
    return n_batches, draw(st.sets(pair)), draw(st.sets(pair))


@given(sets())
def test_they_are_the_pairs_that_were_given(given_):
    n, one, other = given_
    a, b = Trials.of(one, n), Trials.of(other, n)
    assert list(a) == sorted(one) and len(a) == len(one)
    assert list(a - b) == sorted(one - other)
    numbers = np.array([p * n + i for p, i in other], np.int64)
    assert list(a.with_numbers(numbers)) == sorted(one | other)
    for pattern in range(PATTERNS):
        for batch in range(n):
            assert ((pattern, batch) in a) == ((pattern, batch) in one)


@given(sets(), st.integers(1, 6))
def test_shares_split_the_trials_but_no_pattern(given_, pieces):
    n, pairs, _ = given_
    trials = Trials.of(pairs, n)
    shares = [trials.share(piece, pieces) for piece in range(pieces)]
    assert sorted(pair for share in shares for pair in share) == sorted(pairs)
    patterns = [{pattern for pattern, _ in share} for share in shares]
    assert sum(map(len, patterns)) == trials.n_patterns == len({p for p, _ in pairs})
    assert max(map(len, patterns)) - min(map(len, patterns)) <= 1


def test_a_million_trials_that_follow_one_another_are_one_run():
    every = Trials.every(100_000, 10)
    assert (every.runs, len(every), len(Trials.every(0, 10))) == (((0, 1_000_000),), 1_000_000, 0)
