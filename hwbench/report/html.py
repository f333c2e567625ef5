"""A report as one HTML file: no script, nothing loaded from anywhere, everything escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwbench.report.document import content

if TYPE_CHECKING:
    from markupsafe import Markup


def html(document: content.Document) -> str:
    """The page.

    Args:
        document: text from models and specs included as it is; escaping happens here.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    templates = Environment(
        loader=PackageLoader("hwbench.report", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"drawing": _drawing, "kind": _kind}
    templates.filters |= {"text": content.text_of, "tone": content.tone_of}
    numbers = {figure.key: number for number, figure in document.figures()}
    made: str = templates.get_template("report.html").render(
        document=document, numbers=numbers, style=_style()
    )
    return made


def _kind(part: Any) -> str:
    return type(part).__name__


def _style() -> Markup:
    """The style sheet: our own file, which no name ever enters."""
    from importlib.resources import files

    from markupsafe import Markup

    return Markup(files("hwbench.report").joinpath("templates/report.css").read_text())


def _drawing(panel: content.Panel, figure: str, number: int) -> Markup:
    """A panel's SVG: text in it is escaped by the XML writer that made it."""
    from markupsafe import Markup

    from hwbench.report.plots.canvas import unique_ids

    return Markup(unique_ids(panel.draw(), f"{figure}-{number}"))
