"""Which boards a rack has, and which of them is whose home."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench import __version__
from hwbench.backend import Environment
from hwbench.errors import RequestError
from hwbench.seeds import canonical

SLOT = "slot"
START = "dask worker SCHEDULER --nthreads 1 --resources 'slot=1 TAG=1'"


@dataclass(frozen=True)
class Board:
    """One dask worker with one slot.

    Attributes:
        address: of the dask worker.
        name: its name, for people.
        tags: its resources but the slot.
        machine: see ``fingerprint.machine``.
        versions: see ``fingerprint.versions``.
    """

    address: str
    name: str
    tags: frozenset[str]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def mark(self) -> str:
        """The machine's fingerprint."""
        return str(self.machine["fingerprint"])

    @property
    def kind(self) -> str:
        """Boards of one kind give the same bytes: the same machine and the same versions."""
        made_of = {"machine": self.mark, "versions": dict(self.versions)}
        return hashlib.sha256(canonical(made_of).encode()).hexdigest()[:12]

    def has(self, tags: Sequence[str]) -> bool:
        """Whether it has all these tags."""
        return self.tags.issuperset(tags)


def check_slot(name: str, told: Mapping[str, Any]) -> None:
    """Refuse a board on which two jobs would disturb each other.

    Args:
        name: of the board.
        told: what the scheduler knows of it.

    Raises:
        RequestError: it has not just one slot.
    """
    threads, slots = told["nthreads"], told["resources"][SLOT]
    if threads != 1 or slots != 1:
        what = f"has {threads} threads and {slots:g} slots, not one."
        raise RequestError(what, where=f"board {name}", hint=f"start {START}.")


def introduced(address: str, name: str, told: Mapping[str, Any], said: Mapping[str, Any]) -> Board:
    """A board by what the scheduler told and what it says of itself.

    Raises:
        RequestError: it has another hwbench.
    """
    if said["hwbench"] != __version__:
        what = f"has hwbench {said['hwbench']}, here is {__version__}."
        raise RequestError(what, where=f"board {name}", hint="install the same version.")
    tags = frozenset(tag for tag, count in told["resources"].items() if count >= 1) - {SLOT}
    return Board(address, name, tags, said["machine"], said["versions"])


def home(environment: Environment, boards: Sequence[Board]) -> Board:
    """A board that has an environment's tags; all that have them must be alike.

    Raises:
        RequestError: there is none, or those that suit differ.
    """
    suit = [each for each in boards if each.has(environment.tags)]
    where = f"environments: {environment.id}"
    if not suit:
        known = sorted({tag for each in boards for tag in each.tags})
        raise RequestError(
            f"no board has tags {', '.join(environment.tags)}.",
            where=where,
            hint=f"boards have: {', '.join(known) or 'none'}.",
        )
    other = next((each for each in suit if each.kind != suit[0].kind), None)
    if other is not None:
        tags = ", ".join(environment.tags) or "no tags"
        raise RequestError(
            f"boards {suit[0].name} and {other.name} both suit {tags}, but differ"
            f" ({_difference(suit[0], other)}).",
            where=where,
            hint="give boards tags of their own, and each its environment with a label.",
        )
    return suit[0]


def _difference(one: Board, other: Board) -> str:
    """The first things in which two boards differ, in words."""
    left, right = ({**each.machine, **each.versions} for each in (one, other))
    names = [n for n in {**left, **right} if left.get(n) != right.get(n) and n != "fingerprint"]
    return ", ".join(f"{n}: {left.get(n)} and {right.get(n)}" for n in names[:2])
