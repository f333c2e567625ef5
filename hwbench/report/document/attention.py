"""What a reader of a run must not overlook, a line each."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hwbench.report.document import words


def attention(tables: dict[str, pd.DataFrame], run: dict[str, Any]) -> list[str]:
    """Everything that a reader must not overlook, one line each."""
    notes = []
    for row in tables["environments"].to_dict("records"):
        place = words.place(row)
        if row["status"] != "ok":
            notes.append(f"{place} is {row['status']}: {words.text(row['note'])}")
        elif not pd.isna(row["deviation"]):
            notes.append(f"{place}: {row['deviation']} (allowed)")
    notes += _failures(tables)
    for row in tables["soak"].to_dict("records"):
        if row["throttled"] is True or row["status"] != "ok":
            what = row["diagnosis"] if row["status"] == "ok" else row["note"]
            notes.append(f"soak of {words.place(row)}{words.under(row)}: {what}")
    for row in tables["isa"].dropna(subset=["diagnosis"]).to_dict("records"):
        notes.append(f"{words.place(row)}{words.under(row)}: {row['diagnosis']}")
    budget = run.get("budget") or {}
    if "share_of_patterns" in budget and budget["share_of_patterns"] < 1:
        share = f"{100 * budget['share_of_patterns']:.0f} %, and at least one of each"
        notes.append(f"budget {budget['asked']}: patterns were cut to {share}")
    if not budget.get("fits", True):
        notes.append("the budget is too small even for the smallest counts, which were run")
    return notes


def _failures(tables: dict[str, pd.DataFrame]) -> list[str]:
    broken = {
        (r["model"], r["environment"])
        for r in tables["environments"].to_dict("records")
        if r["status"] != "ok"
    }
    notes = []
    for row in tables["cells"].to_dict("records"):
        if (row["model"], row["environment"]) in broken:
            continue
        cell = f"{words.place(row)}/{words.condition(row, ' ')}"
        if row["status"] != "ok":
            notes.append(f"{cell} is {row['status']}: {words.text(row['note'])}")
        elif row["trials_failed"]:
            notes.append(
                f"{cell}: {row['trials_failed']} of {row['trials']} trials failed"
                f" ({row['failures']})"
            )
    for row in tables["limits"].to_dict("records"):
        if (row["model"], row["environment"]) not in broken and not pd.isna(row["note"]):
            place = f"{words.place(row)}/{row['scenario']}"
            notes.append(f"{place} is {row['status']}: {row['note']}")
    for row in tables["latency"].to_dict("records"):
        if row["status"] != "ok":
            arm = f"{row['environment']}{words.under(row)}"
            notes.append(f"latency of {arm} is {row['status']}: {words.text(row['note'])}")
    return notes + _distrusted(tables["latency"]) + _refused(tables["latency"])


def _distrusted(frame: pd.DataFrame) -> list[str]:
    """Why latencies are not to be believed, arms with the same reasons together."""
    arms: dict[str, list[str]] = {}
    for row in frame[frame["trust"] == "unstable"].to_dict("records"):
        for reason in row["trust_reasons"].split("; "):
            what, _, remedy = reason.partition(": ")
            arms.setdefault(f"{_without_numbers(what)}|{remedy}", []).append(what)
    return [
        f"latency is unstable in {len(whats)} of {len(frame)} rows ({whats[0]}):"
        f" {key.partition('|')[2]}"
        for key, whats in arms.items()
    ]


def _without_numbers(text: str) -> str:
    return "".join(each for each in text if not each.isdigit() and each not in ".%")


def _refused(frame: pd.DataFrame) -> list[str]:
    """LoadGen's own judgement where it is not VALID."""
    return [
        f"LoadGen calls {row['use']} of {row['environment']} INVALID ({row['loadgen']})"
        for row in frame.to_dict("records")
        if not pd.isna(row["loadgen"]) and row["loadgen"] != "VALID"
    ]
