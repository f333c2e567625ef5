"""A report as Markdown, for pull requests and step summaries: tables without figures."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

from hwbench.report.document import content
from hwbench.report.document.content import Entry
from hwbench.report.names import printable

ROWS = 40  # of a table: a step summary holds 1 MiB
# What means something within a line: only that is escaped, so that the source can be read too.
# An underscore within a word is one; addresses would become links on GitHub.
_MARKS = re.compile(
    r"[\\`*\[|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=[A-Za-z]):(?=//)|(?<=www)\.|@", re.I
)
# What begins a list, a rule or a heading; numbers with a sign do not.
_START = re.compile(r"^(?:[-+](?=[\s-]|$)|[#=]|\d+(?=[.)](?:\s|$)))")
_TONES = {"good": "✓ ", "bad": "✗ ", "muted": "", "plain": ""}


def markdown(document: content.Document) -> str:
    """The page.

    Args:
        document: names in it may hold anything; neither Markdown nor HTML of theirs takes effect.
    """
    lines = [f"# {escaped(document.title)}: {escaped(document.verdict.text)}", ""]
    lines += [escaped(document.subtitle), ""]
    numbers = {figure.key: number for number, figure in document.figures()}
    for section in document.sections:
        lines += _section(section, numbers)
    return "\n".join(lines).rstrip() + "\n"


def escaped(value: str) -> str:
    """Text that Markdown and HTML show as it is, also where a line begins with it."""
    marked = _MARKS.sub(r"\\\g<0>", html.escape(printable(value), quote=False))
    return _START.sub(_unlisted, marked)


def _unlisted(found: re.Match[str]) -> str:
    return found[0] + "\\" if found[0].isdigit() else "\\" + found[0]


def _entry(entry: Entry) -> str:
    return _TONES[content.tone_of(entry)] + escaped(content.text_of(entry))


def _section(section: content.Section, numbers: dict[str, int]) -> Iterator[str]:
    yield from (f"## {escaped(section.title)}", "")
    for entry in section.says:
        yield from (_entry(entry), "")
    for part in section.parts:
        yield from _part(part, numbers)


def _part(part: content.Part, numbers: dict[str, int]) -> Iterator[str]:
    match part:
        case content.Table():
            yield from _table(part)
        case content.Lines():
            yield from ([f"**{escaped(part.title)}**", ""] if part.title else [])
            yield from (*(f"- {_entry(each)}" for each in part.items), "")
        case content.Listing():
            yield from (f"{escaped(part.title)}: see the run folder.", "")
        case content.Figure():
            number = numbers[part.key]
            yield from (f"Figure {number}, {escaped(part.title)}: in report.html.", "")


def _table(table: content.Table) -> Iterator[str]:
    more = len(table.rows) - ROWS
    if table.folded:
        yield from (f"<details><summary>{html.escape(table.title)}</summary>", "")
    else:
        yield from (f"**{escaped(table.title)}**", "")
    yield from _lines(table.columns, ([_entry(each) for each in row] for row in table.rows[:ROWS]))
    yield ""
    if more > 0:
        where = f" in {table.source}" if table.source else ""
        yield from (f"and {more} more{escaped(where)}", "")
    if table.folded:
        yield from ("</details>", "")


def grid(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """The lines of a table of any texts."""
    return _lines(columns, ([escaped(each) for each in row] for row in rows))


def _lines(columns: Iterable[str], rows: Iterable[list[str]]) -> Iterator[str]:
    heads = [escaped(each) for each in columns]
    yield _line(heads)
    yield _line(["---"] * len(heads))
    yield from map(_line, rows)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
