"""A matplotlib figure to an inline ``<svg>`` that follows the page's colours.

Text stays text: it can be searched, and what is in a name is escaped by the XML writer. Colours are
drawn as placeholders and become CSS variables, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_NAMES = ("ink", "muted", "grid", "bad", "good", "sheet", *(f"series-{n}" for n in range(6)))
_PLACEHOLDERS = {name: f"#0102{number:02x}" for number, name in enumerate(_NAMES)}
_COLOURS = {colour: f"var(--{name})" for name, colour in _PLACEHOLDERS.items()}

INK, MUTED, GRID, BAD, GOOD, SHEET = (_PLACEHOLDERS[name] for name in _NAMES[:6])
SERIES = tuple(_PLACEHOLDERS[name] for name in _NAMES[6:])
MARKERS = ("o", "s", "^", "D", "v", "P")  # a series is told by its shape too
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))

WIDTH = 4.2  # inches: the SVG scales, text of 9 points stays legible on a phone

_SETTINGS: Any = {  # the type of its keys differs between versions of matplotlib
    "svg.fonttype": "none",
    "svg.hashsalt": "hwbench",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout everywhere
    "font.size": 9,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
}


def drawn(draw: Callable[[Axes], None], *, height: float = 2.8, width: float = WIDTH) -> str:
    """An SVG element of what ``draw`` puts on the axes.

    Args:
        draw: is given the axes of a new figure.
        height: inches.
        width: inches.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS), _other_scripts():
        figure = Figure(figsize=(width, height))
        draw(figure.subplots())
        return _inline(_saved(figure))


@contextmanager
def _other_scripts() -> Iterator[None]:
    """Glyphs that the layout's font lacks are the browser's to find: the text is kept as text."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font", category=UserWarning
        )
        yield


def _saved(figure: Figure) -> str:
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    return sink.getvalue().decode()


def _inline(drawing: str) -> str:
    """Only the drawing: no metadata, no style sheet (it would hold for the page), scalable."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(drawing)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    _drop_idle_ids(root)
    for each in root.iter():
        _recolour(each)
    root.set("aria-hidden", "true")  # its words stand beside it
    return ET.tostring(root, encoding="unicode")


_REFERENCE = re.compile(r"#([\w-]+)")


def _drop_idle_ids(root: ET.Element) -> None:
    """Keep those ids only that something refers to."""
    wanted: set[str] = set()
    for each in root.iter():
        for name, value in each.attrib.items():
            if name == f"{{{_XLINK}}}href" or "url(#" in value:
                wanted.update(_REFERENCE.findall(value))
    for each in root.iter():
        if each.get("id") not in wanted:
            each.attrib.pop("id", None)


_PAINT = re.compile(r"(#0102[0-9a-f]{2})")


def _recolour(element: ET.Element) -> None:
    style = element.get("style")
    if style:
        painted = _PAINT.sub(lambda found: _COLOURS.get(found[1], found[1]), style)
        element.set("style", painted.replace("'DejaVu Sans'", "system-ui, sans-serif"))


def unique_ids(drawing: str, prefix: str) -> str:
    """The drawing with ids that no other drawing of the page has.

    Args:
        drawing: an element that ``drawn`` made.
        prefix: of letters, digits and dashes.
    """
    root = ET.fromstring(drawing)
    for each in root.iter():
        for name, value in list(each.attrib.items()):
            if name == "id":
                each.set(name, f"{prefix}-{value}")
            elif name == f"{{{_XLINK}}}href" or "url(#" in value:
                each.set(name, _REFERENCE.sub(rf"#{prefix}-\1", value))
    return ET.tostring(root, encoding="unicode")
