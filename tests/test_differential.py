"""Replay on every runtime against the naive route, byte by byte, NaN included.

The naive route is a corrupted file, a fresh session with the deployed options and the whole batch.
For tensors between operators it is the deployed network with an operator that writes the faulty
numbers, and for inputs the faulty rows in the deployed session. By default ResNet-8 alone is run,
with few faults a cell; ``-m slow`` runs every network with 500 faults a target.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench import edits, onnxfile, registry, values
from hwbench.backend import Array, Site
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.replay import lanes, naive
from tests import replaying
from tests.replaying import NETWORKS, Oracle, Outputs, Rig

BACKENDS = ("onnxruntime", "openvino", "torch")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SAMPLED = "resnet8"  # the network of the default run, which leaves out what costs most there:
COSTLY = (("openvino", "fp16"),)
FAULTS = 500


def _cells() -> Iterator[Any]:
    for backend in BACKENDS:
        for precision in PRECISIONS:
            for network in NETWORKS:
                sampled = network == SAMPLED and (backend, precision) not in COSTLY
                marks = () if sampled else (pytest.mark.slow,)
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
    assert replaying.compare(rig, sites, 20, 4, replaying.written(rig), rig.rows).wrong == []


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
    found = replaying.compare(rig, sites, FAULTS, 7, replaying.written(rig), rig.rows)
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


def test_patterns_over_tensors_of_every_kind(rig: Rig) -> None:
    """Tensors between operators and inputs too: the fault of one reaches the next."""
    rng = np.random.default_rng(10)
    sites = [*rig.stored("weight"), *rig.between(), *rig.entering()]
    for count in (2, 3, 6):
        edited = _pattern(sites, count, rng, rig.rows)
        wanted = replaying.written_pattern(rig, edited)
        assert lanes.same_outputs(rig.replayer.run_pattern(edited), wanted)


def test_an_error_spreads_from_where_it_starts(rig: Rig) -> None:
    """Nothing differs before the tensor that is hit; every tensor is as executed."""
    sites = rig.between()
    hit = sites[len(sites) // 2]
    top = 1 << (hit.bits - 2)
    edited = edits.make((hit.name,), 0, [hit.size // 2], [top], row=[0])  # no padding there
    seen = {site.name: (site, a, b) for site, a, b in rig.replayer.spread(edited)}
    assert set(seen) <= {site.name for site in rig.replayer.activations}
    for site, golden, faulty in seen.values():
        assert golden.shape == faulty.shape == (rig.rows, *site.shape)
        if site.order < hit.order:
            assert lanes.same(golden, faulty), site.name
    _, golden, faulty = seen[hit.name]
    assert lanes.same(faulty, lanes.apply_rows(golden, edited))
    (outputs,) = rig.replayer.run(edited)
    arrived = not lanes.same_outputs(
        outputs, rig.replayer.golden
    )  # what can be seen may end before
    assert arrived or any(not lanes.same(a, b) for s, a, b in seen.values() if s.order > hit.order)


def test_the_spread_of_a_stored_fault_is_what_the_corrupted_file_holds(rig: Rig) -> None:
    """The same tensors as golden of a replayer on the corrupted artifact."""
    weights = rig.stored("weight")
    middle = np.median([each.order for each in weights])  # after the last, nothing may be left
    site = next(each for each in _some(weights, 11, len(weights)) if each.order <= middle)
    elements = np.arange(min(8, site.size))
    edited = edits.make((site.name,), 0, elements, 1 << (site.bits - 2))
    seen = {found.name: faulty for found, _, faulty in rig.replayer.spread(edited)}
    with tempfile.TemporaryDirectory() as scratch:
        artifact = rig.backend.corrupt(rig.artifact, edited, Path(scratch))
        other = rig.backend.replayer(artifact, rig.feeds, replaying.MEMORY_MIB)
        nothing = edits.none((other.activations[0].name,))
        held = {found.name: golden for found, golden, _ in other.spread(nothing)}
    shared = seen.keys() & held.keys()
    assert len(shared) > len(seen) // 2
    assert [name for name in shared if not lanes.same(seen[name], held[name])] == []
    changed = [n for n, golden, faulty in _named(rig, edited) if not lanes.same(golden, faulty)]
    assert changed


def _named(rig: Rig, edited: Edits) -> Iterator[tuple[str, Any, Any]]:
    for site, golden, faulty in rig.replayer.spread(edited):
        yield site.name, golden, faulty


# Largest error allowed, as a share of the largest output: what the precision's own rounding makes
# of these networks, while the faults that are compared change outputs by several times as much.
TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1, "int8": 0.1}


def test_an_independent_evaluation_of_the_faulty_network_agrees(rig: Rig) -> None:
    """``onnx.reference`` (NumPy) with the same bits: what replay computes is the fault's effect.

    The faults turn signs, so that nothing saturates or overflows, which NumPy would not know of.
    """
    precision = rig.artifact.environment.precision
    if precision == "int8" and rig.backend.name != "onnxruntime":
        pytest.skip("nothing at hand evaluates this quantised format apart from its own runtime")
    clean, effects = _evaluated(rig, {}), list[float]()
    tolerance = TOLERANCE[precision]
    for site in _evaluable(rig):
        top = 1 << (site.bits - 1)
        edited = edits.make((site.name,), 0, np.arange(0, site.size, 4), top)
        stored = edits.apply(rig.backend.stored(rig.artifact, site.name), edited)
        wanted = _evaluated(rig, {site.name: _numbers(stored, site)})
        (made,) = rig.replayer.run(edited)
        for name, array in wanted.items():
            scale = np.abs(array).max()
            assert np.abs(made[name] - array).max() <= tolerance * scale, site.name
            effects.append(float(np.abs(clean[name] - array).max() / scale))
    assert max(effects) > 3 * tolerance


def _evaluable(rig: Rig) -> list[Site]:
    """A few weights that the source holds too, or, quantised, the artifact itself."""
    tensors = onnxfile.index(_evaluated_model(rig)).tensors
    found = [site for site in rig.stored("weight") if _held(rig, site, tensors.get(site.name))]
    return [found[i] for i in range(0, len(found), max(1, len(found) // 4))]


def _held(rig: Rig, site: Site, tensor: Any) -> bool:
    """Whether a tensor holds a site's numbers, up to the rounding of what is stored."""
    if tensor is None or tuple(tensor.dims) != site.shape:
        return False
    stored = _numbers(rig.backend.stored(rig.artifact, site.name), site)
    held = onnxfile.stored(tensor).astype(np.float64)
    return bool(np.abs(stored - held).max() <= 0.01 * np.abs(held).max())


