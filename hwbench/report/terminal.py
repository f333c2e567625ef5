"""The summary a person reads at a glance in the terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.collect.campaigns import STRATIFIED
from hwbench.collect.latency import SINGLE

ALARM, MUTED, GOOD = "bold red", "dim", "green"

_WORST = 10
_COLUMNS = 8  # cells side by side that a terminal has room for
_ROWS = 24
_NOTES = 20


def summary(
    tables: dict[str, pd.DataFrame], run: dict[str, Any], baseline: str, metrics: list[str]
) -> RenderableType:
    """Environments, accuracy under every scenario, latency, and what needs attention.

    Args:
        tables: as ``collect`` gives them.
        run: the run's provenance.
        baseline: environment id.
        metrics: that the spec names; each has a table of its own.
    """
    parts: list[RenderableType] = [_environments(tables["environments"])]
    for model, drift in tables["drift"].groupby("model", sort=False):
        # Comparing with "missing" gives "missing": cells without numbers would fall out.
        drift = drift[drift["accuracy_interval"].fillna("") != STRATIFIED]
        shown, cut = _most_harmful(drift)
        parts.append(_accuracy(str(model), _only(drift, shown), baseline, cut))
        parts += [
            _metric(str(model), _only(drift, shown), name) for name in metrics if name in drift
        ]
        parts += [
            _metric(str(model), _only(rows, shown).rename(columns={"value": name}), str(name))
            for name, rows in tables["metrics"].query("model == @model").groupby("metric")
        ]
    if len(tables["models"]):
        parts.append(_models(tables["models"]))
    if len(tables["latency"]):
        parts.append(_latency(tables["latency"]))
        strained = tables["latency"][tables["latency"]["scenario"] != "clean"]
        if len(strained):
            parts.append(_strained(strained))
    if len(tables["limits"]):
        parts.append(_limits(tables["limits"]))
    if len(tables["campaigns"]):
        parts.append(_campaigns(tables["campaigns"]))
    if len(tables["soak"]):
        parts.append(_soak(tables["soak"]))
    if len(tables["isa"]):
        parts.append(_isa(tables["isa"]))
    # A row of one or two chance single faults ranks nothing: only rows with an interval are shown.
    vulnerable = tables["vulnerability"]
    vulnerable = vulnerable[vulnerable["p_sdc_low"].notna()]
    if len(vulnerable):
        parts.append(_vulnerability(vulnerable))
    notes = attention(tables, run)
    if notes:
        left = len(notes) - _NOTES
        more = [f"  - and {left} more: see the column note of the tables"] if left > 0 else []
        lines = ["\nAttention:", *(f"  - {note}" for note in notes[:_NOTES]), *more]
        parts.append(Text("\n".join(lines)))
    return Group(*parts)


def _most_harmful(frame: pd.DataFrame) -> tuple[set[str], str]:
    """Titles of the cells that there is room for, and what the title says of the others."""
    rows = frame.to_dict("records")
    titles = list(dict.fromkeys(_cell_title(row) for row in rows))
    if len(titles) <= _COLUMNS:
        return set(titles), ""
    harm: dict[str, float] = {}
    for row in rows:
        told = row["drift"] if not pd.isna(row["drift"]) else row["agreement_golden"]
        worst = float("inf") if pd.isna(told) or row["scenario"] == "clean" else float(told)
        harm[_cell_title(row)] = min(harm.get(_cell_title(row), float("inf")), worst)
    ranked = sorted((each for each in titles if each != "clean"), key=harm.__getitem__)
    kept = {"clean", *ranked[: _COLUMNS - 1]}
    return kept, f", the {_COLUMNS - 1} most harmful of {len(ranked)} cells: tables/drift.csv"


def _only(frame: pd.DataFrame, titles: set[str]) -> pd.DataFrame:
    return frame[[_cell_title(row) in titles for row in frame.to_dict("records")]]


def _models(frame: pd.DataFrame) -> Group:
    """A line per model and environment: what it costs, and where it holds better or worse."""
    table = _table(["environment", "model", "clean %", "p50 ms", "peak MiB", "holds"])
    for (environment, model), rows in frame.groupby(["environment", "model"], sort=False):
        first = rows.iloc[0]
        counts = rows["holds"].value_counts()
        told = [f"{name} in {counts[name]}" for name in ("better", "worse", "alike")
                if name in counts]  # fmt: skip
        itself = model == first["reference"]
        table.add_row(
            Text(str(environment)),
            Text(str(model)),
            _number(100 * first["accuracy_clean"], ".2f"),
            _number(first["latency_p50_ms"], ".3f"),
            _number(first["run_peak_rss_mib"], ".0f"),
            Text("reference" if itself else ", ".join(told) or "-", style=MUTED if itself else ""),
        )
    return _titled("Models: loss under each scenario against the first (tables/models.csv)", table)


def _titled(title: str, table: Table) -> Group:
    """The title as a line of its own: as a table's title it would wrap at the table's width."""
    return Group(Text(f"\n{title}", style="bold"), table)


def _table(columns: list[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def _environments(frame: pd.DataFrame) -> Group:
    several = _several(frame)
    columns = ["environment", "asked", "ran", "status", "runtime", "load ms", "peak MiB"]
    table = _table(columns)
    for row in frame.to_dict("records"):
        name = _place(row, several)
        table.add_row(
            Text(name),
            Text(row["asked_precision"]),
            Text(_text(row["actual_precision"])),
            _status(row["status"]),
            Text(_text(row["runtime_version"]).split("-")[0]),
            _number(row["load_ms"], ".1f"),
            _number(row["run_peak_rss_mib"], ".0f"),
        )
    return _titled("Environments (asked and actual)", table)


def _accuracy(model: str, frame: pd.DataFrame, baseline: str, cut: str) -> Group:
    """One line per environment, one column per cell."""
    labelled = bool(frame["accuracy"].notna().any())
    what = "accuracy %, and change in points" if labelled else "decisions equal to clean, %"
    cells = list(dict.fromkeys(_cell_title(row) for row in frame.to_dict("records")))
    table = _table(["environment", *cells])
    for environment, rows in frame.groupby("environment", sort=False):
        by_cell = {_cell_title(row): row for row in rows.to_dict("records")}
        shown = [_cell(by_cell[cell], labelled) for cell in cells]
        table.add_row(Text(str(environment)), *shown)
    return _titled(f"{model}: {what} (baseline {baseline}{cut})", table)


def _metric(model: str, frame: pd.DataFrame, name: str) -> Group:
    cells = list(dict.fromkeys(_cell_title(row) for row in frame.to_dict("records")))
    table = _table(["environment", *cells])
    for environment, rows in frame.groupby("environment", sort=False):
        by_cell = {_cell_title(row): row for row in rows.to_dict("records")}
        table.add_row(Text(str(environment)), *(_number(by_cell[c][name], ".4g") for c in cells))
    return _titled(f"{model}: {name}", table)


def _cell_title(row: dict[Any, Any]) -> str:
    if pd.isna(row["severity"]):
        return str(row["scenario"])
    return f"{row['scenario']}\n{row['severity_name']} {row['severity']:g}"


def _cell(row: dict[Any, Any], labelled: bool) -> Text:
    if row["status"] != "ok":
        return _status(row["status"])
    if not labelled:
        name = "agreement_baseline" if row["kind"] == "environment" else "agreement_golden"
        return Text(_number(100 * row[name], ".2f"))
    text = Text(_number(100 * row["accuracy"], ".2f"))
    if row["kind"] == "scenario" or row["drift"] != 0:
        text.append(f" {100 * row['drift']:+.2f}", style=_drift_style(row))
    if not pd.isna(row["drift_low"]) and (row["kind"] == "scenario" or row["drift"] != 0):
        text.append(
            f"\n[{100 * row['drift_low']:+.1f}, {100 * row['drift_high']:+.1f}]", style=MUTED
        )
    elif pd.isna(row["drift_low"]) and not pd.isna(row["drift"]):
        text.append(f"\n{row['drift_interval']}", style=MUTED)
    return text


def _drift_style(row: dict[Any, Any]) -> str:
    """Red only where the interval excludes no change."""
    return ALARM if not pd.isna(row["drift_high"]) and row["drift_high"] < 0 else MUTED


def _latency(frame: pd.DataFrame) -> Group:
    columns = ["environment", "batch", "p50 ms", "95 %", "p99 ms", "ratio", "95 %", "verdict"]
    table = _table([*columns, "finds", "load ms", "n", "trust"])
    rows, cut = _slowest(frame)
    several = _several(frame)
    for row in rows:
        name = _place(row, several) + _under(row)
        if row["use"] != SINGLE:
            name += f" {row['use']}"
        if row["status"] != "ok":
            table.add_row(Text(name), str(row["batch"]), _status(row["status"]))
            continue
        table.add_row(
            Text(name),
            str(row["batch"]),
            _number(row["latency_p50_ms"], ".3f"),
            _range(row, "latency_p50_ms", ".3f"),
            _number(row["latency_p99_ms"], ".3f"),
            Text(_number(row["ratio"], ".2f"), style=_ratio_style(row)),
            _range(row, "ratio", ".2f"),
            Text(_text(row["verdict"]), style=_ratio_style(row)),
            _number(100 * (row["detectable"] - 1), "+.1f") + " %" * pd.notna(row["detectable"]),
            _number(row["load_ms"], ".1f"),
            f"{row['processes']}x{row['n_calls'] // max(1, row['processes'])}",
            Text(row["trust"], style=GOOD if row["trust"] == "trustworthy" else ALARM),
        )
    return _titled(f"Latency (geometric mean of per-process medians{cut})", table)


def _slowest(frame: pd.DataFrame) -> tuple[list[dict[Any, Any]], str]:
    """Clean rows, and of the others those that are slowed down most, where there are too many."""
    rows = frame.to_dict("records")
    if len(rows) <= _ROWS:
        return rows, ""
    clean = [each for each in rows if each["scenario"] == "clean"]
    others = [each for each in rows if each["scenario"] != "clean"]
    others.sort(key=lambda each: 0.0 if pd.isna(each["slowdown"]) else -each["slowdown"])
    kept = clean + others[: max(0, _ROWS - len(clean))]
    return kept, f"; {len(kept)} of {len(rows)} rows, slowest first: tables/latency.csv"


def _soak(frame: pd.DataFrame) -> Group:
    columns = ["environment", "mean ms", "per min", "95 %", "last/first", "95 %", "C", "MHz", ""]
    table, several = _table([*columns, "course"]), _several(frame)
    for row in frame.to_dict("records"):
        name = _place(row, several) + _under(row)
        if row["status"] != "ok":
            table.add_row(Text(name), _status(row["status"]))
            continue
        throttled = row["throttled"] is True
        table.add_row(
            Text(name),
            _number(row["latency_mean_ms"], ".3f"),
            _number(row["drift_per_min"], ".3f"),
            _range(row, "drift_per_min", ".3f"),
            _number(row["last_to_first"], ".3f"),
            _range(row, "last_to_first", ".3f"),
            _number(row["temperature_c_last"], ".0f"),
            _number(row["frequency_mhz_last"], ".0f"),
            Text("throttled" if throttled else "steady", style=ALARM if throttled else GOOD),
            Text(row["course"]),
        )
    return _titled("Soak (mean latency over time)", table)


def _isa(frame: pd.DataFrame) -> Group:
    columns = ["environment", "condition", "status", "kernels", "dB own", "dB base", "native", "%"]
    table = _table(columns)
    for row in frame.to_dict("records"):
        table.add_row(
            Text(row["environment"]),
            Text(_under(row).strip() + ("" if row["emulated"] is not True else " (emulated)")),
            _status(row["status"]),
            Text(_text(row["kernels"])),
            Text(_number(row["sqnr_golden_db"], ".1f"), style=_saturation_style(row)),
            _number(row["sqnr_baseline_db"], ".1f"),
            _number(row["sqnr_baseline_native_db"], ".1f"),
            _number(100 * row["accuracy"], ".2f"),
        )
    title = "Instruction sets (SQNR in dB against own native outputs, and against the baseline's)"
    return _titled(title, table)


def _saturation_style(row: dict[Any, Any]) -> str:
    return ALARM if row["saturates"] is True else MUTED


def _strained(frame: pd.DataFrame) -> Group:
    """What conditions cost: throughput tells of a quota, the tail of contention."""
    table = _table(["environment", "batch", "throughput", "95 %", "p99", "95 %"])
    several = _several(frame)
    for row in _slowest(frame[frame["status"] == "ok"])[0]:
        shown: list[Text | str] = []
        for name in ("throughput_ratio", "latency_p99_ratio"):
            shown += [_number(row[name], ".2f"), _range(row, name, ".2f")]
        table.add_row(Text(_place(row, several) + _under(row)), str(row["batch"]), *shown)
    return _titled("Under conditions, as ratios to the same environment's clean", table)


def _limits(frame: pd.DataFrame) -> Group:
    """Where the memory cliff is: what is needed, and what happens below."""
    columns = ["environment", "import RSS", "peak RSS", "with files", "loads from", "p50 < 2x from"]
    table = _table([*columns, "+-", "30 % below"])
    for row in frame.to_dict("records"):
        name = Text(row["environment"])
        if row["status"] != "ok":
            table.add_row(name, *[""] * 6, _status(row["status"]))
            continue
        below = f"{_text(row['below_outcome'])} in {_text(row['below_phase'])}"
        table.add_row(
            name,
            *(
                _number(row[column], ".1f")
                for column in (
                    *("floor_rss_mib", "peak_rss_mib", "group_peak_mib", "load_min_mib"),
                    *("latency_min_mib", "tolerance_mib"),
                )
            ),
            Text(below),
        )
    return _titled("Memory (MiB): what it takes, and the smallest limits found", table)


def _several(frame: pd.DataFrame) -> bool:
    """Whether a model's name is needed to tell places apart."""
    return bool(frame["model"].nunique() > 1)


