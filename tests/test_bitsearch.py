"""Adversarial bit search: what it chooses, what it promises, and that it harms."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench import edits as bits
from hwbench.backend import Artifact, Environment, ModelSource, Site, TensorSpec
from hwbench.case import CLEAN, Case, Layer
from hwbench.dataset import Dataset
from hwbench.edits import Edits
from hwbench.errors import Unsupported
from hwbench.job import AccuracyWork, Job, Part, Scoring
from hwbench.record import rows_from
from hwbench.replay import naive
from hwbench.seeds import Key
from hwbench.trials import Trials
from hwbench.worker import accuracy, search
from hwbench.worker.events import Events, parse
from hwbench_scenarios.bitflip import BitFlip
from hwbench_scenarios.bitsearch import BitSearch, changes

from .conftest import BATCH, SAMPLES, Rig
from .fakes.hwbench_fake.backend import OUTPUT, FakeBackend

KEY = Key(("0", "test", "0"))


@dataclass
class Additive:
    """A victim whose loss is a weighted sum of what is stored: the best flip is known."""

    tensors: dict[str, np.ndarray]
    slopes: dict[str, np.ndarray]
    tells: bool = False
    tried: list[int] = field(default_factory=list)

    def stored(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def losses(self, candidates: Sequence[Edits]) -> np.ndarray:
        self.tried.append(len(candidates))
        return np.array([self.loss(self.after(each)) for each in candidates])

    def gradient(self, name: str) -> np.ndarray | None:
        return self.slopes[name] if self.tells else None

    def after(self, step: Edits) -> dict[str, np.ndarray]:
        touched = {n: bits.apply(self.tensors[n], step.at_site(n)) for n in step.touched()}
        return {**self.tensors, **touched}

    def loss(self, tensors: dict[str, np.ndarray]) -> float:
        return float(sum((self.slopes[n] * tensors[n].astype(float)).sum() for n in tensors))

    def commit(self, step: Edits) -> None:
        self.tensors = self.after(step)


def additive(tells: bool = False) -> tuple[Additive, list[Site]]:
    rng = np.random.default_rng(5)
    shapes = {"a": (4, 3), "b": (5,), "c": (2, 2)}
    tensors = {n: rng.integers(-127, 128, s).astype(np.int8) for n, s in shapes.items()}
    slopes = {n: rng.normal(size=s) for n, s in shapes.items()}
    sites = [Site(n, "weight", "int8", s, "Conv", n) for n, s in shapes.items()]
    return Additive(tensors, slopes, tells), sites


def take(asked: BitSearch, victim: Additive, sites: list[Site], count: int) -> list[Edits]:
    found = []
    for step in islice(asked.steps(victim, sites, KEY), count):
        victim.commit(step)
        found.append(step)
    return found


class TestChoice:
    @pytest.mark.parametrize("tells", [False, True])
    def test_the_best_flip_is_found_where_all_can_be_tried(self, tells: bool):
        """With every bit a candidate, each step is the exhaustive greedy one."""
        victim, sites = additive(tells)
        twin, _ = additive()
        asked = BitSearch(count=6, candidates=2 * 21 * 8, tensors=3)
        for step in take(asked, victim, sites, 6):
            names = tuple(site.name for site in sites)
            best = max(
                twin.loss(twin.after(bits.make(names, i, [e], 1 << b)))
                for i, site in enumerate(sites)
                for e in range(site.size)
                for b in range(8)
            )
            twin.commit(step)
            assert twin.loss(twin.tensors) == pytest.approx(best)

    def test_a_gradient_finds_it_in_fewer_tries(self):
        """One try a tensor is enough where the first-order rise is the rise."""
        victim, sites = additive(tells=True)
        rises = [
            changes(victim.stored(s.name).reshape(-1), s) * victim.slopes[s.name].reshape(-1, 1)
            for s in sites
        ]
        before = victim.loss(victim.tensors)
        take(BitSearch(count=1, candidates=3), victim, sites, 1)
        assert victim.loss(victim.tensors) - before == pytest.approx(max(r.max() for r in rises))
        assert victim.tried == [3]

    def test_no_bit_twice_until_none_is_left(self):
        victim, sites = additive()
        total = sum(site.size * 8 for site in sites)
        asked = BitSearch(count=total + 1, candidates=9, tensors=1)
        steps, seen = asked.steps(victim, sites, KEY), set()
        for _ in range(total):
            step = next(steps)
            victim.commit(step)
            seen.add((int(step.site[0]), int(step.element[0]), int(step.mask[0])))
            assert len(step) == 1 and step.sites == ("a", "b", "c")
        assert len(seen) == total
        with pytest.raises(ValueError, match=f"the {total} bits"):
            next(steps)

    def test_the_same_key_finds_the_same(self):
        found = []
        for key in (KEY, KEY, Key(("1", "test", "0"))):
            victim, sites = additive()
            steps = BitSearch(count=3, candidates=6).steps(victim, sites, key)
            found.append([each.digest() for each in islice(steps, 3)])
        assert found[0] == found[1] != found[2]

    def test_the_tries_are_bounded(self):
        victim, sites = additive()
        take(BitSearch(count=8, candidates=10, tensors=2), victim, sites, 8)
        assert max(victim.tried) <= 10

    def test_change_of_value_puts_high_bits_first(self):
        site = Site("a", "weight", "int8", (2,))
        found = np.abs(changes(np.array([5, -100], np.int8), site))
        assert found.argmax(axis=1).tolist() == [7, 7] and found[:, 0].tolist() == [1, 1]
        real = Site("a", "weight", "float32", (1,))
        assert np.abs(changes(np.array([0.5], np.float32), real)).argmax() == 30
        half = Site("a", "weight", "bfloat16", (1,))
        assert np.abs(changes(np.array([0x3F00], np.uint16), half)).argmax() == 14

    def test_one_search_for_all_severities(self):
        assert BitSearch(count=5).identity == BitSearch(count=50).identity
        assert BitSearch(count=5).identity != BitSearch(count=5, samples=64).identity

    @pytest.mark.parametrize("wrong", [{"count": -1}, {"samples": 0}, {"candidates": 0}])
    def test_what_means_nothing_is_refused(self, wrong: dict[str, int]):
        with pytest.raises(ValueError, match="not"):
            BitSearch(**{"count": 1, **wrong})


class TestLoss:
    def test_cross_entropy_in_nats(self):
        logits = np.array([[0.0, 0.0], [np.log(3), 0.0]], np.float32)
        found = search.losses(logits, np.array([0, 1]), False)
        assert found == pytest.approx([np.log(2), np.log(4)], rel=1e-6)
        shares = np.array([[0.5, 0.5], [0.75, 0.25]], np.float32)
        assert search.losses(shares, np.array([0, 1]), True) == pytest.approx(found, rel=1e-6)

    def test_no_sample_counts_more_than_the_worst(self):
        found = search.losses(np.array([[1e30, 0.0]], np.float32), np.array([1]), False)
        assert found.tolist() == [search.WORST_NATS]

    def test_what_is_detected_is_worth_a_guess(self):
        rows = np.array([[np.nan, 0, 0], [np.inf, 0, 0]], np.float32)
        found = search.losses(rows, np.array([1, 1]), False)
        assert found == pytest.approx([np.log(3)] * 2)


class Ears:
    """What a worker tells."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.events = Events(self._writer)

    def told(self) -> list[dict[str, Any]]:
        os.close(self._writer)
        with os.fdopen(self._reader, "rb") as pipe:
            return [parse(line) for line in pipe]


