"""The reference pages that are made from the code: ``python -m hwbench.report.docs [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from hwbench.collect.schema import TABLES
from hwbench.record import PARTS, PROCESS_OUTCOMES, Column
from hwbench.report.catalogue import catalogue

_MADE = "<!-- Made by `python -m hwbench.report.docs`; edit the code instead. -->\n"
_DOCS = Path(__file__).resolve().parents[2] / "docs"


def tables_page() -> str:
    """Every column of every table and stored part."""
    lines = [_MADE, "# Tables\n"]
    lines.append("`tables/*.parquet` and `tables/*.csv` in a run folder. Intervals are at 95 %")
    lines.append("unless a column says otherwise.\n")
    for name, columns in TABLES.items():
        lines += [f"## {name}\n", *_columns(columns)]
    lines.append("# Stored rows\n")
    lines.append("The parts that tables are made from: `records/`, `processes/`, `latency/`,")
    lines.append("`faults/`. Process outcomes: " + ", ".join(f"`{o}`" for o in PROCESS_OUTCOMES))
    lines.append("")
    for name, columns in PARTS.items():
        lines += [f"## {name}/\n", *_columns(columns)]
    return "\n".join(lines).rstrip() + "\n"


def _columns(columns: Iterable[Column]) -> list[str]:
    rows = [f"| `{each.name}` | {each.type} | {each.help} |" for each in columns]
    return ["| column | type | meaning |", "|---|---|---|", *rows, ""]


def scenarios_page() -> str:
    """Every scenario with its parameters, units and an example."""
    found = catalogue()
    lines = [_MADE, "# Scenarios and metrics\n"]
    lines.append("Beside its parameters every scenario takes `patterns`, `name`, `residence`,")
    lines.append("`sites` and `latency`. `sites: {include, exclude, kinds, layers, op_types}` says")
    lines.append(
        "which tensors can be hit: glob patterns of their names, kinds (`weight`, `bias`, `scale`,"
    )
    lines.append("`zero_point`; `weight` if absent), globs of the first consumer's name and type.")
    lines.append(
        "Lists expand, except in parameters that take a list (`bits`, `channels`): there, lists of"
    )
    lines.append("lists do.\n")
    for each in found["scenarios"]:
        lines += [f"## {each['name']}\n", f"{each['summary']}\n"]
        lines += ["| parameter | unit | default | meaning |", "|---|---|---|---|"]
        for parameter in each["parameters"]:
            default = "severity" if parameter["severity"] else f"`{parameter['default']}`"
            row = [f"`{parameter['name']}`", parameter["unit"], default, parameter["help"]]
            lines.append(f"| {' | '.join(row)} |")
        lines += ["", f"```yaml\n- {each['example']}\n```\n"]
    lines += ["## Metrics\n", "| metric | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in found["metrics"].items()]
    return "\n".join(lines) + "\n"


PAGES = {"tables.md": tables_page, "scenarios.md": scenarios_page}


def main() -> int:
    """Write the pages, or with ``--check`` say which are out of date."""
    stale = [name for name, page in PAGES.items() if _read(_DOCS / name) != page()]
    if "--check" in sys.argv:
        print("\n".join(f"docs/{name} is out of date" for name in stale))
        return 1 if stale else 0
    for name in stale:
        (_DOCS / name).write_text(PAGES[name]())
    return 0


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
