"""A stored record again: the same bits, what was hit, and how far the error got."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hwbench import cli, edits, engine, registry
from hwbench.backend import Artifact, Site
from hwbench.engine import Options, Silent
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.job import SpreadWork
from hwbench.replay import lanes
from hwbench.replay.spread import reach
from hwbench.report.rerun import rerun_json, rerun_text
from hwbench.rerun import RecordId, Rerun, rerun, same
from hwbench.spec.cases import expand
from hwbench.store import Store
from hwbench.values import number
from hwbench.worker import perturb, spread
from hwbench.worker.spread import from_rows, written

from .conftest import BATCH, FAKES, SAMPLES, Rig, write_data, write_model
from .fakes.hwbench_fake.backend import FakeBackend

SITE = Site("t", "activation", "float32", (2,), "Relu", "relu1", 3)
LAST = SAMPLES // BATCH  # the batch that is padded


FLIPS, NOISE, STACK = "bitflip-bit29-weights@count=3", "noise-inputs@snr_db=10", "stack@count=5"
SCENARIOS = [
    {"noise": {"snr_db": 10}, "patterns": 2},
    {"bitflip": {"count": 3, "bits": [29]}, "patterns": 2},
    [{"stuckat": {"value": 1, "count": 4}}, {"bitflip": {"count": 5}, "name": "stack"}],
]


@dataclass(frozen=True)
class Shared:
    """One sweep that several tests look at; none of them changes it."""

    rig: Rig
    store: Store


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("shared")
    rig = Rig(folder, folder / "cache")
    write_model(rig.model)
    write_data(rig.data)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FAKES))
        before = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FAKES), before])))
        patch.setenv("HWBENCH_CACHE", str(rig.cache))
        registry._group.cache_clear()
        environments = [
            {"backend": "fake", "options": {"shows": True}},
            {"backend": "fake", "label": "dark"},
        ]
        spec = rig.spec(environments=environments, scenarios=SCENARIOS)
        options = Options(output=folder / "run", workers=2)
        yield Shared(rig, engine.start(spec, options, Silent(), Stop()))
        registry._group.cache_clear()


def again(store: Store, text: str) -> Rerun:
    return rerun(store.folder, RecordId.parse(text), Options(), Stop())


def cell(store: Store, case: str, label: str = "") -> str:
    return f"{store.read('records')['model'][0]}/fake-cpu-fp32-t1{label}/{case}"


def arrays(rig: Rig) -> tuple[Any, Any]:
    import onnx
    from onnx import numpy_helper

    held = onnx.load(str(rig.model)).graph.initializer
    stored = {each.name: np.array(numpy_helper.to_array(each)) for each in held}
    return stored["weight"], stored["bias"]


class TestRerun:
    @pytest.mark.parametrize("case", [FLIPS, NOISE, "clean"])
    def test_every_kind_of_record_is_had_again(self, shared: Shared, case: str):
        pattern = 0 if case == "clean" else 1
        found = again(shared.store, f"{cell(shared.store, case)}#{pattern}:{LAST}")
        assert found.reproduced and found.differs == ()
        assert found.made["partials"] == found.record["partials"]
        assert found.record["pattern"] == pattern and found.record["batch"] == LAST
        assert bool(found.spread) == (case != "clean")

    def test_weight_faults_are_told_and_followed(self, shared: Shared):
        found = again(shared.store, f"{cell(shared.store, FLIPS)}#0:{LAST}")
        weight, bias = arrays(shared.rig)
        faulty = edits.apply(weight, from_rows(found.faults))  # kind weight: one site
        x = np.load(shared.rig.data)["x"][LAST * BATCH :]  # padding rows count for nothing
        wanted = {"x": (x, x), "products": (products(weight, x), products(faulty, x))}
        wanted["logits"] = tuple(each + bias for each in wanted["products"])
        assert [each["tensor"] for each in found.spread] == list(wanted)
        for each in found.spread:
            golden, wrong = wanted[each["tensor"]]
            assert each["elements"] == golden.size
            assert each["changed"] == (golden != wrong).sum()
        golden, wrong = (each.astype(np.float64) for each in wanted["logits"])
        power = np.square(golden).sum() / np.square(wrong - golden).sum()
        assert found.spread[-1]["sqnr_db"] == pytest.approx(10 * np.log10(power))

    def test_perturbed_inputs_are_followed_from_the_input_on(self, shared: Shared):
        found = again(shared.store, f"{cell(shared.store, NOISE)}#0")
        first, *_, last = found.spread
        assert first["tensor"] == "x" and first["changed"] == first["elements"]
        assert first["sqnr_db"] == pytest.approx(10, abs=0.5)
        assert last["changed"] == last["elements"]
        assert found.faults == []

    def test_stacked_stored_scenarios_are_followed_in_their_order(self, shared: Shared):
        found = again(shared.store, f"{cell(shared.store, STACK)}#0:0")
        weight, bias = arrays(shared.rig)
        clean = weight
        for layer in (0, 1):
            weight = edits.apply(weight, from_rows(f for f in found.faults if f["layer"] == layer))
        x = np.load(shared.rig.data)["x"][:BATCH]
        golden, wrong = (products(each, x) + bias for each in (clean, weight))
        assert found.reproduced
        assert found.spread[-1]["changed"] == (
            (lanes.unsigned(golden) != lanes.unsigned(wrong)).sum()
        )

    def test_a_runtime_that_shows_nothing_still_repeats(self, shared: Shared):
        before = {p: p.read_bytes() for p in shared.store.folder.rglob("*") if p.is_file()}
        found = again(shared.store, f"{cell(shared.store, FLIPS, '-dark')}#0")
        assert found.reproduced and found.spread == []
        assert "shows nothing unless told to" in found.gap
        after = {p: p.read_bytes() for p in shared.store.folder.rglob("*") if p.is_file()}
        assert before == after, "a run is left as it is"

    def test_a_record_that_was_changed_is_not_reproduced(self, shared: Shared, tmp_path: Path):
        folder = tmp_path / "copy"
        shutil.copytree(shared.store.folder, folder)
        store = Store.open(folder)
        columns = ("edits_hash", "partials", "outcomes")
        for column in columns:
            tamper(store, column)
        name = f"{cell(store, FLIPS, '-dark')}#0:1"
        assert set(again(store, name).differs) == set(columns)
        result = CliRunner().invoke(cli.app, ["replay", str(folder), name])
        assert result.exit_code == 1
        assert "reproduced: no (edits_hash, outcomes, partials differ" in result.output

    def test_a_death_is_repeated_as_a_death(self, rig: Rig):
        from .fakes.hwbench_fake import digest

        weight, _ = arrays(rig)
        case = expand([{"bitflip": {"count": 1}}])[1]
        site = Site("weight", "weight", "float32", weight.shape)
        drawn, _ = perturb.draw(case, 0, [site], perturb.Which(rig.spec().seed, 0))
        options = {"die": "segv", "at": "load", "on": str(digest(edits.apply(weight, drawn)))}
        spec = rig.spec(
            environments=[{"backend": "fake", "options": options}],
            scenarios=[{"bitflip": {"count": 1}}],
        )
        store = engine.start(spec, Options(output=rig.folder / "dead"), Silent(), Stop())
        found = again(store, f"{cell(store, 'bitflip-weights@count=1')}#0:1")
        assert found.record["outcome"] == found.made["outcome"] == "crash"
        assert found.reproduced


def products(weight: Any, x: Any) -> Any:
    return np.asarray([weight @ row for row in x], np.float32)


def tamper(store: Store, column: str) -> None:
    """Change one column of every record, as a damaged or doctored run would have it."""
    for path in (store.folder / "records").glob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for each in rows:
            value = each[column]
            if isinstance(value, str):
                each[column] = value[::-1]
            elif isinstance(value, bytes):
                each[column] = bytes([value[0] ^ 1]) + value[1:]
            elif value is not None:
                each[column] = [np.nextafter(value[0], np.inf), *value[1:]]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


class TestNames:
    def test_round_trip(self):
        for text in ("m/e/bitflip@rate=1e-05#3:2", "m#1/e/c#0"):
            assert str(RecordId.parse(text)) == text

    @pytest.mark.parametrize("text", ["m/e/c", "m/e/c#", "m/e/c#x", "m/e/c#1:y", "m/e/c#-1", ""])
    def test_what_is_no_name_is_refused_in_one_line(self, text: str):
        with pytest.raises(RequestError, match="CELL#PATTERN") as refused:
            RecordId.parse(text)
        assert "\n" not in refused.value.line()

    def test_what_comes_near_is_named(self, shared: Shared):
        there = cell(shared.store, FLIPS)
        with pytest.raises(RequestError, match="count=3"):
            again(shared.store, f"{there.replace('count=3', 'count=4')}#0")
        with pytest.raises(RequestError, match="patterns 0 to 1 and batches 0 to 2"):
            again(shared.store, f"{there}#7")
        result = CliRunner().invoke(cli.app, ["replay", str(shared.store.folder), "nonsense"])
        assert isinstance(result.exception, RequestError)

    def test_json_says_what_the_table_says(self, shared: Shared):
        name = f"{cell(shared.store, FLIPS)}#0:0"
        result = CliRunner().invoke(cli.app, ["replay", str(shared.store.folder), name, "--json"])
        told = json.loads(result.output)
        found = again(shared.store, name)
        assert result.exit_code == 0 and told == json.loads(json.dumps(rerun_json(found)))
        assert told["reproduced"] and told["record"] == name
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(rerun_text(found))
        shown = console.export_text()
        assert "reproduced: yes" in shown and "logits" in shown
        for fault in told["faults"]:
            value = np.frombuffer(bytes.fromhex(fault["before"])[::-1], "<f4")[0]
            assert fault["value_before"] == pytest.approx(float(value))
            (bit,) = fault["bits"]
            assert int(fault["before"], 16) ^ int(fault["after"], 16) == 1 << bit
            assert fault["before"] in shown


class TestReach:
    def test_counts_bytes_not_values(self):
        golden = np.array([[0.0, 1.0], [np.nan, 3.0]], np.float32)
        faulty = np.array([[-0.0, 1.0], [np.nan, 3.0]], np.float32)
        found = reach(SITE, golden, faulty)
        assert (found.changed, found.elements, found.share) == (1, 4, 0.25)
        assert found.not_finite == 0 and found.sqnr_db == np.inf

    def test_ratio_of_powers(self):
        golden = np.array([[3.0, 4.0]], np.float32)
        found = reach(SITE, golden, np.array([[3.0, 4.5]], np.float32))
        assert found.sqnr_db == pytest.approx(10 * np.log10(25 / 0.25))

    def test_what_is_not_finite_is_counted_and_left_out(self):
        golden = np.array([[3.0, 4.0, 5.0]], np.float32)
        found = reach(SITE, golden, np.array([[3.0, np.inf, 6.0]], np.float32))
        assert found.not_finite == 1 and found.changed == 2
        assert found.sqnr_db == pytest.approx(10 * np.log10((9 + 25) / 1))

    def test_an_offset_of_codes_is_no_signal(self):
        golden = np.array([[100, 102, 104]], np.uint8)
        faulty = np.array([[100, 103, 104]], np.uint8)
        wanted = 10 * np.log10(8 / 1)
        assert reach(SITE, golden, faulty).sqnr_db == pytest.approx(wanted)
        shifted = reach(SITE, golden + np.uint8(50), faulty + np.uint8(50))
        assert shifted.sqnr_db == pytest.approx(wanted)

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="golden"):
            reach(SITE, np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float32))


class TestEdits:
    def test_written_inputs_are_the_perturbed_ones(self):
        rng = np.random.default_rng(0)
        before = rng.normal(size=(4, 2, 3)).astype(np.float32)
        after = before.copy()
        after[1, 0, 2], after[3] = np.nan, -0.0
        made = written(before, after, ("other", "x"), 1)
        assert lanes.same(lanes.apply_rows(before, made), after)
        assert set(made.row.tolist()) == {1, 3}

    def test_joined_edits_keep_their_sites(self):
        one = edits.make(("a", "b"), [0, 1], [5, 6], 1)
        two = edits.make(("c", "b"), [0, 1], [7, 8], 2)
        both = edits.join([one, two])
        assert both.at_site("b").element.tolist() == [6, 8]
        assert both.at_site("c").element.tolist() == [7]

    def test_drawn_again_where_rows_are_too_many(self, shared: Shared):
        """Without rows the worker draws what the record's worker drew."""
        store, made = engine.reopened(shared.store.folder, Options())
        place = made.deployments[0]
        (case,) = (each for each in made.cases if each.id == FLIPS)
        work = SpreadWork(str(place.artifact), "", BATCH, made.spec.seed, case, 1, 0)
        (drawn,) = spread._stored(work, FakeBackend(), Artifact.load(place.artifact))
        wanted = {r["edits_hash"] for r in records(store, FLIPS) if r["pattern"] == 1}
        assert {drawn.digest()} == wanted


def records(store: Store, case: str) -> list[dict[str, Any]]:
    rows = store.read("records").to_pylist()
    return [each for each in rows if each["cell"].endswith(f"/{case}")]


def test_numbers_of_bits():
    assert number(0x3F800000, "float32") == 1.0
    assert number(0x3F80, "bfloat16") == 1.0
    assert number(0x3C00, "float16") == 1.0
    assert number(0xE1, "int8") == -31
    assert np.isnan(number(0x7FC00000, "float32"))


def test_equal_to_the_bit():
    nan = float("nan")
    assert same([1.0, nan], [1.0, nan]) and same(None, None) and same(b"a", b"a")
    assert not same([1.0], [1.0, 2.0]) and not same(None, 0) and not same(0.1, 0.1 + 1e-17 * 2)
