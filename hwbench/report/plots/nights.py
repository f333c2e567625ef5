"""A plot per series of nights: the values, the medians between change points, tonight."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.errors import RequestError
from hwbench.history import Finding, History, Series


def write(found: History, folder: Path) -> int:
    """One SVG per series that varies, named by it; how many there are.

    Raises:
        RequestError: the folder cannot be written.
    """
    from matplotlib.figure import Figure

    drawn = [(s, f) for s, f in found.judged if len(s.values) > 1 and np.ptp(s.values) > 0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for series, finding in drawn:
            figure = Figure(figsize=(8, 3), layout="constrained")
            _draw(figure.add_subplot(), series, finding)
            figure.savefig(folder / file_name(series))
    except OSError as error:
        what = f"cannot be written ({error.strerror})."
        raise RequestError(what, where=str(folder), hint="give another --plots.") from error
    return len(drawn)


def file_name(series: Series) -> str:
    """Readable, and distinct also where what is not is the same."""
    text = f"{series.key} {series.key.machine}"
    digest = hashlib.sha256(repr(series.key).encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', text)[:120]}-{digest}.svg"


def _draw(axes: Any, series: Series, found: Finding) -> None:
    when = [each.started for each in series.nights]
    axes.plot(when, series.values, "o", markersize=3, color="0.4")
    if series.normalised:
        axes.plot(when, series.raw, "x", markersize=3, color="0.8", label="as measured")
        axes.legend(loc="upper left", frameon=False)
    cuts = [0, *(each.index for each in found.changes), len(when)]
    for begin, end in pairwise(cuts):
        middle = float(np.median(series.values[begin:end]))
        axes.hlines(middle, when[begin], when[end - 1], color="C0")
    for each in found.changes:
        axes.axvline(when[each.index], color="C1", linewidth=0.8)
    axes.plot(when[-1:], series.values[-1:], "o", color="C3" if found.alarm else "C0")
    # Names come from models and specs; a dollar sign would begin a formula.
    axes.set_title(str(series.key).replace("$", r"\$"), fontsize=9, loc="left")
    axes.set_ylabel(series.key.metric)
    axes.tick_params(labelsize=8)