def _place(row: dict[Any, Any], several: bool) -> str:
    return f"{row['model']}/{row['environment']}" if several else str(row["environment"])


def _under(row: dict[Any, Any]) -> str:
    """The scenario with its severity; nothing for clean."""
    if row["scenario"] == "clean":
        return ""
    return f" {row['scenario']} {row['severity_name']} {row['severity']:g}"


def _vulnerability(frame: pd.DataFrame) -> Group:
    """The sites and bit fields in which single faults did most; the table file has them all."""
    columns = ["environment", "site", "field", "P(sdc) %", "95 %", "any %", "due %", "pvf %", "n"]
    table = _table(columns)
    ranked = frame.sort_values(["p_sdc", "p_due"], ascending=False, kind="stable")
    for row in ranked.head(_WORST).to_dict("records"):
        table.add_row(
            Text(f"{row['environment']} {row['scenario']}"),
            Text(row["site"]),
            Text(row["field"]),
            _percent(row["p_sdc"]),
            _percent_range(row, "p_sdc"),
            *(_percent(row[name]) for name in ("p_any_sdc", "p_due", "pvf")),
            str(row["n"]),
        )
    title = "Vulnerability to single faults, worst first"
    if len(frame) > _WORST:
        title += f" ({_WORST} of {len(frame)} rows; all in tables/vulnerability.csv)"
    return _titled(title, table)


