"""Replay on every runtime against the naive route, byte by byte, NaN included.

The naive route is a corrupted file, a fresh session with the deployed options and the whole batch.
For tensors between operators it is the deployed network with an operator that writes the faulty
numbers, and for inputs the faulty rows in the deployed session. By default ResNet-8 alone is run,
with few faults a cell; ``-m slow`` runs every network with 500 faults a target.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hwbench import edits, registry
from hwbench.backend import Site
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.replay import lanes, naive
from tests import replaying
from tests.replaying import NETWORKS, Oracle, Outputs, Rig

BACKENDS = ("onnxruntime", "openvino", "torch")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SAMPLED = "resnet8"  # the network of the default run
FAULTS = 500


def _cells() -> Iterator[Any]:
    for backend in BACKENDS:
        for precision in PRECISIONS:
            for network in NETWORKS:
                marks = () if network == SAMPLED else (pytest.mark.slow,)
                yield pytest.param((backend, precision, network), marks=marks)


def _name(cell: tuple[str, str, str]) -> str:
    return "-".join(cell)


@pytest.fixture(scope="module", params=_cells(), ids=_name)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    name, precision, network = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    backend, folder = registry.backend(name), tmp_path_factory.mktemp(network)
    capability = backend.probe().precisions[precision]
    if capability.status != "supported":
        pytest.skip(capability.reason)
    source, feeds = replaying.network(network, folder)
    try:
        artifact = replaying.build(backend, folder, source, feeds, precision)
        replayer = backend.replayer(artifact, feeds, replaying.MEMORY_MIB)
    except Unsupported as reason:
        pytest.skip(str(reason))
    yield Rig(backend, source, artifact, feeds, replayer)
    replayer.close()


def _some(sites: list[Site], seed: int, count: int = 4) -> list[Site]:
    """A few sites, one of each kind among them."""
    rng = np.random.default_rng(seed)
    order = [sites[i] for i in rng.permutation(len(sites))]
    first = list({site.kind: site for site in order}.values())
    return [*first, *(site for site in order if site not in first)][: max(count, len(first))]


def _written(rig: Rig) -> Oracle:
    """Faults between operators the naive way: clean numbers from a prefix, faulty ones written
    into the whole network on its way, in a fresh session."""
    return {"onnxruntime": _written_onnxruntime, "openvino": _written_openvino}[rig.backend.name](
        rig
    )


def _places(faulty: Any, clean: Any) -> Any:
    """Indices of what differs; of the first number where nothing does."""
    where = np.argwhere(lanes.unsigned(faulty) != lanes.unsigned(clean))
    return where if len(where) else np.zeros((1, clean.ndim), np.int64)


def _written_onnxruntime(rig: Rig) -> Oracle:
    from hwbench_onnxruntime.executed import Executed

    executed = Executed.of(rig.artifact)

    def run(edited: Edits) -> Outputs:
        name = edited.sites[0]
        clean = executed.part(0, executed.producers[name] + 1, [name]).run(rig.feeds)[name]
        faulty = lanes.apply_rows(clean, edited)
        where = _places(faulty, clean)
        part = executed.scattered(name, where, faulty[tuple(where.T)])
        return dict(zip(rig.replayer.golden, part.run(rig.feeds).values(), strict=True))

    return run


def _written_openvino(rig: Rig) -> Oracle:
    """One corrupted file for each tensor, in which the places and numbers are inputs."""
    import openvino as ov

    from hwbench_openvino.executed import Executed

    executed = Executed.of(rig.artifact, rig.feeds)
    given = {name: ov.Tensor(each) for name, each in rig.feeds.items()}
    opened: dict[str, tuple[Any, Any]] = {}

    def load(name: str) -> tuple[Any, Any]:
        edge = executed.edges[name]
        clean = edge.stored(executed.part([edge]).run(given)[name])
        return clean, executed.whole(executed.scattered(edge, clean.ndim))

    def run(edited: Edits) -> Outputs:
        name = edited.sites[0]
        if name not in opened:
            opened.clear()
            opened[name] = load(name)
        clean, whole = opened[name]
        faulty = lanes.apply_rows(clean, edited)
        places = executed.edges[name].written(faulty, _places(faulty, clean))
        made: Outputs = whole.run({**given, **places})
        return made

    return run


def _entered(rig: Rig) -> Oracle:
    """Faulty inputs in the deployed session."""
    session = rig.backend.open(rig.artifact)

    def run(edited: Edits) -> Outputs:
        name = edited.sites[0]
        return session.run({**rig.feeds, name: lanes.apply_rows(rig.feeds[name], edited)})

    return run


def test_golden_is_the_deployed_session(rig: Rig) -> None:
    golden = naive.golden(rig.backend, rig.artifact, rig.feeds)
    assert lanes.same_outputs(rig.replayer.golden, golden)


def test_stored_faults(rig: Rig) -> None:
    assert replaying.compare(rig, _some(rig.stored(), 1), 8, 2, rig.naive).wrong == []


def test_faults_between_operators(rig: Rig) -> None:
    sites = _some(rig.between(), 3)
    assert replaying.compare(rig, sites, 20, 4, _written(rig), rig.rows).wrong == []


def test_input_faults(rig: Rig) -> None:
    assert replaying.compare(rig, rig.entering(), 20, 5, _entered(rig), rig.rows).wrong == []


def _enough(found: replaying.Compared, record: Callable[[str, object], None]) -> None:
    """Nothing differs, and what was compared is told (``--junit-xml`` holds it)."""
    record("faults", dict(found.routes))
    print(dict(found.routes))
    assert found.wrong == []


@pytest.mark.slow
def test_many_stored_faults(rig: Rig, record_property: Callable[[str, object], None]) -> None:
    _enough(replaying.compare(rig, rig.stored(), FAULTS, 6, rig.naive), record_property)


@pytest.mark.slow
def test_many_faults_between_operators(
    rig: Rig, record_property: Callable[[str, object], None]
) -> None:
    sites = rig.between()
    found = replaying.compare(rig, sites, FAULTS, 7, _written(rig), rig.rows)
    _enough(found, record_property)


@pytest.mark.slow
def test_many_input_faults(rig: Rig, record_property: Callable[[str, object], None]) -> None:
    sites = rig.entering()
    _enough(replaying.compare(rig, sites, FAULTS, 8, _entered(rig), rig.rows), record_property)


def _pattern(sites: list[Site], count: int, rng: np.random.Generator, rows: int) -> Edits:
    """Flips in several tensors at once; a row for what lies between operators."""
    site = rng.integers(len(sites), size=count)
    element = [int(rng.integers(sites[i].size)) for i in site]
    mask = [1 << int(rng.integers(min(sites[i].bits, 32))) for i in site]
    inside = [sites[i].kind in ("activation", "input") for i in site]
    row = np.where(inside, rng.integers(rows, size=count), edits.NO_ROW)
    return edits.make(tuple(each.name for each in sites), site, element, mask, row=row)


def test_patterns_over_several_stored_tensors(rig: Rig) -> None:
    rng = np.random.default_rng(9)
    for count in (2, 5, 17):
        edited = _pattern(rig.stored("weight", "bias"), count, rng, rig.rows)
        assert lanes.same_outputs(rig.replayer.run_pattern(edited), rig.naive(edited))