def _numbers(stored: Array, site: Site) -> Any:
    """Real numbers, or codes, which the evaluated model holds as they are."""
    if site.dtype in ("int8", "uint8"):
        return stored.astype(np.float64)
    return values.decode(stored, site)


def _evaluated_model(rig: Rig) -> Any:
    """The source, which the runtime has not touched; where quantised, the artifact as it is."""
    if rig.artifact.environment.precision == "int8":
        model = onnxfile.read(rig.artifact.folder / "model.onnx")
        for domain in model.opset_import:  # the evaluator knows quantisers from 19 on
            domain.version = max(domain.version, 0 if domain.domain else 19)
        return model
    return onnxfile.load(Path(str(rig.source.onnx)))


def _evaluated(rig: Rig, replaced: dict[str, Any]) -> Outputs:
    from onnx.reference import ReferenceEvaluator

    model = _evaluated_model(rig)
    tensors = onnxfile.index(model).tensors
    for name, array in replaced.items():
        onnxfile.overwrite(tensors[name], array.astype(onnxfile.stored(tensors[name]).dtype))
    names = [each.name for each in model.graph.output]
    made = ReferenceEvaluator(model).run(names, dict(rig.feeds))
    return dict(zip(rig.replayer.golden, (np.asarray(each) for each in made), strict=True))
