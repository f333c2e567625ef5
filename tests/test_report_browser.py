"""The report in a real browser: nothing is fetched, nothing complains, nothing is too wide."""

from __future__ import annotations

import dataclasses

import pytest

from hwbench.collect import collect
from hwbench.report.document import document, read
from hwbench.report.html import html
from tests.chromium import FOUND, OVERFLOWING, browser
from tests.test_report import HOSTILE, finished_once  # noqa: F401

pytestmark = pytest.mark.skipif(not FOUND, reason="no Chromium is installed")

SIZES = [(390, "screen"), (800, "screen"), (1280, "screen"), (718, "print")]  # 718 px: A4


@pytest.fixture(scope="module")
def page(finished_once, tmp_path_factory):  # noqa: F811
    made = document(read(finished_once, collect(finished_once)))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(dataclasses.replace(made, title="unbroken" * 40 + HOSTILE)))
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.mark.parametrize(("width", "media"), SIZES)
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_page(tab, page, width, media, dark):
    tab.size(width, dark=dark, phone=width < 500, media=media)
    tab.open(page)
    assert tab.evaluate("document.documentElement.clientWidth") == pytest.approx(width, abs=20)
    assert tab.evaluate("document.querySelectorAll('svg').length") > 5
    assert tab.evaluate(OVERFLOWING) == []


def test_the_page_asks_for_nothing_and_complains_of_nothing(tab, page):
    tab.events.clear()
    tab.size(1280)
    tab.open(page)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    tab.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert tab.requests() == [page.resolve().as_uri()]
    assert tab.complaints() == []


def test_the_check_sees_what_it_is_for(tab, tmp_path):
    """A page that breaks each rule: else the tests above could not fail."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><div style='width: 3000px'>wide</div><img src='http://localhost:9/x.png'>"
        "<script>console.error('complaint')</script>"
    )
    tab.events.clear()
    tab.size(390, phone=False)
    tab.open(bad)
    assert tab.evaluate(OVERFLOWING)
    assert "http://localhost:9/x.png" in tab.requests()
    assert any("complaint" in each for each in tab.complaints())


def test_colours_follow_the_system(tab, page):
    seen = set()
    for dark in (False, True):
        tab.size(1280, dark=dark)
        tab.open(page)
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = tab.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        assert paper != ink
        seen.add((paper, ink))
    assert len(seen) == 2


def test_print_unfolds_everything(tab, page):
    tab.size(718, media="print")
    tab.open(page)
    hidden = """[...document.querySelectorAll('details:not(.words) > *:not(summary)')]
                .filter(each => each.getBoundingClientRect().height === 0).length"""
    assert tab.evaluate(hidden) == 0
