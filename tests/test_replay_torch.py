"""Replay on torch against the naive route, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.fx import GraphModule, Interpreter, Node  # noqa: E402

from benchmarks import models  # noqa: E402
from hwbench import edits  # noqa: E402
from hwbench.backend import (  # noqa: E402
    Array,
    Artifact,
    Environment,
    ModelSource,
    Replayer,
    Site,
    TensorSpec,
)
from hwbench.edits import Edits, Op  # noqa: E402
from hwbench.errors import Unsupported  # noqa: E402
from hwbench.replay import lanes, naive  # noqa: E402
from hwbench_torch import TorchBackend  # noqa: E402
from hwbench_torch.sites import PROGRAM, WEIGHTS  # noqa: E402

BACKEND = TorchBackend()
ROWS, MEMORY_MIB = 8, 128
RESNET = ModelSource("resnet20", (models.CIFAR,), torch="benchmarks.networks:resnet20")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
Outputs = dict[str, Array]


def _needs(precision: str) -> Any:
    capability = BACKEND.probe().precisions[precision]
    absent = capability.status != "supported"
    return pytest.param(precision, marks=pytest.mark.skipif(absent, reason=capability.reason))


@dataclass(frozen=True)
class Rig:
    """A built artifact with a batch and its replayer."""

    artifact: Artifact
    feeds: dict[str, Array]
    replayer: Replayer

    def naive(self, edited: Edits) -> Outputs:
        return naive.stored(BACKEND, self.artifact, self.feeds, edited)


def _rig(folder: Path, source: ModelSource, precision: str, feeds: dict[str, Array]) -> Rig:
    calibration = feeds if precision.startswith("int8") else None
    environment = Environment("torch", precision=precision)
    artifact = BACKEND.build(source, environment, calibration, folder)
    return Rig(artifact, feeds, BACKEND.replayer(artifact, feeds, MEMORY_MIB))


@pytest.fixture(scope="module", params=[_needs(p) for p in ("fp32", "fp16", "bf16", "int8-ref")])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder = tmp_path_factory.mktemp(request.param)
    return _rig(folder, RESNET, request.param, {"input": models.images(ROWS)})


def _draw(site: Site, count: int, rng: np.random.Generator, rows: int = 0) -> Edits:
    """One fault per lane: a flip, and every fifth time the bits of a NaN or all ones."""
    mask = np.uint64(1) << rng.integers(site.bits, size=count).astype(np.uint64)
    op = np.where(np.arange(count) % 5 == 4, Op.WRITE, Op.FLIP)
    ones = np.uint64((1 << site.bits) - 1)
    row = rng.integers(rows, size=count) if rows else edits.NO_ROW
    element, lane = rng.integers(site.size, size=count), np.arange(count)
    return edits.make((site.name,), 0, element, np.where(op == Op.WRITE, ones, mask), op, row, lane)


def _mismatches(rig: Rig, edited: Edits, oracle: Callable[[Edits], Outputs]) -> list[str]:
    made = rig.replayer.run(edited)
    return [
        f"{edited.sites[0]} lane {lane}"
        for lane, each in enumerate(lanes.split(edited))
        if not lanes.same_outputs(made[lane], oracle(each))
    ]


def _some(sites: list[Site], count: int, rng: np.random.Generator) -> list[Site]:
    return [sites[i] for i in rng.choice(len(sites), min(count, len(sites)), replace=False)]


def test_golden_is_the_deployed_session(rig: Rig) -> None:
    assert lanes.same_outputs(rig.replayer.golden, naive.golden(BACKEND, rig.artifact, rig.feeds))


def test_stored_faults(rig: Rig) -> None:
    rng = np.random.default_rng(1)
    sites = [site for site in BACKEND.sites(rig.artifact) if site.bits < 64]
    chosen = _some([site for site in sites if site.op_type == "conv2d"], 2, rng)
    chosen += _some([site for site in sites if site.op_type != "conv2d"], 1, rng)
    for site in chosen:
        assert _mismatches(rig, _draw(site, 10, rng), rig.naive) == []


@pytest.mark.slow
def test_many_stored_faults(rig: Rig) -> None:
    rng, sites = np.random.default_rng(2), list(BACKEND.sites(rig.artifact))
    for site in sites:
        assert _mismatches(rig, _draw(site, -(-500 // len(sites)), rng), rig.naive) == []


class _Hit(Interpreter):
    """The exported program, node by node, with faulty numbers written into one tensor."""

    def __init__(self, module: GraphModule, edited: Edits) -> None:
        super().__init__(module)
        self.edited = edited

    def run_node(self, n: Node) -> Any:
        made = super().run_node(n)
        if n.op == "placeholder" or n.name != self.edited.sites[0]:
            return made
        signed = getattr(torch, f"int{8 * made.element_size()}")
        hit = made.clone()
        flat = hit.view(signed).numpy().view(f"u{made.element_size()}")
        for e in range(len(self.edited)):
            row = flat[self.edited.row[e]]
            at = np.unravel_index(self.edited.element[e], row.shape)
            mask = self.edited.mask[e].astype(row.dtype)
            row[at] = mask if self.edited.op[e] == Op.WRITE else row[at] ^ mask
        return hit


def _interpreted(rig: Rig) -> Callable[[Edits], Outputs]:
    program = torch.export.load(rig.artifact.folder / PROGRAM)
    weights = load_file(rig.artifact.folder / WEIGHTS)
    names = rig.artifact.meta["names"]
    dtype = DTYPES.get(rig.artifact.environment.precision, torch.float32)

    def run(edited: Edits) -> Outputs:
        feeds = dict(rig.feeds)
        if edited.sites[0] in feeds:
            feeds[edited.sites[0]] = lanes.apply_rows(feeds[edited.sites[0]], edited)
        given = iter([torch.from_numpy(each).to(dtype) for each in feeds.values()])
        arguments = [
            next(given) if spec.target is None else weights[names[spec.target]].clone()
            for spec in program.graph_signature.input_specs
        ]
        with torch.inference_mode():
            torch.set_num_threads(1)
            results = _Hit(program.graph_module, edited).run(*arguments)
        made = [each.float().numpy() for each in results]
        return dict(zip((spec.name for spec in rig.artifact.outputs), made, strict=True))

    return run


def test_activation_faults(rig: Rig) -> None:
    rng, oracle = np.random.default_rng(3), _interpreted(rig)
    for site in _some(list(rig.replayer.activations), 5, rng):
        assert _mismatches(rig, _draw(site, 6, rng, ROWS), oracle) == []


@pytest.mark.slow
def test_many_activation_faults(rig: Rig) -> None:
    rng, oracle, sites = np.random.default_rng(4), _interpreted(rig), rig.replayer.activations
    for site in sites:
        assert _mismatches(rig, _draw(site, -(-500 // len(sites)), rng, ROWS), oracle) == []


def test_patterns_over_several_sites(rig: Rig) -> None:
    rng = np.random.default_rng(5)
    sites = [site for site in BACKEND.sites(rig.artifact) if site.bits < 64]
    for count in (2, 17, 33, 40):  # the first are proven against the naive route inside
        site = rng.integers(len(sites), size=count)
        element = [int(rng.integers(sites[i].size)) for i in site]
        mask = [1 << int(rng.integers(sites[i].bits)) for i in site]
        edited = edits.make(tuple(each.name for each in sites), site, element, mask)
        assert lanes.same_outputs(rig.replayer.run_pattern(edited), rig.naive(edited))


def test_spread_begins_at_the_fault_and_ends_with_the_outputs(rig: Rig) -> None:
    sites = {site.name: site for site in rig.replayer.activations}
    hit = [site for site in sites.values() if "relu" in site.op_type][6]
    edited = edits.make((hit.name,), 0, [5], [(1 << hit.bits) - 1], Op.WRITE, row=3)
    differ, before = {}, True
    for site, golden, faulty in rig.replayer.spread(edited):
        differ[site.name] = lanes.differing(golden, faulty)
        before &= site.name == hit.name or not differ[site.name].any()
        if site.name == hit.name:
            assert before
    assert list(differ) == list(sites)
    assert differ[hit.name].tolist() == [row == 3 for row in range(ROWS)]
    assert not np.delete(differ["flatten"], 3).any()


# What follows needs one network only.


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder, feeds = tmp_path_factory.mktemp("plain"), {"input": models.images(ROWS)}
    return _rig(folder, RESNET, "fp32", feeds)


def _site(rig: Rig, name: str) -> Site:
    return next(site for site in BACKEND.sites(rig.artifact) if site.name == name)


def test_filters_are_grouped(plain: Rig) -> None:
    site = _site(plain, "7.branch.3.weight")
    plain.replayer.run(_draw(site, 1, np.random.default_rng(0)))
    assert plain.replayer.methods[site.name].route == "grouped"


def test_faults_in_several_channels_of_one_lane(plain: Rig) -> None:
    site = _site(plain, "7.branch.3.weight")
    drawn = _draw(site, 24, np.random.default_rng(6))
    edited = edits.make(drawn.sites, 0, drawn.element, drawn.mask, lane=np.arange(24) // 8)
    assert _mismatches(plain, edited, plain.naive) == []


def test_a_lane_without_edits_is_golden(plain: Rig) -> None:
    edited = edits.make(("10.branch.0.weight",), 0, [3, 5], [1 << 30, 1 << 30], lane=[0, 2])
    made = plain.replayer.run(edited)
    assert len(made) == 3
    assert lanes.same_outputs(made[1], plain.replayer.golden)
    assert not lanes.same_outputs(made[0], plain.replayer.golden)


def test_one_fault_a_row_is_the_same_as_each_alone(plain: Rig) -> None:
    site = next(each for each in plain.replayer.activations if each.name == "conv2d_9")
    drawn = _draw(site, ROWS, np.random.default_rng(7), ROWS)
    rows = np.arange(ROWS)
    together = edits.make(drawn.sites, 0, drawn.element, drawn.mask, drawn.op, rows)
    alone = edits.make(drawn.sites, 0, drawn.element, drawn.mask, drawn.op, rows, rows)
    (made,) = plain.replayer.run(together)
    for row, each in enumerate(plain.replayer.run(alone)):
        for name in made:
            assert made[name][row].tobytes() == each[name][row].tobytes()


def test_the_memory_bound_changes_nothing_but_memory(plain: Rig) -> None:
    tight = BACKEND.replayer(plain.artifact, plain.feeds, 0.01)
    drawn = _draw(_site(plain, "8.branch.0.weight"), 5, np.random.default_rng(8))
    for a, b in zip(tight.run(drawn), plain.replayer.run(drawn), strict=True):
        assert lanes.same_outputs(a, b)


def test_what_is_asked_wrongly_is_refused(plain: Rig) -> None:
    site = _site(plain, "14.weight")
    with pytest.raises(IndexError):
        plain.replayer.run(edits.make((site.name,), 0, [site.size], [1]))
    with pytest.raises(ValueError, match="one site"):
        plain.replayer.run(edits.make((site.name, "14.bias"), [0, 1], [0, 0], [1, 1]))
    with pytest.raises(ValueError, match="no tensor"):
        plain.replayer.run(edits.make(("nothing",), 0, [0], [1], row=0))


class Odd(nn.Module):
    """In-place activations, a tied weight, and rows that depend on one another if asked."""

    def __init__(self, centred: bool) -> None:
        super().__init__()
        self.centred = centred
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.fc = nn.Linear(64, 64)
        self.last = nn.Linear(64, 64)
        self.last.weight = self.fc.weight

    def forward(self, x: Any) -> Any:
        y = self.deep(self.conv(x).relu_())
        y = nn.functional.relu6(y, inplace=True).flatten(1)
        y = self.fc(y)
        y = y - y.mean(0, keepdim=True) if self.centred else y
        return self.last(torch.tanh(y))


def odd() -> nn.Module:
    return Odd(centred=False)


def centred() -> nn.Module:
    return Odd(centred=True)


@pytest.mark.parametrize("factory", ["odd", "centred"])
def test_networks_of_another_kind(factory: str, tmp_path: Path) -> None:
    spec = TensorSpec("x", (None, 1, 4, 4), "float32")
    source = ModelSource(factory, (spec,), torch=f"{__name__}:{factory}")
    feeds = {"x": np.random.default_rng(9).normal(size=(6, 1, 4, 4)).astype(np.float32)}
    rig, rng = _rig(tmp_path, source, "fp32", feeds), np.random.default_rng(10)
    for site in BACKEND.sites(rig.artifact):
        assert _mismatches(rig, _draw(site, 6, rng), rig.naive) == []
    oracle = _interpreted(rig)
    for site in rig.replayer.activations:
        assert _mismatches(rig, _draw(site, 6, rng, 6), oracle) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", [_needs("int8")])
def test_compiled_programs_are_run_whole(precision: str, tmp_path: Path) -> None:
    spec = TensorSpec("input", (None, 1, 8, 8), "float32")
    source = ModelSource("digits", (spec,), torch="hwbench_torch.digits:digits_cnn")
    feeds = {"input": np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)}
    rig, rng = _rig(tmp_path, source, precision, feeds), np.random.default_rng(11)
    site = _site(rig, "conv2.weight")
    assert _mismatches(rig, _draw(site, 2, rng), rig.naive) == []
    assert rig.replayer.methods[site.name].route == "whole"
    (given,) = rig.replayer.activations
    drawn = _draw(given, 3, rng, 4)
    for made, each in zip(rig.replayer.run(drawn), lanes.split(drawn), strict=True):
        noisy = {"input": lanes.apply_rows(feeds["input"], each)}
        assert lanes.same_outputs(made, naive.golden(BACKEND, rig.artifact, noisy))
    with pytest.raises(Unsupported, match="int8-ref"):
        rig.replayer.run(edits.make(("relu",), 0, [0], [1], row=0))
