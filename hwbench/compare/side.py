"""One of the two runs, read for a comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hwbench.case import case_id, cell_id
from hwbench.collect import collect
from hwbench.collect.cell import CellRows, arrange
from hwbench.collect.records import Records, read
from hwbench.collect.rows import rows_of
from hwbench.record import Row
from hwbench.runfile import read_spec
from hwbench.seeds import Key
from hwbench.spec import Spec
from hwbench.store import Store

# Model, environment, scenario, severity name, severity: what is matched between two runs.
Cell = tuple[str, str, str, str, float | None]

_TIMES = ["latency_p50_ms", "throughput_per_s", "rate_per_s", "canary_ms"]
_ARM = ["model", "environment", "scenario", "severity_name", "severity", "batch", "use"]


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The cell that a row belongs to."""
    model, environment, scenario, name, severity = (row[each] for each in _ARM[:5])
    return model, environment, scenario, name, severity


def said(cell: Cell) -> str:
    """``model/environment/scenario@severity``."""
    return cell_id(*cell[:2], case_id(*cell[2:]))


@dataclass(frozen=True)
class Side:
    """What a run holds, by cell.

    Attributes:
        run: its run.json.
        plan: its plan.json.
        spec: its resolved spec.
        tables: as ``collect`` gives them.
        arms: latency processes that ended ``ok``, one a block, by cell, batch and use.
    """

    folder: Path
    run: dict[str, Any]
    plan: dict[str, Any]
    spec: Spec
    tables: dict[str, pd.DataFrame]
    arms: dict[tuple[Any, ...], list[Row]]

    @classmethod
    def read(cls, folder: Path) -> Side:
        """A run from its folder.

        Raises:
            RequestError: there is no run, or it is damaged.
        """
        store = Store.open(folder)
        return cls(
            folder,
            store.read_json("run.json"),
            store.read_json("plan.json"),
            read_spec(store),
            collect(store),
            _arms(store),
        )

    @property
    def cells(self) -> dict[Cell, Row]:
        """Planned cells with their rows of the table of cells."""
        return {cell_of(row): row for row in rows_of(self.tables["cells"])}

    def case(self, cell: Cell) -> dict[str, Any]:
        """The planned case of a cell."""
        wanted = case_id(*cell[2:])
        return next(each for each in self.plan["cases"] if each["id"] == wanted)

    def environment(self, cell: Cell) -> dict[str, Any]:
        """Its environment, with the size of the data that the case runs on."""
        where = self.plan["environments"]
        found = next(e for e in where if (e["model"], e["environment"]) == cell[:2])
        return {**found, **self.case(cell).get("data", {}).get(cell[0], {})}

    def outcomes(self, cell: Cell) -> tuple[CellRows, frozenset[str]]:
        """A cell's records as matrices, and the keys that its patterns were drawn by."""
        planned, name = self.environment(cell), said(cell)
        found = self._records.get(name, Records())
        made = arrange(found, planned["n_samples"], planned["batch"], planned["labelled"])
        keys = self._keys.filter(pc.equal(self._keys["cell"], name))["seed_key"].to_pylist()
        return made, frozenset(key for key in keys if key)

    @cached_property
    def _records(self) -> dict[str, Records]:
        return read(Store(self.folder), vectors=False)

    @cached_property
    def _keys(self) -> pa.Table:
        names = ["cell", "seed_key"]
        return Store(self.folder).read("records", names).group_by(names).aggregate([])

    def golden(self, cell: Cell) -> Path:
        """File of the environment's unperturbed outputs."""
        return self.folder / "golden" / f"{Key(cell[:2]).hex()}.npz"

    @property
    def unstable(self) -> set[tuple[Cell, int, str]]:
        """What was timed and is not to be trusted."""
        rows = rows_of(self.tables["latency"])
        return {(cell_of(r), r["batch"], r["use"]) for r in rows if r["trust"] == "unstable"}

    def latencies(self) -> Iterator[tuple[Cell, int, str, list[Row]]]:
        """Cell, batch, use and processes of what was timed."""
        for (*names, batch, use), rows in self.arms.items():
            yield cell_of(dict(zip(_ARM[:5], names, strict=True))), batch, use, rows


def _arms(store: Store) -> dict[tuple[Any, ...], list[Row]]:
    """Of a block that was run again, the last process."""
    rows = store.read("processes", ["kind", "outcome", "block", *_ARM, *_TIMES]).to_pylist()
    blocks: dict[tuple[Any, ...], dict[int, Row]] = defaultdict(dict)
    for each in rows:
        if each["kind"] == "latency" and each["outcome"] == "ok":
            blocks[tuple(each[name] for name in _ARM)][each["block"]] = each
    return {arm: list(found.values()) for arm, found in blocks.items()}
