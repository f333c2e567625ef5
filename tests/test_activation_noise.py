"""Noise between operators: at the asked ratio, on one tensor, the same in every batch size."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench import edits
from hwbench.backend import Site
from hwbench.errors import Unsupported
from hwbench.replay import lanes
from hwbench.seeds import Key
from hwbench.worker import perturb
from hwbench_scenarios.noise import Noise

KEY = Key.of_pattern(7, {"name": "x"}, 0)
SITE = Site("a", "activation", "float32", (5, 40))
CLEAN = np.random.default_rng(0).normal(size=(6, 5, 40)).astype(np.float32)


def drawn(samples, rows, site=SITE):
    scenario = Noise(snr_db=12.0, target="activations")
    array = CLEAN[rows]
    return perturb.draw_values(scenario, [site], lambda name: array, np.asarray(samples), KEY)


def test_written_values_have_the_asked_ratio():
    made, achieved = drawn([0, 1, 2, 3], slice(0, 6))  # the last two rows are padding
    noisy = lanes.apply_rows(CLEAN, made)
    change = (noisy.astype(float) - CLEAN)[:4].reshape(4, -1)
    ratio = np.square(CLEAN[:4].astype(float)).reshape(4, -1).mean(1) / np.square(change).mean(1)
    np.testing.assert_allclose(10 * np.log10(ratio), 12, atol=0.01)
    assert achieved == pytest.approx(12, abs=0.01)
    assert (noisy[4:] == CLEAN[4:]).all()
    assert set(made.op.tolist()) == {int(edits.Op.WRITE)}


def test_a_sample_has_its_noise_in_any_batch():
    whole = lanes.apply_rows(CLEAN, drawn(range(6), slice(0, 6))[0])
    part = lanes.apply_rows(CLEAN[2:4], drawn([2, 3], slice(2, 4))[0])
    assert whole[2:4].tobytes() == part.tobytes()


def test_several_tensors_and_codes_are_refused():
    scenario = Noise(snr_db=12.0, target="activations")
    with pytest.raises(Unsupported, match="one activation"):
        perturb.draw_values(scenario, [SITE, SITE], lambda n: CLEAN, np.arange(2), KEY)
    with pytest.raises(Unsupported, match="codes"):
        drawn([0], slice(0, 1), Site("a", "activation", "int8", (5, 40)))


@pytest.mark.parametrize("wrong", [{"kind": "hum"}, {"convention": "tensor"}])
def test_what_activations_do_not_have_is_refused(wrong):
    with pytest.raises(ValueError, match="activations"):
        Noise(snr_db=3.0, target="activations", **wrong)
