"""Replay on ONNX Runtime against the naive route, byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper

from benchmarks import models
from hwbench import edits, onnxfile
from hwbench.backend import Array, Artifact, ModelSource, Site
from hwbench.replay import gate, lanes, naive
from hwbench_onnxruntime import OnnxRuntimeBackend, layout
from hwbench_onnxruntime.channels import block
from hwbench_onnxruntime.executed import Executed
from tests import replaying
from tests.replaying import Rig, compare, draw, mismatches, written

BACKEND = OnnxRuntimeBackend()


def _rig(folder: Path, source: ModelSource, feeds: dict[str, Array], precision: str) -> Rig:
    artifact = replaying.build(BACKEND, folder, source, feeds, precision)
    replayer = BACKEND.replayer(artifact, feeds, replaying.MEMORY_MIB)
    return Rig(BACKEND, source, artifact, feeds, replayer)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder, feeds = tmp_path_factory.mktemp("one"), {"input": models.images(12)}
    return _rig(folder, models.resnet20(folder), feeds, "fp32")


def _site(rig: Rig, name: str) -> Site:
    return next(site for site in BACKEND.sites(rig.artifact) if site.name.startswith(name))


def test_convolutions_are_grouped_and_the_rest_says_why_not(resnet: Rig) -> None:
    for name in ("stage1.0.conv2", "fc.weight"):
        resnet.replayer.run(draw(_site(resnet, name), 1, np.random.default_rng(0)))
    methods = {name.split(".w")[0]: each for name, each in resnet.replayer.methods.items()}
    assert methods["stage1.0.conv2"].route == "grouped"
    assert methods["fc"].route in ("suffix", "constant")
    assert "grouped" in methods["fc"].refused[0]


def test_faults_in_several_channels_of_one_lane(resnet: Rig) -> None:
    site = _site(resnet, "stage1.1.conv1")
    drawn = draw(site, 24, np.random.default_rng(10))
    edited = edits.make(drawn.sites, 0, drawn.element, drawn.mask, lane=np.arange(24) // 8)
    assert mismatches(resnet, edited, resnet.naive) == []


def test_a_lane_without_edits_is_golden(resnet: Rig) -> None:
    site = _site(resnet, "stage2.0.conv1")
    edited = edits.make((site.name,), 0, [3, 5], [1 << 30, 1 << 30], lane=[0, 2])
    made = resnet.replayer.run(edited)
    assert len(made) == 3
    assert lanes.same_outputs(made[1], resnet.replayer.golden)
    assert not lanes.same_outputs(made[0], resnet.replayer.golden)


def test_the_memory_bound_changes_nothing_but_memory(resnet: Rig) -> None:
    tight = BACKEND.replayer(resnet.artifact, resnet.feeds, 0.01)
    for name in ("stage2.2.conv1", "stem", "stage1.0.conv1"):
        drawn = draw(_site(resnet, name), 5, np.random.default_rng(11))
        for a, b in zip(tight.run(drawn), resnet.replayer.run(drawn), strict=True):
            assert lanes.same_outputs(a, b)


def test_what_is_asked_wrongly_is_refused(resnet: Rig) -> None:
    site = _site(resnet, "stem")
    with pytest.raises(IndexError):
        resnet.replayer.run(edits.make((site.name,), 0, [site.size], [1]))
    with pytest.raises(ValueError, match="one site"):
        resnet.replayer.run(edits.make((site.name, "fc.weight"), [0, 1], [0, 0], [1, 1]))
    with pytest.raises(ValueError, match="no tensor"):
        resnet.replayer.run(edits.make(("nothing",), 0, [0], [1], row=0))


def _from_blocks(flat: int, channels: int, places: int) -> tuple[int, int]:
    """Channel and place of a flat index into one row in NCHWc."""
    group, rest = divmod(flat, places * block())
    return group * block() + rest % block(), rest // block()


@pytest.mark.parametrize(
    "tensor", ["stage0.0.relu1_out", "stage1.1.relu1_out", "stage2.0.relu1_out"]
)
def test_activation_faults_in_a_corrupted_file(resnet: Rig, tensor: str, tmp_path: Path) -> None:
    """The artifact itself with the faulty number written in, through every optimisation.

    Tensors with one reader only: what is written into a residual path keeps its addition from
    being fused, and that changes the order of the sums.
    """
    executed = Executed.of(resnet.artifact)
    node = next(n for n in executed.nodes if n.name == f"{tensor}_nchwc")
    site = next(s for s in resnet.replayer.activations if s.name == node.output[0])
    channels, height, width = site.shape
    clean = executed.part(0, executed.producers[site.name] + 1, [site.name]).run(resnet.feeds)
    for number, (flat, bit) in enumerate(((7, 30), (site.size // 2 + 3, 22), (site.size - 1, 31))):
        edited = edits.make((site.name,), 0, [flat], [1 << bit], row=number)
        value = lanes.apply_rows(clean[site.name], edited)[number].reshape(-1)[flat]
        channel, place = _from_blocks(flat, channels, height * width)
        where = [number, channel, *divmod(place, width)]
        folder = tmp_path / str(number)
        folder.mkdir()
        wanted = _written(resnet, tensor, where, value, folder)
        assert lanes.same_outputs(resnet.replayer.run(edited)[0], wanted)


def _written(
    rig: Rig, tensor: str, where: list[int], value: np.float32, folder: Path
) -> dict[str, Array]:
    model = onnxfile.read(rig.artifact.folder / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["hit" if name == tensor else name for name in node.input]
    held = {"where": np.array([where]), "value": np.array([value])}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in held.items())
    model.graph.node.append(helper.make_node("ScatterND", [tensor, *held], ["hit"]))
    onnxfile.sort(model.graph)
    onnxfile.write(model, folder / "model.onnx")
    corrupted = Artifact(
        folder,
        rig.artifact.environment,
        rig.artifact.inputs,
        rig.artifact.outputs,
        {"file": "model.onnx"},
    )
    return naive.golden(BACKEND, corrupted, rig.feeds)


def test_rows_that_depend_on_one_another(tmp_path: Path) -> None:
    """A network that centres over the batch: no row may be dropped or moved."""
    source, feeds = replaying.centred(tmp_path)
    rig = _rig(tmp_path, source, feeds, "fp32")
    assert compare(rig, rig.stored(), 40, 13, rig.naive).wrong == []
    oracle = written(rig)
    assert compare(rig, rig.between(), 40, 14, oracle, rig.rows).wrong == []


@dataclass
class _Route:
    """A route that is wrong on request."""

    clean: dict[str, Array]
    faulty: dict[str, Array]

    def golden(self) -> dict[str, Array]:
        return self.clean

    def run(self, patterns: object) -> list[dict[str, Array]]:
        return [self.faulty] * gate.SAMPLES


def test_the_gate_lets_nothing_wrong_through() -> None:
    clean, faulty = (
        {"y": np.array([[1, 2]], np.float32)},
        {"y": np.array([[np.nan, 2]], np.float32)},
    )
    truth = gate.Truth(clean, gate.samples("w", 9, 32), (faulty,) * gate.SAMPLES)
    zero = {"y": np.array([[np.nan, -2]], np.float32)}
    whole = gate.Candidate("whole", lambda: _Route(clean, faulty))
    wrong = {
        "golden": gate.Candidate("grouped", lambda: _Route(faulty, faulty)),
        "fault": gate.Candidate("grouped", lambda: _Route(clean, zero)),
    }
    for what, candidate in wrong.items():
        _, method = gate.choose([candidate], whole, truth)
        assert method.route == "whole"
        assert what in method.refused[0]
    _, method = gate.choose([gate.Candidate("suffix", whole.make)], whole, truth)
    assert method.route == "suffix"


def test_large_models_are_numbered_in_groups(resnet: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many elements as a float32 can count go together; where they lie does not depend on it."""
    executed, sites = Executed.of(resnet.artifact), list(BACKEND.sites(resnet.artifact))
    whole = layout.trace(resnet.artifact, executed, sites)
    monkeypatch.setattr(layout, "_EXACT", 60_000)
    parts = layout.trace(resnet.artifact, executed, sites)
    assert parts.copies.keys() == whole.copies.keys() and len(whole.copies) > 20
    for name, copies in whole.copies.items():
        assert [each.name for each in parts.copies[name]] == [each.name for each in copies]
        for a, b in zip(parts.copies[name], copies, strict=True):
            assert np.array_equal(a.position, b.position)
