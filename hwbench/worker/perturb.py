"""Carry out a case's layers: draw edits for stored tensors, change the arrays of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwbench import edits, prepared, values
from hwbench.backend import Array, Site, TensorSpec
from hwbench.case import Case, Layer
from hwbench.dataset import Batch, Dataset
from hwbench.errors import Unsupported
from hwbench.job import Assigned
from hwbench.scenario import (
    EditPerturbation,
    Perturbation,
    PreparedPerturbation,
    SingleFaultPerturbation,
    TransformPerturbation,
    ValuePerturbation,
)
from hwbench.seeds import Key

Read = Callable[[str], Array]  # a site's tensor as stored
Fit = Callable[[TransformPerturbation, str], TransformPerturbation]


@dataclass(frozen=True)
class Perturbed:
    """The arrays of a batch after the input layers, and what was done."""

    feeds: Mapping[str, Array]
    digest: str
    n_edits: int | None
    achieved: float | None


def key_of(case: Case, index: int, seed: int, pattern: int) -> Key:
    """The key of one layer's pattern; stacked layers are drawn apart.

    Conditions do not count: under one, the same faults are drawn as without it.
    """
    key = Key.of_pattern(seed, case.layers[index].scenario.identity, pattern)
    before = sum(layer.scenario.target != "process" for layer in case.layers[:index])
    return key.child("layer", before) if before else key


def seed_key(case: Case, seed: int, pattern: int) -> str:
    """The first perturbation's key; empty where nothing is drawn."""
    for index, layer in enumerate(case.layers):
        if layer.scenario.target != "process":
            return key_of(case, index, seed, pattern).hex()
    return ""


def layers(case: Case, target: str) -> list[int]:
    """Layers that hit ``weights`` (any stored tensor), ``inputs`` or ``activations``."""
    return [i for i, layer in enumerate(case.layers) if layer.scenario.target == target]


def live(case: Case) -> int | None:
    """The layer whose faults go into loaded buffers; ``None`` where all go into the artifact.

    Raises:
        ValueError: it is one of several on stored tensors, which only the artifact can hold.
    """
    stored = layers(case, "weights")
    found = [index for index in stored if case.layers[index].residence == "live"]
    if found and len(stored) > 1:
        raise ValueError(f"{case.id}: only one scenario of a stack can be live")
    return found[0] if found else None


def resident(case: Case, index: int) -> bool:
    """Whether a layer's edits are the same in every inference."""
    scenario = case.layers[index].scenario
    return not isinstance(scenario, EditPerturbation) or scenario.resident


@dataclass(frozen=True)
class Which:
    """Which draw of a layer is meant.

    Attributes:
        seed: of the spec.
        pattern: number of the draw.
        within: what it is drawn for within a pattern, such as ``("inference", 0)``; empty where
            one draw holds for all.
        assigned: the campaign's choice for this pattern, or ``None``.
    """

    seed: int
    pattern: int
    within: tuple[object, ...] = ()
    assigned: Assigned | None = None

    def key(self, case: Case, index: int) -> Key:
        """The key of the draw."""
        key = key_of(case, index, self.seed, self.pattern)
        return key.child(*self.within) if self.within else key


def chosen(case: Case, index: int, sites: Sequence[Site]) -> list[Site]:
    """The sites that a layer may hit.

    Raises:
        Unsupported: there is none.
    """
    layer = case.layers[index]
    found = [site for site in sites if layer.sites.keeps(site)]
    if not found:
        kinds = ", ".join(sorted({site.kind for site in sites})) or "no kind"
        raise Unsupported(
            f"{case.id} finds no site to hit: {layer.sites}."
            f" Hint: there are {len(sites)} sites of {kinds}"
        )
    return found


