"""The gallery: small sweeps, their reports as Markdown, and their figures as pictures.

    python docs/gallery/make.py [--assets FOLDER] [--only NAME ...] [--pages FOLDER]

Without assets everything is made of the model that ships with hwbench. With a folder that has
MLPerf Tiny's ResNet-8 and CIFAR-10 images (``models/``, ``data/``), two of the runs are made of
those. Numbers and drawings are kept, never a model or an image.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from hwbench import engine
from hwbench.collect import write
from hwbench.execute import Stop
from hwbench.report.document import document, read
from hwbench.report.document.content import Document, Figure
from hwbench.report.html import html
from hwbench.report.markdown import markdown
from hwbench.report.plots.canvas import unique_ids
from hwbench.spec.load import load_mapping

HERE = Path(__file__).parent
ASSETS = HERE.parents[1] / "shared" / "assets"
Content = dict[str, Any]

SHIPPED: Content = {"model": {"builtin": "digits-cnn"}}
SCALE = 1.5  # pixels per point
RESNET8, IMAGES = "models/resnet8_cifar10_mlperftiny.onnx", "data/cifar10_test_lossless_1017.npz"


@dataclass(frozen=True)
class Exhibit:
    """One run of the gallery.

    Attributes:
        name: of its folder.
        title: what it is about.
        says: what to look at.
        sweep: its spec, without model and data.
        figures: keys of the figures that are kept.
        shipped: made of the model that ships, also where there are assets.
        samples: of the other data.
    """

    name: str
    title: str
    says: str
    sweep: Content
    figures: tuple[str, ...]
    shipped: bool = False
    samples: int = 200


BOTH = [{"backend": "onnxruntime", "precision": ["fp32", "int8"]}]
EXHIBITS = (
    Exhibit(
        "precisions",
        "fp32 against int8 on three runtimes, with faults",
        "Bit flips in the weights as they are stored, at rising rates. A flipped exponent bit makes"
        " a float weight huge; an int8 weight cannot become larger than its scale allows.",
        {
            "environments": [
                {"backend": ["onnxruntime", "openvino"], "precision": ["fp32", "int8"]},
                {"backend": "torch", "precision": ["fp32", "bf16"]},
            ],
            "scenarios": [{"bitflip": {"rate": [1e-6, 1e-5, 1e-4, 1e-3]}, "patterns": 50}],
            "latency": False,
        },
        ("severity",),
        shipped=True,
    ),
    Exhibit(
        "layers",
        "Which layer, which bit?",
        "Single flips drawn until P(sdc) is known to +-1 point at 95 %, in fp32 and int8: where a"
        " flip changes a decision, by layer and bit field.",
        {
            "environments": BOTH,
            "scenarios": [{"singlebit": {}, "campaign": {"margin": 0.01, "confidence": 0.95}}],
            "latency": False,
        },
        ("vulnerability",),
    ),
    Exhibit(
        "corruptions",
        "Corrupted images, five levels each",
        "ImageNet-C's corruptions at their five levels: how gently accuracy falls, and whether int8"
        " falls with fp32.",
        {
            "environments": BOTH,
            "scenarios": [
                {
                    "corruption": {
                        "kind": ["gaussian_noise", "defocus_blur", "contrast", "pixelate"],
                        "level": [1, 2, 3, 4, 5],
                    }
                }
            ],
            "latency": False,
        },
        ("severity",),
        samples=1017,
    ),
    Exhibit(
        "limits",
        "How little memory is enough?",
        "Limits of a control group of the worker's own: the smallest at which each environment"
        " loads and runs, by bisection with a fresh process each, and what dies below it.",
        {
            "environments": BOTH,
            "scenarios": [
                {"memory": {"search": True}},
                {"memory": {"limit": ["64MiB", "32MiB"]}},
            ],
            "latency": False,
        },
        ("memory",),
        shipped=True,
    ),
)


def main() -> None:
    """Make what is asked for, then the page over all."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--assets", type=Path, default=ASSETS)
    asked.add_argument("--only", nargs="*", default=[each.name for each in EXHIBITS])
    asked.add_argument("--pages", type=Path, help="keep NAME.html of every run there, too")
    given = asked.parse_args()
    for each in EXHIBITS:
        if each.name in given.only:
            make(each, given.assets.resolve(), given.pages)
    (HERE / "README.md").write_text(page(EXHIBITS))


def make(exhibit: Exhibit, assets: Path, pages: Path | None) -> None:
    """Run one sweep and keep its report and figures in its folder."""
    with tempfile.TemporaryDirectory() as scratch:
        whole = {"name": exhibit.name, **subject(exhibit, assets), **exhibit.sweep}
        options = engine.Options(output=Path(scratch) / "run", workers=1)
        store = engine.start(load_mapping(whole), options, engine.Silent(), Stop())
        hidden = (str(assets / "models"), str(assets / "data"), scratch)
        made = document(read(store, write(store)))
        keep(exhibit, made, hidden)
        spec = yaml.safe_dump(whole, sort_keys=False)
        (HERE / exhibit.name / "spec.yaml").write_text(anonymous(spec, hidden))
    if pages:
        pages.mkdir(parents=True, exist_ok=True)
        (pages / f"{exhibit.name}.html").write_text(anonymous(html(made), hidden))


