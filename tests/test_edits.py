"""Edits change the bits they name, and only those."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench import edits
from hwbench.edits import Op
from hwbench.replay import lanes

DTYPES = ("int8", "uint8", "float16", "float32", "float64", "int64", "uint16")


@st.composite
def faulted(draw):
    """A tensor of any stored type, and flips of single bits of it."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    raw = draw(st.binary(min_size=12 * dtype.itemsize, max_size=12 * dtype.itemsize))
    stored = np.frombuffer(raw, dtype).reshape(3, 4)
    bits = draw(st.lists(st.integers(0, 12 * 8 * dtype.itemsize - 1), unique=True))
    width = 8 * dtype.itemsize
    return stored, edits.make(
        ("w",), 0, [bit // width for bit in bits], [1 << bit % width for bit in bits]
    )


@given(faulted())
def test_a_flip_twice_is_the_identity(case):
    stored, flips = case
    once = edits.apply(stored, flips)
    assert edits.apply(once, flips).tobytes() == stored.tobytes()
    assert once.dtype == stored.dtype and once.shape == stored.shape


@given(faulted())
def test_flips_differ_in_exactly_the_named_bits(case):
    stored, flips = case
    before = stored.tobytes()
    changed = np.bitwise_xor(
        np.frombuffer(edits.apply(stored, flips).tobytes(), np.uint8),
        np.frombuffer(before, np.uint8),
    )
    assert int(np.bitwise_count(changed).sum()) == flips.n_bits == len(flips)
    assert stored.tobytes() == before


@given(faulted(), st.randoms())
def test_the_digest_does_not_depend_on_the_order_of_drawing(case, random):
    _, flips = case
    order = list(range(len(flips)))
    random.shuffle(order)
    shuffled = edits.make(("w",), 0, flips.element[order], flips.mask[order])
    assert shuffled.digest() == flips.digest()
    if len(flips):
        assert flips.where(np.arange(len(flips)) > 0).digest() != flips.digest()


@pytest.mark.parametrize(
    ("op", "expected"),
    [(Op.FLIP, 0b0110), (Op.SET, 0b1110), (Op.CLEAR, 0b0010), (Op.WRITE, 0b1100)],
)
def test_each_operation_on_one_byte(op, expected):
    stored = np.array([7, 0b1010, 9], np.uint8)
    assert edits.apply(stored, edits.make(("w",), 0, 1, 0b1100, op)).tolist() == [7, expected, 9]


def test_ieee_bits_of_one():
    """1.0f is 0x3f800000: its sign, its lowest mantissa bit and its highest exponent bit."""
    one = np.ones(3, np.float32)
    flips = edits.make(("w",), 0, [0, 1, 2], [1 << 31, 1, 1 << 30])
    assert edits.apply(one, flips).tolist() == [-1.0, 1.0 + 2**-23, np.inf]


def test_two_flips_of_one_element_both_count():
    flips = edits.make(("w",), 0, [0, 0], [0b01, 0b10])
    assert edits.apply(np.zeros(1, np.uint8), flips).tolist() == [3]


def test_elements_count_in_c_order_whatever_the_memory_order():
    stored = np.asfortranarray(np.arange(6, dtype=np.int8).reshape(2, 3))
    written = edits.apply(stored, edits.make(("w",), 0, 2, 99, Op.WRITE))
    assert written.tolist() == [[0, 1, 99], [3, 4, 5]]


def test_a_scalar_can_be_hit():
    assert edits.apply(np.array(0, np.int8), edits.make(("w",), 0, 0, 4)).tolist() == 4


@pytest.mark.parametrize(("element", "mask"), [(4, 1), (-1, 1), (0, 1 << 8), (0, 1 << 63)])
def test_what_the_tensor_does_not_have_is_refused(element, mask):
    with pytest.raises(IndexError):
        edits.apply(np.zeros(4, np.int8), edits.make(("w",), 0, element, mask))


def test_the_highest_bit_of_the_widest_type_can_be_hit():
    flipped = edits.apply(np.zeros(1, np.int64), edits.make(("w",), 0, 0, 1 << 63))
    assert flipped.tolist() == [-(2**63)]


def test_selections():
    flips = edits.make(("a", "b"), [0, 1, 1], [5, 6, 7], 1, row=[2, 3, 2])
    assert flips.touched() == ("a", "b")
    assert flips.at_site("b").element.tolist() == [6, 7]
    assert flips.at_row(2).element.tolist() == [5, 7]
    assert flips.at_site("a").touched() == ("a",)
    assert edits.none(("a",)).touched() == ()


def test_a_file_gives_back_what_was_saved(tmp_path):
    flips = edits.make(("a", "ü/b"), [0, 1], [5, 2**40], [1 << 63, 3], [Op.SET, Op.WRITE], 7, 2)
    flips.save(tmp_path / "edits.npz")
    again = edits.Edits.load(tmp_path / "edits.npz")
    assert again.sites == flips.sites and again.digest() == flips.digest()
    edits.none().save(tmp_path / "none.npz")
    assert len(edits.Edits.load(tmp_path / "none.npz")) == 0


def test_joining():
    one, two = (edits.make(("a",), 0, [i], 1) for i in (1, 2))
    assert edits.concatenate([one, two]).element.tolist() == [1, 2]
    assert len(edits.concatenate([])) == 0
    with pytest.raises(ValueError, match="different site lists"):
        edits.concatenate([one, edits.make(("b",), 0, [1], 1)])


def test_patterns_over_lists_of_their_own_share_lanes():
    """Pooled strata of a campaign name several sites, others one."""
    one = edits.make(("b",), 0, [3], 1)
    two = edits.make(("a", "b"), [0, 1], [5, 4], 2)
    made = lanes.in_lanes([one, edits.none(("c",)), two])
    assert made.sites == ("b", "c", "a")
    told = [
        [(made.sites[each.site[i]], int(each.element[i])) for i in range(len(each))]
        for each in lanes.split(made)
    ]
    assert told == [[("b", 3)], [], [("a", 5), ("b", 4)]]
