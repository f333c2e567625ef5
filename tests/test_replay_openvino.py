"""What is OpenVINO's own in replay; bytes are compared in test_differential."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

from hwbench import edits
from hwbench.backend import Site
from hwbench.edits import Op
from hwbench.replay import lanes
from hwbench.testing import models
from hwbench_openvino import OpenVINOBackend
from hwbench_openvino.executed import Codes
from tests import replaying
from tests.replaying import Rig, compare, draw

BACKEND = OpenVINOBackend()
ROWS = 5


def _rig(folder: Path, precision: str) -> Rig:
    capability = BACKEND.probe().precisions[precision]
    if capability.status != "supported":
        pytest.skip(capability.reason)
    source, feeds = models.conv_net(folder), {"input": models.samples(ROWS)}
    artifact = replaying.build(BACKEND, folder, source, feeds, precision)
    return Rig(BACKEND, source, artifact, feeds, BACKEND.replayer(artifact, feeds, 16))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return _rig(tmp_path_factory.mktemp("fp32"), "fp32")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return _rig(tmp_path_factory.mktemp("int8"), "int8")


def test_the_route_is_told_and_why_not_a_faster_one(fp32: Rig, int8: Rig) -> None:
    for rig in (fp32, int8):
        for site in rig.stored():
            rig.replayer.run(draw(site, 1, np.random.default_rng(0)))
    assert fp32.replayer.methods["conv2.weight"].route == "suffix"
    assert fp32.replayer.methods["conv1.weight"].route == "fed"
    method = int8.replayer.methods["conv2.weight"]
    assert method.route == "constant"
    assert "f32" in method.refused[0]
    for site in int8.stored("scale"):
        assert int8.replayer.methods[site.name].route == "whole"


def test_what_is_fused_is_no_site_and_says_why(fp32: Rig) -> None:
    names = {site.name for site in fp32.replayer.activations}
    refused = fp32.replayer.refused  # type: ignore[attr-defined]
    assert "relu1" in names and "input" in names
    assert "conv2" in refused and "fused" in refused["conv2"]
    with pytest.raises(ValueError, match="fused"):
        fp32.replayer.run(edits.make(("conv2",), 0, [0], [1], row=0))
    with pytest.raises(ValueError, match="none of that name"):
        fp32.replayer.run(edits.make(("nothing",), 0, [0], [1], row=0))


def test_quantised_tensors_are_hit_as_codes(int8: Rig) -> None:
    codes = [site for site in int8.between() if site.dtype in ("uint8", "int8")]
    assert codes
    for site in codes:
        seen = {found.name: (a, b) for found, a, b in int8.replayer.spread(_top(site))}
        golden, faulty = seen[site.name]
        assert golden.dtype == site.dtype
        assert lanes.same(faulty, lanes.apply_rows(golden, _top(site)))


def _top(site: Site) -> edits.Edits:
    return edits.make((site.name,), 0, [site.size - 1], [1 << (site.bits - 1)], row=[ROWS - 1])


def test_codes_are_read_and_fed_alike() -> None:
    low, step = np.array([[[-1.3]], [[0.0]]]), np.array([[[0.01]], [[0.3]]])
    codes = Codes(-128, (low, step), (low, step))
    every = np.broadcast_to(np.arange(-128, 128, dtype=np.int8), (2, 1, 256))
    assert np.array_equal(codes.encode(codes.decode(every), "int8"), every)


def test_numbers_that_loading_changes_take_the_naive_way(fp32: Rig) -> None:
    """Subnormal, infinite and not a number: a constant and an input do not hold them alike."""
    site = next(each for each in fp32.stored() if each.name == "conv2.weight")
    special = [0x00000001, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F7FFFFF, 0xFFFFFFFF]
    elements = np.arange(len(special)) * 7
    edited = edits.make((site.name,), 0, elements, special, Op.WRITE, lane=np.arange(len(special)))
    assert replaying.mismatches(fp32, edited, fp32.naive) == []


def test_a_lane_without_edits_is_golden(fp32: Rig) -> None:
    for name, row in (("conv2.weight", edits.NO_ROW), ("relu1", 1)):
        edited = edits.make((name,), 0, [3, 5], [1 << 30, 1 << 30], row=row, lane=[0, 2])
        made = fp32.replayer.run(edited)
        assert len(made) == 3
        assert lanes.same_outputs(made[1], fp32.replayer.golden)
        assert not lanes.same_outputs(made[0], fp32.replayer.golden)


def test_the_memory_bound_changes_nothing_but_memory(fp32: Rig) -> None:
    tight = BACKEND.replayer(fp32.artifact, fp32.feeds, 0.0001)
    edited = draw(fp32.between()[0], 6, np.random.default_rng(11), ROWS)
    for a, b in zip(tight.run(edited), fp32.replayer.run(edited), strict=True):
        assert lanes.same_outputs(a, b)


def test_what_is_asked_wrongly_is_refused(fp32: Rig) -> None:
    (site,) = (each for each in fp32.replayer.activations if each.name == "relu1")
    for element, row in ((site.size, 0), (0, ROWS), (0, edits.NO_ROW)):
        with pytest.raises(IndexError):
            fp32.replayer.run(edits.make((site.name,), 0, [element], [1], row=row))
    with pytest.raises(ValueError, match="one site"):
        fp32.replayer.run(edits.make(("relu1", "fc.weight"), [0, 1], [0, 0], [1, 1]))


def test_rows_that_depend_on_one_another(tmp_path: Path) -> None:
    """A network that centres over the batch: rows of different faults may not share a run."""
    source, feeds = replaying.centred(tmp_path)
    artifact = replaying.build(BACKEND, tmp_path, source, feeds, "fp32")
    rig = Rig(BACKEND, source, artifact, feeds, BACKEND.replayer(artifact, feeds, 16))
    assert compare(rig, rig.stored(), 20, 13, rig.naive).wrong == []
    oracle = replaying.written(rig)
    assert compare(rig, rig.between(), 20, 14, oracle, rig.rows).wrong == []