def subject(exhibit: Exhibit, assets: Path) -> Content:
    """Model and data of a run."""
    if exhibit.shipped or not (assets / RESNET8).exists():
        return SHIPPED
    data = {
        "npz": str(assets / IMAGES),
        "labels": "y",
        "calibration": str(assets / "data/cifar10_train_calib_500.npz"),
        "preprocess": {"layout": "NHWC->NCHW"},
        "limit": exhibit.samples,
    }
    return {"model": {"onnx": str(assets / RESNET8)}, "data": data}


def keep(exhibit: Exhibit, made: Document, hidden: Iterable[str]) -> None:
    """The report without the folders of this machine, and the chosen figures."""
    folder = HERE / exhibit.name
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    (folder / "report.md").write_text(anonymous(markdown(made), hidden))
    for figure in chosen(made, exhibit.figures):
        for number, panel in enumerate(figure.panels, 1):
            name = f"{figure.key}-{number}"
            drawing = standalone(panel.draw(), name, f"{figure.title}: {panel.title}")
            (folder / f"{name}.svg").write_text(drawing + "\n")


def chosen(made: Document, keys: Iterable[str]) -> list[Figure]:
    """The figures whose keys begin with one of these."""
    return [figure for _, figure in made.figures() if figure.key.startswith(tuple(keys))]


def anonymous(text: str, hidden: Iterable[str]) -> str:
    """Text without the folders that a path begins with."""
    for each in hidden:
        text = text.replace(f"{each}/", "").replace(each, "")
    return text


def standalone(drawing: str, name: str, title: str) -> str:
    """An SVG file: the inline drawing with the report's colours, a background and its title."""
    sheet = files("hwbench.report").joinpath("templates/report.css").read_text()
    light = re.search(r":root \{[^}]*\}", sheet)
    assert light, "the report's colours stand in :root"
    style = f"<style>{light[0]} svg {{ background: var(--paper); }}</style>"
    plain = unique_ids(drawing, name).replace(' aria-hidden="true"', ' role="img"')
    head, rest = plain.split(">", 1)
    return f"{sized(head)}><title>{escape(title)}</title>{style}{rest}"


def sized(head: str) -> str:
    """The root's tag with a size in pixels: without one a viewer takes all the room there is."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    assert found, "drawings have a view box"
    width, height = (round(SCALE * float(each)) for each in found.groups())
    return f'{head} width="{width}" height="{height}"'


def page(exhibits: Iterable[Exhibit]) -> str:
    """The gallery's page, over what lies in its folders."""
    lines = [
        "# Gallery",
        "",
        "Reports of small sweeps, made by `make gallery` (`docs/gallery/make.py`). Every run has",
        "its spec and its whole report as Markdown; the `report.html` that a run writes shows the",
        "figures in place. Layers and corruptions are of MLPerf Tiny's ResNet-8 on CIFAR-10,",
        "neither of which ships; the rest, and all where those are not at hand, is of the built-in",
        "model. The machine was shared with others: no latency is told.",
        "",
    ]
    for each in exhibits:
        pictures = sorted((HERE / each.name).glob("*.svg"))
        lines += [f"## {each.title}", "", each.says, ""]
        lines += [f"[spec]({each.name}/spec.yaml), [report]({each.name}/report.md)", ""]
        lines += [*pairs([(picture(each.name, p), title_of(p)) for p in pictures]), ""]
    return "\n".join(lines[:-1]) + "\n"


def picture(folder: str, path: Path) -> str:
    """A picture as Markdown shows it."""
    return f"![{title_of(path)}]({folder}/{path.name})"


def title_of(path: Path) -> str:
    """The title that an SVG file says it has, as HTML."""
    found = re.search("<title>(.*?)</title>", path.read_text())
    return found[1] if found else path.stem


def pairs(pictures: list[tuple[str, str]]) -> list[str]:
    """Two pictures side by side, their titles above them; a single one alone."""
    if len(pictures) == 1:
        return [f"{pictures[0][1]}", "", pictures[0][0]]
    lines = []
    for start in range(0, len(pictures), 2):
        row = [*pictures[start : start + 2], ("", "")][:2]
        lines += ["| " + " | ".join(title for _, title in row) + " |", "|---|---|"]
        lines += ["| " + " | ".join(shown for shown, _ in row) + " |", ""]
    return lines[:-1]


if __name__ == "__main__":
    main()
