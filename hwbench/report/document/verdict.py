"""Verdict and trust: what the gates say, what stands out, and whether it can be believed."""

from __future__ import annotations

import pandas as pd

from hwbench.report.document import gates, words
from hwbench.report.document.attention import attention
from hwbench.report.document.content import Entry, Lines, Section, Text
from hwbench.report.document.material import Material

_MOST = 12


def headline(material: Material) -> Text:
    """The verdict in a word or two."""
    if material.verdict is None:
        return Text("no gates checked", "muted")
    if material.outdated:
        return Text("verdict out of date", "muted")
    found = str(material.verdict["verdict"])
    return Text(found, gates.TONES.get(found, "muted"))


def section(material: Material) -> Section:
    """Gates, findings in a sentence each, and what speaks against believing them."""
    says: list[Entry] = []
    parts = []
    if material.verdict is None:
        says.append(
            "No gates were checked, so this report passes and fails nothing; "
            '"hwbench qualify" checks them.'
        )
    else:
        says.append(gates.said(material.verdict))
        if material.outdated:
            warning = 'The run has grown since this verdict: check again with "hwbench qualify".'
            says.append(Text(warning, "bad"))
        parts.append(gates.table(material.verdict))
    if not material.plan.get("complete", True):
        says.append(Text("The run is not complete: what follows is preliminary.", "bad"))
    notes = attention(_possible(material), dict(material.run))
    shown: list[Entry] = [Text(each, "bad") for each in notes[:_MOST]]
    if len(notes) > _MOST:
        shown.append(f"and {len(notes) - _MOST} more; see What was not tested.")
    return Section(
        "verdict",
        "Verdict and trust",
        tuple(says),
        (
            *parts,
            Lines(tuple(_trust(material))),
            *([Lines(tuple(shown), "Look at these first")] if shown else []),
        ),
    )


def _possible(material: Material) -> dict[str, pd.DataFrame]:
    """The tables without what this machine cannot do, which has a section of its own."""
    return {
        name: frame[frame["status"] != "unsupported"] if "status" in frame else frame
        for name, frame in material.tables.items()
    }


def _trust(material: Material) -> list[Entry]:
    """One statement a subject, in the order of what invalidates most."""
    return [
        *_cells(material),
        *_environments(material),
        *_latencies(material),
        *_noise(material),
    ]


def _count(good: int, total: int, what: str) -> Text:
    return Text(f"{good} of {total} {what}", "good" if good == total else "bad")


def _cells(material: Material) -> list[Entry]:
    rows = material.rows("cells")
    refused = sum(row["status"] == "unsupported" for row in rows)
    with_numbers = sum(row["status"] == "ok" for row in rows)
    found: list[Entry] = [_count(with_numbers, len(rows) - refused, "possible cells have numbers.")]
    if refused:
        found.append(f"{words.plural(refused, 'cell')} cannot be had here; the reasons are below.")
    return found


def _environments(material: Material) -> list[Entry]:
    rows = [row for row in material.rows("environments") if row["status"] == "ok"]
    same = sum(not words.known(row["deviation"]) for row in rows)
    if not rows:
        return [Text("No environment ran.", "bad")]
    return [_count(same, len(rows), "environments that ran did exactly what was asked.")]


def _latencies(material: Material) -> list[Entry]:
    rows = [row for row in material.rows("latency") if row["status"] == "ok"]
    if not rows:
        return ["No latency was measured."]
    good = sum(words.text(row["trust"]) == "trustworthy" for row in rows)
    return [_count(good, len(rows), "latency rows are trustworthy by their own checks.")]


def _noise(material: Material) -> list[Entry]:
    if not material.rows("latency"):
        return []
    noise = material.run.get("noise")
    if not noise:
        return [
            'The noise floor of this machine is not known ("hwbench doctor --noise" measures it).'
        ]
    return [f"Differences below {noise['floor']:.1%} drown in the noise of this machine."]
