"""Windows of maps: geometry against a convolution written out, and the gate that lets them pass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import models
from hwbench import edits
from hwbench.backend import Array
from hwbench.replay import lanes, windows
from hwbench.replay.windows import Box, Reach
from tests import replaying
from tests.replaying import Rig

Integers = npt.NDArray[np.int64]


def _slid(line: Array, reach: Reach, outputs: int) -> Array:
    """Sums of what each output reads, weighted so that each place counts differently."""
    held = np.zeros(reach.pad + len(line) + reach.span * reach.stride, line.dtype)
    held[reach.pad : reach.pad + len(line)] = line
    weights = np.arange(1, reach.span + 1)
    at = np.arange(outputs) * reach.stride
    result: Array = (held[at[:, None] + np.arange(reach.span)] * weights).sum(axis=1)
    return result


@pytest.mark.parametrize("reach", [Reach(), Reach(3, 1, 1), Reach(3, 2, 1), Reach(1, 2), Reach(5)])
def test_windows_hold_every_output_that_a_change_reaches(reach: Reach) -> None:
    rng = np.random.default_rng(reach.span)
    line = rng.integers(1, 99, size=13)
    outputs = (13 + 2 * reach.pad - reach.span) // reach.stride + 1
    clean = _slid(line, reach, outputs)
    for size in (1, 2, 4, 13):
        for start in range(14 - size):
            changed = line.copy()
            changed[start : start + size] += rng.integers(1, 99, size=size)
            first, count = reach.outputs(np.array([start]), size, outputs)
            found = np.flatnonzero(_slid(changed, reach, outputs) != clean)
            assert first[0] >= 0 and first[0] + count <= outputs
            assert set(found) <= set(range(first[0], first[0] + count))


@pytest.mark.parametrize("reach", [Reach(3, 1, 1), Reach(3, 2, 1), Reach(5, 1, 2)])
def test_crops_hold_what_outputs_read(reach: Reach) -> None:
    line = np.arange(1, 12)
    outputs = (11 + 2 * reach.pad - reach.span) // reach.stride + 1
    whole = _slid(line, reach, outputs)
    margin = 4
    maps = windows.padded(line.reshape(1, 1, 11, 1, 1), (margin, 0))
    for start in range(outputs - 1):
        first, size = reach.inputs(np.array([start]), 2)
        taken = windows.crop(maps, np.array([0]), Box(first + margin, np.array([0]), size, 1))
        made = _slid(taken.reshape(-1), Reach(reach.span, reach.stride), 2)
        assert (made == whole[start : start + 2]).all()


def test_what_sticks_out_is_left_out() -> None:
    target = np.zeros((2, 1, 3, 3, 2), np.int64)
    box = Box(np.array([-1, 2]), np.array([0, 2]), 2, 2)
    windows.put(target, box, np.arange(1, 17).reshape(2, 1, 2, 2, 2))
    assert target[0, 0, 0, :2].tolist() == [[5, 6], [7, 8]]
    assert target[1, 0, 2, 2].tolist() == [9, 10]
    assert np.count_nonzero(target) == 6


@pytest.fixture(scope="module", params=["fp32", "int8"])
def resnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    ort = pytest.importorskip("hwbench_onnxruntime")
    pytest.importorskip("onnxruntime")
    backend, folder = ort.OnnxRuntimeBackend(), tmp_path_factory.mktemp("windows")
    feeds = {"input": models.images(12)}
    source = models.resnet20(folder, folded=False)
    artifact = replaying.build(backend, folder, source, feeds, request.param)
    replayer = backend.replayer(artifact, feeds, replaying.MEMORY_MIB)
    return Rig(backend, source, artifact, feeds, replayer)


def test_maps_are_replayed_on_windows_to_the_bit(resnet: Rig) -> None:
    """Several faults in a row and many rows, border places and NaN among them."""
    found = [site for site in resnet.between() if "conv" in site.op_type.lower()]
    oracle = replaying.written(resnet)
    for number, site in enumerate(found[::5]):
        drawn = replaying.draw(site, 40, np.random.default_rng(number), resnet.rows)
        assert replaying.mismatches(resnet, drawn, oracle) == []
        element = np.array([0, site.size - 1, site.size // 2, 1])
        several = edits.make((site.name,), 0, element, 1 << (site.bits - 2), row=[3, 3, 5, 3])
        assert lanes.same_outputs(resnet.replayer.run(several)[0], oracle(several))
    routes = [resnet.replayer.methods[site.name].route for site in found[::5]]
    assert routes.count("windowed") >= len(routes) - 1  # the last maps are small


def test_the_gate_refuses_windows_that_read_wrongly(
    resnet: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies beyond the borders is not what the operator pads with."""
    rightly = windows.padded

    def wrongly(maps: Array, margins: tuple[int, int], fill: object = 0) -> Array:
        return rightly(maps, margins, maps.reshape(-1)[0] + 7)

    other = resnet.backend.replayer(resnet.artifact, resnet.feeds, replaying.MEMORY_MIB)
    monkeypatch.setattr("hwbench_onnxruntime.windows.padded", wrongly)
    site = next(site for site in other.activations if "conv" in site.op_type.lower())
    method = other.method(site.name)
    assert method.route == "suffix" and "windows" in method.refused[0]