def fake_job(rig: Rig, cases: Sequence[Case], shows: bool) -> Job:
    environment = Environment("fake", options={"shows": True} if shows else {})
    inputs = (TensorSpec("x", (None, 6), "float32"),)
    folder = rig.folder / f"artifact-{shows}"
    folder.mkdir()
    source = ModelSource("m", inputs, onnx=str(rig.model))
    FakeBackend().build(source, environment, None, folder).save()
    held = np.load(rig.data)
    Dataset({"x": held["x"]}, held["y"], None, "d").save(rig.folder / "data")
    batches = range(-(-SAMPLES // BATCH))
    trials = Trials.of([(0, b) for b in batches], 1 + max(batches))
    parts = [Part(CLEAN, trials)]
    parts += [Part(case, trials) for case in cases]
    work = AccuracyWork(
        str(folder),
        str(rig.folder / "data"),
        BATCH,
        3,
        Scoring(None, True, 0.0),
        tuple(parts),
        str(rig.folder / f"golden-{shows}.npz"),
        "",
    )
    return Job("m", environment, work, 60)


def worked(rig: Rig, cases: Sequence[Case], shows: bool) -> list[dict[str, Any]]:
    """The events of a worker's job, done in this process."""
    ears, job = Ears(), fake_job(rig, cases, shows)
    assert isinstance(job.work, AccuracyWork)
    accuracy.run(job, job.work, FakeBackend(), ears.events)
    return ears.told()


def case_of(*layers: Layer) -> Case:
    main = layers[-1].scenario
    return Case("search", layers, main.severity_name, main.severity)


class TestWorker:
    def test_severities_share_one_search_and_are_nested(self, rig: Rig):
        counts = (3, 1, 6)
        cases = [case_of(Layer(BitSearch(count=c, samples=12, candidates=16))) for c in counts]
        events = worked(rig, cases, shows=True)
        rows = [row for each in events if each["event"] == "search" for row in each["rows"]]
        assert [row["step"] for row in rows] == list(range(7))
        assert len(rows[0]["samples"]) == 12 == len(set(rows[0]["samples"]))
        assert all(0 < row["candidates"] <= 16 and row["routes"] for row in rows[1:])
        losses = [row["loss_nats"] for row in rows]
        assert losses[6] > losses[0] + 1
        faults = {c: hit(events, case.id) for c, case in zip(counts, cases, strict=True)}
        assert {c: len(each) for c, each in faults.items()} == {c: c for c in counts}
        assert faults[1] < faults[3] < faults[6]

    def test_rows_say_the_loss_of_what_was_found(self, rig: Rig):
        """Computed again from the steps by NumPy alone."""
        case = case_of(Layer(BitSearch(count=4, samples=SAMPLES, candidates=16)))
        events = worked(rig, [case], shows=True)
        rows = [row for each in events if each["event"] == "search" for row in each["rows"]]
        held = np.load(rig.data)
        backend, artifact = FakeBackend(), Artifact.load(rig.folder / "artifact-True")
        weight, bias = (backend.stored(artifact, name) for name in ("weight", "bias"))
        for row in rows:
            if row["step"]:
                step = bits.make(("weight",), 0, row["element"], [int(row["mask"], 16)])
                weight = bits.apply(weight, step)
            with np.errstate(all="ignore"):
                logits = np.array([weight @ each for each in held["x"]], np.float32) + bias
            wanted = search.losses(logits, held["y"], False).mean()
            assert row["loss_nats"] == pytest.approx(wanted, rel=1e-4)

    def test_the_naive_route_finds_the_same(self, rig: Rig):
        found = []
        for shows in (True, False):
            case = case_of(Layer(BitSearch(count=3, samples=8, candidates=6)))
            events = worked(rig, [case], shows)
            found.append(hit(events, case.id))
            rows = [row for each in events if each["event"] == "search" for row in each["rows"]]
            assert rows[1]["routes"] == ("whole 6" if shows else "naive 6")
        assert found[0] == found[1]

    def test_a_search_attacks_what_layers_before_it_left(self, rig: Rig):
        first = Layer(BitFlip(count=4, bits=(29,)))
        case = case_of(first, Layer(BitSearch(count=2, samples=SAMPLES, candidates=6)))
        events = worked(rig, [case], shows=True)
        rows = [row for each in events if each["event"] == "search" for row in each["rows"]]
        told = [row for each in events if each["event"] == "faults" for row in faults_in(each)]
        backend, artifact = FakeBackend(), Artifact.load(rig.folder / "artifact-True")
        masks = [int(row["mask"], 16) for row in told if row["layer"] == 0]
        elements = [row["element"] for row in told if row["layer"] == 0]
        weight = bits.apply(
            backend.stored(artifact, "weight"), bits.make(("weight",), 0, elements, masks)
        )
        held = np.load(rig.data)
        logits = held["x"] @ weight.T + backend.stored(artifact, "bias")
        wanted = search.losses(logits, held["y"], False).mean()
        assert rows[0]["loss_nats"] == pytest.approx(wanted, rel=1e-4)
        assert rows[0]["layer"] == 1

    def test_a_sign_of_life_for_every_site(self, rig: Rig):
        case = case_of(Layer(BitSearch(count=2, samples=8, candidates=6)))
        events = worked(rig, [case], shows=False)
        phases = [each["phase"] for each in events if each["event"] == "phase"]
        assert phases.count("search") >= 2 * 6
        assert phases[-1] == "run", "a death behind the search is not charged to it"

    def test_without_decisions_there_is_nothing_to_attack(self, rig: Rig):
        case = case_of(Layer(BitSearch(count=1)))
        job = fake_job(rig, [case], shows=False)
        assert isinstance(job.work, AccuracyWork)
        work = replace(job.work, scoring=Scoring(None, False, 0.1))
        with pytest.raises(Unsupported, match="by classes"):
            accuracy.run(job, work, FakeBackend(), Ears().events)


def faults_in(event: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a worker told as columns."""
    return rows_from("faults", event["shared"], event["columns"])


def hit(events: list[dict[str, Any]], case: str) -> set[tuple[str, int, str]]:
    return {
        (row["site"], row["element"], row["mask"])
        for each in events
        if each["event"] == "faults" and each["case"] == case
        for row in faults_in(each)
    }


@dataclass
class Bench:
    """What a search needs of a job."""

    backend: Any
    artifact: Artifact
    dataset: Dataset
    work: AccuracyWork
    events: Events
    golden: dict[str, Any]
    output: str
    searches: dict[str, search.Progress] = field(default_factory=dict)


def small_net(tmp_path: Path, precision: str) -> Bench:
    """A convolutional net on ONNX Runtime, labelled by its own decisions."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from hwbench.testing import models
    from hwbench_onnxruntime import OnnxRuntimeBackend

    backend, folder = OnnxRuntimeBackend(), tmp_path / "artifact"
    folder.mkdir()
    calibration = {"input": models.samples(32, 1)} if precision == "int8" else None
    artifact = backend.build(
        models.conv_net(tmp_path),
        Environment("onnxruntime", precision=precision),
        calibration,
        folder,
    )
    feeds = {"input": models.samples(96)}
    golden = naive.golden(backend, artifact, feeds)
    work = AccuracyWork("", "", 32, 0, Scoring(None, True, 0.0), (), "", "")
    descriptor = os.open(os.devnull, os.O_WRONLY)
    return Bench(
        backend,
        artifact,
        Dataset(feeds, None, None, "d"),
        work,
        Events(descriptor),
        golden,
        models.OUTPUT,
    )


def agreement(bench: Bench, found: Edits) -> float:
    """Share of golden's decisions that stay."""
    feeds = dict(bench.dataset.inputs)
    outputs = naive.stored(bench.backend, bench.artifact, feeds, found)[bench.output]
    same = outputs.argmax(axis=1) == bench.golden[bench.output].argmax(axis=1)
    return float((same & np.isfinite(outputs).all(axis=1)).mean())


def test_searched_flips_harm_int8_more_than_random_ones(tmp_path: Path):
    bench = small_net(tmp_path, "int8")
    asked = BitSearch(count=6, samples=48, candidates=24, tensors=2)
    sites = [s for s in bench.backend.sites(bench.artifact) if s.kind == "weight"]
    found, share = search.edits(bench, case_of(Layer(asked)), 0, sites, 0)
    assert len(found) == 6 and share == pytest.approx(6 / sum(s.size * s.bits for s in sites))
    random = [BitFlip(count=6).draw(sites, Key(("0", "r", str(i)))) for i in range(5)]
    worst = min(agreement(bench, each) for each in random)
    assert agreement(bench, found) < min(0.5, worst - 0.2)
    assert len(search.edits(bench, case_of(Layer(replace(asked, count=2))), 0, sites, 0)[0]) == 2


def test_a_fixed_batch_is_attacked_in_parts(rig: Rig):
    """The mean over parts, the last one padded, is the mean over the attacked samples."""
    job = fake_job(rig, [], shows=True)
    assert isinstance(job.work, AccuracyWork)
    backend, artifact = FakeBackend(), Artifact.load(Path(job.work.artifact))
    dataset = Dataset.open(Path(job.work.dataset))
    golden = naive.golden(backend, artifact, dict(dataset.inputs))
    descriptor = os.open(os.devnull, os.O_WRONLY)
    found = []
    for size in (None, 8):
        fixed = replace(artifact, inputs=(TensorSpec("x", (size, 6), "float32"),))
        bench = Bench(backend, fixed, dataset, job.work, Events(descriptor), golden, OUTPUT)
        asked = BitSearch(count=2, samples=13, candidates=8)
        site = backend.sites(artifact)[0]
        edits, _ = search.edits(bench, case_of(Layer(asked)), 0, [site], 0)
        (progress,) = bench.searches.values()
        found.append((edits.digest(), round(progress.victim.account()["loss_nats"], 6)))
    assert found[0] == found[1]


def test_what_is_told_is_plain(rig: Rig):
    case = case_of(Layer(BitSearch(count=1, samples=4, candidates=2)))
    for each in worked(rig, [case], shows=True):
        if each["event"] == "search":
            json.dumps(each)