def draw(
    case: Case, index: int, sites: Sequence[Site], which: Which, read: Read | None = None
) -> tuple[edits.Edits, float]:
    """The edits of one layer, and the severity achieved.

    That is the share of the bits that are named, or what a scenario on values says of its own.

    Args:
        case: with the layer ``index``.
        index: of the layer.
        sites: those that it may hit; see ``chosen``.
        which: draw.
        read: the stored tensors as the layers before this one leave them; only scenarios that
            compute values need it.

    Raises:
        Unsupported: the sites have no such bits.
        ValueError: the scenario cannot draw over these sites.
    """
    scenario, key = case.layers[index].scenario, which.key(case, index)
    if isinstance(scenario, ValuePerturbation) and read is not None:
        return _rewritten(scenario, sites, key, read)
    if not isinstance(scenario, EditPerturbation):
        raise ValueError(f"{scenario.name} does not work on these tensors")
    if which.assigned is not None:
        drawn = _assigned(scenario, sites, which.assigned, key, edits.NO_ROW)
    else:
        drawn = scenario.draw(sites, key)
    return drawn, scenario.share(drawn, sites)


def draw_rows(
    case: Case, index: int, sites: Sequence[Site], which: Which, samples: Sequence[int]
) -> list[edits.Edits]:
    """The edits of one layer for each of some dataset samples, every sample with a draw of its own.

    Args:
        case: with the layer ``index``, of an ``EditPerturbation``.
        index: of the layer.
        sites: activations that it may hit.
        which: draw.
        samples: dataset indices.
    """
    scenario, key = case.layers[index].scenario, which.key(case, index)
    if not isinstance(scenario, EditPerturbation):
        raise Unsupported(f"{scenario.name} does not draw faults of single samples")
    if which.assigned is None:
        return [scenario.draw(sites, key.child("sample", row), row) for row in samples]
    return [
        _assigned(scenario, sites, which.assigned, key.child("sample", row), row) for row in samples
    ]


def draw_values(
    scenario: TransformPerturbation,
    sites: Sequence[Site],
    read: Read,
    samples: npt.NDArray[np.int64],
    key: Key,
) -> tuple[edits.Edits, float]:
    """Write edits of new values in one tensor between operators, and what was achieved.

    Args:
        scenario: that computes the values, sample by sample.
        sites: exactly one: what is written to a later tensor would hide what an earlier one did.
        read: a tensor of the undisturbed batch.
        samples: dataset indices of the scored rows, the first ones of the batch.
        key: of the layer's pattern.

    Raises:
        Unsupported: several tensors, or one whose elements are no real numbers.
    """
    if len(sites) != 1:
        hint = "sites: {include: NAME} or {layers: NAME}"
        raise Unsupported(f"{scenario.name} works on one activation at a time. Hint: {hint}")
    (site,) = sites
    if np.dtype(site.dtype).kind != "f":
        raise Unsupported(f"{site.name!r} holds {site.dtype} codes, not real numbers")
    clean = read(site.name)[: len(samples)]
    changed, achieved = scenario.transform(clean, samples, key.child(site.name))
    parts = []
    for row, (before, after) in enumerate(zip(clean, changed, strict=True)):
        drawn = values.rewrite(before, after, (site.name,), 0)
        args = (drawn.sites, drawn.site, drawn.element, drawn.mask, drawn.op)
        parts.append(edits.make(*args, row=np.full(len(drawn), row)))
    known = achieved[np.isfinite(achieved)]
    return edits.concatenate(parts), float(known.mean()) if known.size else float("nan")


def _assigned(
    scenario: EditPerturbation, sites: Sequence[Site], choice: Assigned, key: Key, row: int
) -> edits.Edits:
    if not isinstance(scenario, SingleFaultPerturbation):
        raise ValueError(f"{scenario.name} has no single faults that a campaign could choose")
    stratum = [site for site in sites if site.name in choice.sites]
    return scenario.nth(stratum, choice.field, choice.n, key, row)


def _rewritten(
    scenario: ValuePerturbation, sites: Sequence[Site], key: Key, read: Read
) -> tuple[edits.Edits, float]:
    """Write edits of new values, and the mean over sites of what was achieved."""
    names = tuple(site.name for site in sites)
    parts, achieved = [], []
    for index, site in enumerate(sites):
        stored = read(site.name)
        before = values.decode(stored, site)
        new = values.encode(scenario.rewrite(site, before, key.child(site.name)), site)
        parts.append(values.rewrite(stored, new, names, index))
        achieved.append(scenario.achieved(before, values.decode(new, site)))
    known = [each for each in achieved if np.isfinite(each)]
    return edits.concatenate(parts), float(np.mean(known)) if known else float("nan")


