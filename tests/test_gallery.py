"""The gallery shows what is there, and nothing of the machine that it was made on."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from hwbench.spec.load import load_mapping

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
FILES = sorted(each for each in GALLERY.rglob("*.*") if each.suffix in (".md", ".svg", ".yaml"))


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)]+)\)", (GALLERY / "README.md").read_text())
    assert len(links) >= 8
    assert all((GALLERY / link).is_file() for link in links)
    shown = {(GALLERY / link).resolve() for link in links} | {GALLERY / "README.md"}
    assert {each.resolve() for each in FILES} == {each.resolve() for each in shown}


def test_it_is_small():
    assert sum(each.stat().st_size for each in FILES) < 1_000_000


@pytest.mark.parametrize("path", FILES, ids=lambda each: f"{each.parent.name}/{each.name}")
def test_no_page_names_a_folder_of_a_machine(path):
    assert not re.search(r"(?<![\w.])/(?:work|tmp|home|root|Users|var)\b", path.read_text())


@pytest.mark.parametrize(
    "path", [each for each in FILES if each.suffix == ".svg"], ids=lambda each: each.stem
)
def test_pictures_stand_alone(path):
    """Every colour is defined within, and nothing is loaded from elsewhere."""
    text = path.read_text()
    root = ET.fromstring(text)
    assert root.tag.endswith("svg") and root.find("{http://www.w3.org/2000/svg}title") is not None
    used, defined = (set(re.findall(form, text)) for form in (r"var\((--[\w-]+)\)", r"(--[\w-]+):"))
    assert used <= defined
    assert not re.search(r"""(?:href|src)=["'](?!#)""", text)


@pytest.mark.parametrize(
    "path", [each for each in FILES if each.suffix == ".yaml"], ids=lambda each: each.parent.name
)
def test_specs_are_specs(path):
    assert load_mapping(yaml.safe_load(path.read_text())).expand_environments()
