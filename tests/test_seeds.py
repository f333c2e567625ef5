"""Streams depend on what they are for, and on nothing else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.seeds import Key, canonical

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEY = Key.of_pattern(3, {"name": "noise", "snr_db": None}, 5)


@given(st.dictionaries(st.text(), JSON), st.randoms())
def test_canonical_text_ignores_the_order_of_keys(content, random):
    keys = list(content)
    random.shuffle(keys)
    assert canonical({key: content[key] for key in keys}) == canonical(content)


def test_canonical_text_refuses_what_json_has_no_word_for():
    with pytest.raises(ValueError):
        canonical({"rate": float("nan")})


def test_a_key_gives_the_same_stream_again():
    assert KEY.generator("w").random(5).tolist() == KEY.child("w").generator().random(5).tolist()


def test_a_key_gives_the_same_stream_in_another_process():
    script = (
        "from hwbench.seeds import Key; "
        "key = Key.of_pattern(3, {'snr_db': None, 'name': 'noise'}, 5); "
        "print(key.generator('w').integers(1 << 62))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert int(told.stdout) == KEY.generator("w").integers(1 << 62)


def test_every_part_of_a_key_matters():
    keys = [
        KEY,
        Key.of_pattern(4, {"name": "noise", "snr_db": None}, 5),
        Key.of_pattern(3, {"name": "noise", "snr_db": None}, 6),
        Key.of_pattern(3, {"name": "other", "snr_db": None}, 5),
        KEY.child("w"),
        KEY.child("w", 1),
        KEY.child("w1"),
        KEY.child(1, "w"),
    ]
    assert len({key.hex() for key in keys}) == len(keys)
    assert len({int(key.generator().integers(1 << 62)) for key in keys}) == len(keys)


def test_streams_of_neighbouring_keys_are_independent():
    """Correlation of 1,000 pairs of streams, against its own distribution."""
    draws = np.array([KEY.generator(i).standard_normal(200) for i in range(1001)])
    products = (draws[1:] * draws[:-1]).mean(axis=1) * np.sqrt(200)
    assert abs(products.mean()) < 4 / np.sqrt(1000)
    assert products.std() == pytest.approx(1, abs=0.1)
