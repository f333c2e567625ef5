"""The report of a run: what it says, that nothing in a name takes effect, that nothing is empty."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hwbench import engine, registry
from hwbench.collect import collect
from hwbench.collect.schema import TABLES
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.report import names, pages
from hwbench.report.document import accuracy, document, faults, read, untested
from hwbench.report.html import html
from hwbench.report.markdown import escaped, markdown
from hwbench.report.plots.canvas import drawn
from hwbench.report.plots.curves import parts
from hwbench.store import Store
from tests.conftest import FAKES, Rig, write_data, write_model

SCRIPT = "<script>alert(1)</script>"
HOSTILE = '<img src=x onerror="alert(2)"> [a](javascript:alert(3)) `$x$` | *b* &amp; ' + "long" * 40
LABEL = "a'b\"<svg onload=alert(4)>"


def finished(spec, folder, cache) -> Store:
    return engine.start(spec, engine.Options(output=folder, cache=cache), engine.Silent(), Stop())


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    """A run in which every name that the user chooses is an attempt to break out."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FAKES))
        patch.setenv("PYTHONPATH", str(FAKES), prepend=os.pathsep)
        patch.setenv("HWBENCH_CACHE", str(folder / "cache"))
        registry._group.cache_clear()
        rig = Rig(folder, folder / "cache")
        write_model(rig.model)
        write_data(rig.data)
        spec = rig.spec(
            name=SCRIPT,
            model=None,
            models={HOSTILE: {"onnx": str(rig.model)}},
            environments=[{"backend": "fake", "threads": [1, 2, 3]}],
            scenarios=[
                {"noise": {"snr_db": [10, 0]}, "patterns": 1, "name": SCRIPT},
                {"bitflip": {"rate": [0.005, 0.05]}, "patterns": 2, "name": LABEL},
                {"singlebit": {}, "patterns": 60},
            ],
            latency={"processes": 2, "min_duration_s": 0.01, "warmup_s": 0.0, "min_count": 5},
            soak={"duration_s": 0.4, "window_s": 0.02, "warmup_s": 0.0},
        )
        yield finished(spec, folder / "run", rig.cache)
    registry._group.cache_clear()


@pytest.fixture
def store(finished_once, tmp_path) -> Store:
    """A copy of the run, to be written to."""
    shutil.copytree(finished_once.folder, tmp_path / "run")
    return Store.open(tmp_path / "run")


@pytest.fixture(scope="module")
def material(finished_once):
    return read(finished_once, collect(finished_once))


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_data(self, data):
        self.text += "" if self._style else data


def test_models_stand_side_by_side_where_there_are_several(rig, tmp_path, material):
    assert "models" not in {each.key for each in document(material).sections}
    write_model(tmp_path / "other.onnx", seed=9)
    models = {"one": {"onnx": str(rig.model)}, "two": {"onnx": str(tmp_path / "other.onnx")}}
    spec = rig.spec(model=None, models=models)
    run = finished(spec, tmp_path / "several", rig.cache)
    made = document(read(run, collect(run)))
    (section,) = [each for each in made.sections if each.key == "models"]
    under, costs = section.parts
    assert len(under.rows) == 2 * 3  # two severities of noise, one of flips
    assert [row[0] for row in costs.rows] == ["one/fake-cpu-fp32-t1", "two/fake-cpu-fp32-t1"]
    assert all("one" in str(each) for each in section.says[:1])


def test_names_show_as_text_and_nothing_else(material):
    page = Page(html(document(material)))
    assert page.text.count(SCRIPT) > 3
    assert names.printable(HOSTILE) in page.text
    assert LABEL in page.text
    assert not {"script", "img", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def test_a_name_in_a_drawing_is_text_too():
    drawing = drawn(lambda axes: axes.set_title(f"{SCRIPT} $x^2$ \u4e2d"))
    page = Page(drawing)
    assert f"{SCRIPT} $x^2$ \u4e2d" in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_ids_are_unique_and_links_lead_somewhere(material):
    page = html(document(material))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert {one or other for one, other in referred} <= set(ids)


def test_the_page_carries_no_script_and_no_style_of_a_drawing(material):
    page = html(document(material))
    assert page.count("<style>") == 1
    assert "<metadata>" not in page
    assert "default-src 'none'" in page


def test_markdown_renders_names_as_text(material):
    tokens = (
        MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown(document(material)))
    )
    inline = [each for token in tokens for each in token.children or ()]
    assert any(each.content.count(SCRIPT) for each in inline if each.type == "text")
    assert not [each for each in inline if each.type in ("html_inline", "link_open", "code_inline")]
    blocks = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert all(re.fullmatch(r"(<details><summary>[^<]*</summary>|</details>)", b) for b in blocks)


