"""Read a run and tell it to another system."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from hwbench.collect import collect
from hwbench.durable import write_durably
from hwbench.sinks import jsonl, prometheus, tracking
from hwbench.store import Store

SINKS = ("prometheus", "mlflow", "jsonl")


def export(folder: Path, to: str, target: str) -> str:
    """Tell a run's numbers; a line that says what was done.

    Args:
        folder: of the run, which is only read.
        to: one of ``SINKS``.
        target: the file to write, which is replaced as a whole; of MLflow a database file, or a
            tracking URI.

    Raises:
        RequestError: no run, or the target cannot be written.
    """
    store = Store.open(folder)
    run, tables = store.read_json("run.json"), collect(store)
    started = datetime.fromisoformat(run["started"])
    if to == "mlflow":
        uri = target if "://" in target else f"sqlite:///{Path(target).resolve()}"
        made = tracking.log(tables, run, folder.resolve().name, started.timestamp(), uri)
        return f"MLflow run {made}"
    content = prometheus.text(tables, run, started.timestamp())
    if to == "jsonl":
        content = "".join(f"{line}\n" for line in jsonl.lines(tables, _about(folder, run)))
    write_durably(Path(target), content.encode())
    return f"Wrote {target}"


def _about(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    machine = run["machine"]["fingerprint"]
    return {"run": folder.resolve().name, "started": run["started"], "machine": machine}