def after(read: Read, done: Sequence[edits.Edits]) -> Read:
    """Stored tensors with the edits of earlier layers in them."""

    def reading(name: str) -> Array:
        stored = read(name)
        for each in done:
            if name in each.touched():
                stored = edits.apply(stored, each.at_site(name))
        return stored

    return reading


def fitting(dataset: Dataset) -> Fit:
    """What gives a scenario the whole of an input of ``dataset``, once."""
    fitted: dict[tuple[TransformPerturbation, str], TransformPerturbation] = {}

    def fit(scenario: TransformPerturbation, name: str) -> TransformPerturbation:
        if (scenario, name) not in fitted:
            fitted[scenario, name] = scenario.fit(dataset.inputs[name])
        return fitted[scenario, name]

    return fit


def _unfitted(scenario: TransformPerturbation, name: str) -> TransformPerturbation:
    return scenario


def perturb_inputs(
    case: Case, batch: Batch, seed: int, pattern: int, fit: Fit = _unfitted
) -> Perturbed:
    """The batch's arrays after every input layer; padding rows stay as they are.

    ``fit`` gives a scenario what it must know of a whole input; see ``TransformPerturbation.fit``.
    """
    feeds = dict(batch.feeds)
    n_edits: int | None = None
    achieved: list[npt.NDArray[np.float64]] = []
    for index in layers(case, "inputs"):
        layer, key = case.layers[index], key_of(case, index, seed, pattern)
        for name in feeds:
            tensor = TensorSpec(name, feeds[name].shape, feeds[name].dtype.name)
            assert isinstance(layer.scenario, Perturbation)
            if not layer.sites.keeps_name(name) or layer.scenario.refuses(tensor):
                continue
            if isinstance(layer.scenario, PreparedPerturbation):
                feeds[name], done = _prepared(layer, name, feeds[name], batch.samples, pattern)
                achieved.append(done)
                continue
            feeds[name], done, count = _changed(layer, name, feeds[name], batch.samples, key, fit)
            achieved.append(done)
            n_edits = count if n_edits is None else n_edits + (count or 0)
    return Perturbed(feeds, _digest(feeds, len(batch.samples)), n_edits, _mean(achieved))


def _prepared(
    layer: Layer, name: str, array: Array, samples: npt.NDArray[np.int64], pattern: int
) -> tuple[Array, npt.NDArray[np.float64]]:
    """The batch's rows of what was computed for the whole dataset."""
    found = prepared.load(Path(layer.prepared) / str(pattern))[name]
    result = np.array(array)
    result[: len(samples)] = found.array[samples]
    return result, found.achieved[samples]


def _mean(parts: list[npt.NDArray[np.float64]]) -> float | None:
    values = np.concatenate(parts) if parts else np.empty(0)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def _changed(
    layer: Layer, name: str, array: Array, samples: npt.NDArray[np.int64], key: Key, fit: Fit
) -> tuple[Array, npt.NDArray[np.float64], int | None]:
    result = np.array(array)
    rows = len(samples)
    if isinstance(layer.scenario, TransformPerturbation):
        scenario = fit(layer.scenario, name)
        changed, achieved = scenario.transform(array[:rows], samples, key.child(name))
        result[:rows] = changed
        return result, achieved, None
    assert isinstance(layer.scenario, EditPerturbation)
    site = Site(name, "input", array.dtype.name, array.shape[1:])
    count, achieved = 0, np.zeros(rows)
    for position, sample in enumerate(samples):
        own = () if layer.scenario.resident else (int(sample),)
        drawn = layer.scenario.draw([site], key.child(name, *own), int(sample))
        result[position] = edits.apply(array[position], drawn)
        achieved[position] = layer.scenario.share(drawn, [site])
        count += len(drawn)
    return result, achieved, count


def _digest(feeds: Mapping[str, Array], rows: int) -> str:
    """Hash of the scored rows' bytes: equal in every environment."""
    content = hashlib.blake2b(digest_size=16)
    for name, array in feeds.items():
        content.update(name.encode())
        content.update(np.ascontiguousarray(array[:rows]).data)
    return content.hexdigest()
