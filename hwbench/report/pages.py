"""The files a run is read by: report.html and report.md in its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from hwbench.durable import write_durably
from hwbench.errors import RequestError
from hwbench.report.document import document, read
from hwbench.report.html import html
from hwbench.report.markdown import markdown
from hwbench.store import Store

HTML, MARKDOWN = "report.html", "report.md"
_SUMMARY = "GITHUB_STEP_SUMMARY"  # where GitHub's runner wants Markdown for the job's page


def write(store: Store, tables: Mapping[str, pd.DataFrame]) -> tuple[Path, Path]:
    """Write both pages; where GitHub's runner asks for a summary, append the Markdown to it.

    Args:
        store: the run.
        tables: collected from it.

    Raises:
        RequestError: a file of the run is damaged, or one cannot be written.
    """
    made = document(read(store, tables))
    pages = (store.folder / HTML, html(made)), (store.folder / MARKDOWN, markdown(made))
    for path, page in pages:
        write_durably(path, page.encode())
    _summarise(pages[1][1])
    return pages[0][0], pages[1][0]


def _summarise(page: str) -> None:
    path = os.environ.get(_SUMMARY)
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        hint = f"unset {_SUMMARY}, or let it name a file that can be written."
        why = error.strerror or str(error)
        raise RequestError(f"cannot be written ({why}).", where=path, hint=hint) from error