def _campaigns(frame: pd.DataFrame) -> Group:
    """What each campaign knows, and what that took."""
    columns = ["environment", "estimand", "rate %", "interval", "at", "faults", "formula", "saved"]
    table = _table(columns)
    for row in frame.to_dict("records"):
        name = Text(f"{row['environment']} {row['scenario']}")
        if row["status"] not in ("ok", "open") or pd.isna(row["faults"]):
            table.add_row(name, _status(row["status"]))
            continue
        table.add_row(
            name,
            Text(row["estimand"]),
            _number(100 * row["rate"], ".3f"),
            _percent_range(row, "rate"),
            f"{100 * row['confidence']:g} %",
            str(row["faults"]),
            str(row["formula"]),
            "open" if pd.isna(row["saved"]) else f"{100 * row['saved']:.0f} %",
        )
    return _titled("Campaigns over single faults (saved: against the fixed-size formula)", table)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _percent_range(row: dict[Any, Any], name: str) -> Text:
    if pd.isna(row[f"{name}_low"]):
        return Text(_text(row[f"{name}_interval"]), style=MUTED)
    low, high = (100 * row[f"{name}_{end}"] for end in ("low", "high"))
    return Text(f"[{low:.2f}, {high:.2f}]", style=MUTED)


def _ratio_style(row: dict[Any, Any]) -> str:
    return {"slower": ALARM, "faster": GOOD}.get(_text(row["verdict"]), MUTED)