@pytest.mark.parametrize("text", [HOSTILE, SCRIPT, "a|b\nc", "1. x", "# x", "~~x~~", "![i](u)"])
def test_escaped_markdown_gives_the_text_back(text):
    assert shown(escaped(text)) == names.printable(text)


MARKS = st.text("aB1_*`[]()<>|~$#+-.!:/\\&;@{}= \n\"'", max_size=24)


@given(MARKS)
def test_no_text_is_markdown(text):
    expected = names.printable(text)
    assert shown(escaped(text)) == expected
    assert shown(f"| a | b |\n| --- | --- |\n| {escaped(text)} | c |") == f"ab{expected}c"


def shown(source: str) -> str:
    """The text of rendered Markdown without the space between its elements."""
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Page(renderer.render(source)).text.replace("\n", "")


def test_two_reports_of_a_run_are_equal(material):
    assert html(document(material)) == html(document(material))


def test_every_figure_says_how_to_have_it_again(material):
    made = document(material)
    figures = [figure for _, figure in made.figures()]
    assert {"severity-curves", "vulnerability", "latency-medians", "soak"} <= {
        each.key for each in figures
    }
    table = made.sections[-1].parts[0]
    assert [row[1] for row in table.rows] == [each.title for each in figures]
    for each in figures:
        part = each.files.partition("/")[2].removesuffix(".csv")
        if part in TABLES:
            assert set(each.columns) <= {column.name for column in TABLES[part]}


def test_sections_without_data_say_so_in_a_line(material):
    tables = {name: frame.iloc[:0] for name, frame in material.tables.items()}
    empty = replace(material, tables=tables, calls=(), soaks=(), probes=())
    made = document(empty)
    assert not list(made.figures())
    for section in made.sections:
        assert section.says, section.key
    assert "<svg" not in html(made)
    assert markdown(made)


def test_differences_are_told_in_words_from_the_interval():
    row = {"drift_low": -0.2, "drift_high": -0.1}
    assert accuracy.reads(row).text.startswith("lower")
    assert accuracy.reads({"drift_low": 0.1, "drift_high": 0.2}).text.startswith("higher")
    assert accuracy.reads({"drift_low": -0.1, "drift_high": 0.2}).text == accuracy.NOT_SHOWN
    assert accuracy.reads({"drift_low": None, "drift_high": float("nan")}).text == "no interval"


def test_nothing_uncorrected_is_called_significant(material):
    """Accuracy has intervals that are each on their own: their number is told instead."""
    section = accuracy.section(material)
    said = " ".join(words_of(section))
    assert "significant" not in said
    assert "without a correction" in said


def words_of(section):
    from hwbench.report.document.content import Table, text_of

    yield from (text_of(each) for each in section.says)
    for part in section.parts:
        if isinstance(part, Table):
            yield from (text_of(each) for row in part.rows for each in row)


def test_a_verdict_of_the_gates_stands_first(store):
    names = {"model": "m", "environment": "e", "scenario": "s", "severity_name": "rate"}
    failing = {"gate": SCRIPT, "cell": "c", "verdict": "fail", "value": 0.5, "low": 0.4,
               "high": 0.6, "limit": 0.1, "note": "too much"}  # fmt: skip
    undecided = {"gate": "p99", "cell": {**names, "severity": 0.5}, "verdict": "inconclusive",
                 "limit": 20.0, "bound": "max", "versus": "baseline", "untrusted": "other load",
                 "bottleneck": "patterns", "follow_up": "400 more"}  # fmt: skip
    missed = [{"what": "heat", "why": "no condition"}]
    content = {"verdict": "fail", "gates": [undecided, failing], "not_tested": missed}
    store.write_json("verdict.json", content)
    made = document(read(store, collect(store)))
    assert (made.verdict.text, made.verdict.tone) == ("fail", "bad")
    assert made.sections[0].key == "verdict"
    page = html(made)
    assert "A gate fails." in page
    assert page.index("too much") < page.index("not to be trusted: other load")
    for expected in ("m/e, s, rate 0.5", "max 20 against baseline", "patterns: 400 more", "heat"):
        assert expected in page
    store.write_json("verdict.json", {**content, "rows": {"records": store.count("records")}})
    assert document(read(store, collect(store))).verdict.text == "fail"
    store.write_json("verdict.json", {**content, "rows": {"records": 1}})
    made = document(read(store, collect(store)))
    assert made.verdict.text == "verdict out of date"
    assert "The run has grown since this verdict" in html(made)
    store.write_json("verdict.json", [1])
    with pytest.raises(RequestError, match="no verdict"):
        read(store, {})


