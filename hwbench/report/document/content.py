"""What a report consists of, before it is HTML or Markdown: sections of sentences, tables, figures.

Plain text everywhere: names from a model or a spec are escaped by whatever renders, never here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

# good and bad are said in words too: a tone only adds colour.
Tone = Literal["plain", "good", "bad", "muted"]


@dataclass(frozen=True)
class Text:
    """A piece of text with a tone."""

    text: str
    tone: Tone = "plain"


Entry = str | Text


def text_of(entry: Entry) -> str:
    """The words of an entry."""
    return entry.text if isinstance(entry, Text) else entry


def tone_of(entry: Entry) -> Tone:
    """The tone of an entry."""
    return entry.tone if isinstance(entry, Text) else "plain"


@dataclass(frozen=True)
class Table:
    """Rows under named columns; ``folded`` ones open on demand.

    Attributes:
        title: what the rows are.
        source: the file in the run folder that has all of it; empty if it comes from none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    source: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Lines:
    """A list of statements, with a title where one is needed."""

    items: tuple[Entry, ...]
    title: str = ""


@dataclass(frozen=True)
class Listing:
    """Text as it is, such as a file."""

    title: str
    text: str
    folded: bool = True


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        title: what it shows, above it.
        says: the same in words, for those who do not see it.
        draw: makes the SVG element.
    """

    title: str
    says: str
    draw: Callable[[], str]


@dataclass(frozen=True)
class Figure:
    """Panels of one kind, with what they were drawn from.

    Attributes:
        key: name, unique in the report, of letters and dashes.
        reads: how to read it, and what it does not say.
        files: tables or parts in the run folder.
        columns: of these files.
        rows: which of their rows.
    """

    key: str
    title: str
    panels: tuple[Panel, ...]
    reads: str
    files: str
    columns: tuple[str, ...]
    rows: str


Part = Table | Lines | Listing | Figure


@dataclass(frozen=True)
class Section:
    """A heading with what there is to conclude, and the evidence.

    Attributes:
        key: its anchor.
        says: sentences that stand above the evidence; also why there is none.
    """

    key: str
    title: str
    says: tuple[Entry, ...]
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: the run's name.
        subtitle: when and where.
        verdict: in a word or two.
    """

    title: str
    subtitle: str
    verdict: Text
    sections: tuple[Section, ...]

    def figures(self) -> Iterator[tuple[int, Figure]]:
        """Every figure with its number, from 1."""
        found = (p for each in self.sections for p in each.parts if isinstance(p, Figure))
        yield from enumerate(found, start=1)