def _range(row: dict[Any, Any], name: str, form: str) -> Text:
    if pd.isna(row[f"{name}_low"]):
        return Text(_text(row[f"{name}_interval"]), style=MUTED)
    return Text(f"[{row[f'{name}_low']:{form}}, {row[f'{name}_high']:{form}}]", style=MUTED)


def _status(status: str) -> Text:
    return Text(
        status, style=GOOD if status == "ok" else ALARM if status != "unsupported" else MUTED
    )


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else f"{value:{form}}"


def _text(value: Any) -> str:
    return "-" if pd.isna(value) else str(value)


def attention(tables: dict[str, pd.DataFrame], run: dict[str, Any]) -> list[str]:
    """Everything that a reader must not overlook, one line each."""
    notes = []
    for row in tables["environments"].to_dict("records"):
        place = f"{row['model']}/{row['environment']}"
        if row["status"] != "ok":
            notes.append(f"{place} is {row['status']}: {_text(row['note'])}")
        elif not pd.isna(row["deviation"]):
            notes.append(f"{place}: {row['deviation']} (allowed)")
    notes += _failures(tables)
    for row in tables["soak"].to_dict("records"):
        if row["throttled"] is True or row["status"] != "ok":
            what = row["diagnosis"] if row["status"] == "ok" else row["note"]
            notes.append(f"soak of {row['model']}/{row['environment']}{_under(row)}: {what}")
    for row in tables["isa"].dropna(subset=["diagnosis"]).to_dict("records"):
        notes.append(f"{row['model']}/{row['environment']}{_under(row)}: {row['diagnosis']}")
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
        cell = f"{row['model']}/{row['environment']}/{_cell_title(row)}".replace("\n", " ")
        if row["status"] != "ok":
            notes.append(f"{cell} is {row['status']}: {_text(row['note'])}")
        elif row["trials_failed"]:
            notes.append(
                f"{cell}: {row['trials_failed']} of {row['trials']} trials failed"
                f" ({row['failures']})"
            )
    for row in tables["limits"].to_dict("records"):
        if (row["model"], row["environment"]) not in broken and not pd.isna(row["note"]):
            place = f"{row['model']}/{row['environment']}/{row['scenario']}"
            notes.append(f"{place} is {row['status']}: {row['note']}")
    for row in tables["latency"].to_dict("records"):
        if row["status"] != "ok":
            arm = f"{row['environment']}{_under(row)}"
            notes.append(f"latency of {arm} is {row['status']}: {_text(row['note'])}")
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