def test_untested_names_what_the_sweep_left_out(material):
    said = " ".join(
        each if isinstance(each, str) else each.text
        for each in untested.section(material).parts[-1].items
    )
    unused = said.partition(".")[0]
    assert "stuckat" in unused
    assert "singlebit" not in unused
    assert "lower bound" in said
    assert "hit inputs and weights; they did not hit activations" in said
    assert "rate 0.005 to 0.05" in said


def test_cells_without_numbers_are_grouped_by_reason(material):
    cells = material.tables["cells"].copy()
    cells.loc[cells.index[:3], "status"] = "unsupported"
    cells.loc[cells.index[:3], "note"] = "no kernels"
    table = untested.section(replace(material, tables={**material.tables, "cells": cells})).parts[0]
    assert [(row[1], row[2]) for row in table.rows] == [("3", "no kernels")]


def test_layers_of_one_ending_keep_what_tells_them_apart():
    assert faults._names([("s1", "conv1/Bias"), ("s2", "conv2/Bias")]) == ["conv1", "conv2"]
    assert faults._names([("s1", "conv1"), ("s2", "conv1")]) == ["s1", "s2"]


def test_bit_fields_stand_from_high_to_low():
    names = ["bit 0", "mantissa", "bit 7", "sign", "exponent", "word"]
    assert sorted(names, key=faults._from_high_bits) == [
        "sign", "exponent", "mantissa", "bit 7", "bit 0", "word",
    ]  # fmt: skip


def test_many_lines_are_shared_out_evenly():
    assert [(len(each), more) for each, more in parts(range(13), 6)] == [
        (4, " (1 of 3)"), (4, " (2 of 3)"), (5, " (3 of 3)"),
    ]  # fmt: skip
    assert list(parts([1], 6)) == [([1], "")]
    assert list(parts([], 6)) == []


def test_names_are_one_printable_line():
    assert names.printable("a\n\tb\x00\u202ec") == "a b\ufffd\ufffdc"
    assert names.shortened("abcdefghij", 5) == "ab…ij"


def test_both_pages_are_files_of_the_run_and_the_summary_gets_one(store, monkeypatch, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    page, short = pages.write(store, collect(store))
    assert (page.name, short.name) == ("report.html", "report.md")
    assert summary.read_text() == "before\n" + short.read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "absent/summary.md"))
    with pytest.raises(RequestError, match="cannot be written"):
        pages.write(store, collect(store))


def test_the_summary_keeps_environments_with_cells_that_cannot_be_had(rig):
    """One cell without numbers must not take the others of its environment along."""
    from rich.console import Console

    from hwbench.report.terminal import summary

    store = finished(rig.spec(), rig.folder / "run", rig.cache)
    tables = collect(store)
    drift = tables["drift"].copy()
    drift.loc[drift.index[-1], ["accuracy_interval", "status"]] = [pd.NA, "unsupported"]
    run, plan = store.read_json("run.json"), store.read_json("plan.json")
    console = Console(width=160, file=io.StringIO())
    console.print(summary({**tables, "drift": drift}, run, plan["baseline"], []))
    assert "unsupported" in console.file.getvalue()


def test_a_run_without_labels_and_latency_compares_decisions(rig):
    spec = rig.spec(data={"npz": str(rig.data), "labels": None, "batch": 8}, scenarios=["clean"])
    store = finished(spec, rig.folder / "run", rig.cache)
    page = Page(html(document(read(store, collect(store)))))
    assert "no labels" in page.text
    assert "Latency was not measured." in page.text
    assert json.dumps(None) not in page.text


@pytest.mark.parametrize("module", ["plots.heat", "document", "html", "pages"])
def test_nothing_is_imported_before_it_draws(module):
    """Commands start quickly, and each module can be the first to be imported."""
    heavy = "{'matplotlib', 'jinja2'} & set(sys.modules)"
    code = f"import sys, hwbench.report.{module}; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
