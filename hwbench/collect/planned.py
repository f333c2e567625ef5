"""Every planned cell with its records and what became of it: what the tables are laid over."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwbench.case import cell_id
from hwbench.collect import campaigns
from hwbench.collect.cell import CellRows, arrange
from hwbench.collect.records import Records
from hwbench.record import Row

Place = tuple[str, str]  # model, environment

CACHE_BYTES = 256 << 20  # of matrices over patterns and samples, which several tables share


@dataclass(frozen=True)
class Planned:
    """One planned cell.

    Attributes:
        environment: of plan.json, with the size of the data that the case runs on.
        case: of plan.json.
        records: none where the cell was refused.
        status: ok, open, or the process outcome that keeps the numbers away.
        note: why it is not ok, or what failed.
        campaign: numbers of the campaign; empty where there is none.
    """

    environment: Mapping[str, Any]
    case: Mapping[str, Any]
    records: Records
    status: str = "ok"
    note: str | None = None
    campaign: Mapping[str, Any] | None = None

    @property
    def place(self) -> Place:
        """Model and environment."""
        return self.environment["model"], self.environment["environment"]

    @property
    def id(self) -> str:
        """As records name it."""
        return cell_id(*self.place, self.case["id"])

    @property
    def names(self) -> Row:
        """The columns that name the cell."""
        case = {name: self.case[name] for name in ("scenario", "severity_name", "severity")}
        return {"model": self.place[0], "environment": self.place[1], **case}

    @property
    def state(self) -> Row:
        """The columns that say what became of it."""
        return {"status": self.status, "note": self.note}

    @property
    def clean(self) -> bool:
        """Whether nothing happens in it."""
        return bool(self.case["id"] == "clean")

    @property
    def shifted(self) -> bool:
        """Whether it runs on other data than the spec's."""
        return bool(self.case.get("data"))

    @property
    def sampled(self) -> bool:
        """Whether a campaign chooses its patterns, which are not alike then."""
        return self.case["patterns"] is None

    @property
    def sizes(self) -> tuple[int, int]:
        """Scored samples, and samples per batch."""
        return self.environment["n_samples"], self.environment["batch"]


class Cells:
    """All planned cells, environment by environment.

    Args:
        plan: the run's plan.json.
        records: by cell.
        processes: rows of the part.
        sampled: campaigns.json.
    """

    def __init__(
        self,
        plan: Mapping[str, Any],
        records: Mapping[str, Records],
        processes: Sequence[Row],
        sampled: Mapping[str, Any],
    ) -> None:
        self.plan = plan
        self.processes: dict[Place, list[Row]] = defaultdict(list)
        for each in processes:
            self.processes[each["model"], each["environment"]].append(each)
        self.refusals: dict[tuple[str, ...], str] = {
            tuple(key): reason for *key, reason in plan["refusals"]
        }
        self._cells = {
            (*each.place, each.case["id"]): self._judged(each, sampled)
            for each in laid_out(plan, records)
        }
        self._arranged: OrderedDict[tuple[str, ...], CellRows] = OrderedDict()
        self._held = 0

    def __iter__(self) -> Iterator[Planned]:
        return iter(self._cells.values())

    def by_case(self) -> list[Planned]:
        """Case by case: neighbours are compared with the same cell of the baseline."""
        place = {case["id"]: index for index, case in enumerate(self.plan["cases"])}
        return sorted(self, key=lambda each: place[each.case["id"]])

    def at(self, place: Place, case: str = "clean") -> Planned | None:
        """A cell, or ``None`` where none is planned."""
        return self._cells.get((*place, case))

    def arranged(self, cell: Planned) -> CellRows:
        """Its records as matrices; those used last are kept."""
        key = (*cell.place, cell.case["id"])
        made = self._arranged.pop(key, None)
        if made is None:
            made = arrange(cell.records, *cell.sizes, cell.environment["labelled"])
            self._held += made.nbytes
        self._arranged[key] = made
        while self._held > CACHE_BYTES:
            self._held -= self._arranged.popitem(last=False)[1].nbytes
        return made

    def status(self, place: Place, constraint: str | None = None) -> tuple[str, str | None]:
        """What keeps an environment's numbers away: a failed build, or any process's deviation.

        Under conditions (``constraint``), a deviation of those processes does so too.
        """
        last: dict[tuple[str, str], Row] = {}
        processes = [p for p in self.processes.get(place, []) if p["outcome"] != "interrupted"]
        for each in processes:
            last[(each["kind"], each["scenario"])] = each
        for key in (("build", ""), ("accuracy", "clean")):
            if key not in last:
                return "open", None
            if last[key]["outcome"] != "ok":
                return last[key]["outcome"], last[key]["message"]
        for each in processes:
            theirs = each["conditions"] in (None, constraint)
            if theirs and each["kind"] == "accuracy" and each["outcome"] == "invalid":
                return "invalid", each["message"]
        return "ok", None

    def _judged(self, cell: Planned, sampled: Mapping[str, Any]) -> Planned:
        """The cell with its status, and the numbers of its campaign."""
        records = cell.records
        status, note = self.status(cell.place, cell.case["constraint"])
        refusal = self.refusals.get((*cell.place, cell.case["id"])) if status == "ok" else None
        if refusal is not None:
            return replace(cell, records=Records(), status="unsupported", note=refusal)
        if cell.sampled and cell.id in sampled:
            cell = replace(cell, campaign=campaigns.row(sampled[cell.id], records, *cell.sizes))
        if status != "ok":
            return replace(cell, status=status, note=note)
        expected = _expected(cell)
        if len(records) < expected:
            note = f"{len(records)} of {expected} trials done"
            return replace(cell, status="open", note=note)
        if not records.failed:
            return cell
        first = records.failed[0]
        status = first["outcome"] if len(records.failed) == len(records) else "ok"
        return replace(cell, status=status, note=first["message"])


def laid_out(
    plan: Mapping[str, Any], records: Mapping[str, Records] | None = None
) -> Iterator[Planned]:
    """Every planned cell, environment by environment; what became of it is not looked at.

    Args:
        plan: the run's plan.json.
        records: by cell; absent, every cell has none.
    """
    known = records or {}
    for environment in plan["environments"]:
        for case in plan["cases"]:
            data = case.get("data", {}).get(environment["model"], {})
            cell = Planned({**environment, **data}, case, Records())
            yield replace(cell, records=known.get(cell.id, cell.records))


def _expected(cell: Planned) -> int:
    """Trials of a complete cell; of a campaign one more than there are until it stops."""
    found, (n_samples, batch) = len(cell.records), cell.sizes
    if not cell.sampled:
        return int(cell.case["patterns"] * -(-n_samples // batch))
    if cell.campaign is None:
        return max(1, found)
    return found + (not cell.campaign["reached"])
