"""The jobs of a round over a rack: waiting, in hand, and given up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hwbench.execute.parcel import outputs
from hwbench.job import AccuracyWork, Job, Trial

POLL_S = 0.5
MAX_LOSSES = 3  # boards that a job may take along before it is left alone


@dataclass
class Item:
    """A job and what is known of it.

    Attributes:
        job: as the strategy made it.
        done: trials whose records are committed.
        told: faults whose rows are committed, by cell, pattern, layer and hash of the edits.
        losses: boards that went away while they did it.
    """

    job: Job
    done: set[Trial] = field(default_factory=set)
    told: set[tuple[Any, ...]] = field(default_factory=set)
    losses: int = 0

    @property
    def left(self) -> Job:
        """What is still to be done."""
        return self.job.without(self.done)

    @property
    def whole(self) -> bool:
        """Whether rows count only once the job has ended: others read what it makes."""
        return not isinstance(self.job.work, AccuracyWork) or bool(outputs(self.job))


@dataclass
class Desk:
    """The jobs of a round: waiting, in hand, and given up."""

    waiting: deque[Item]
    in_hand: int = 0
    given_up: list[Item] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, suits: Callable[[Job], bool]) -> Item | None:
        """The first waiting job that suits, which is then in hand."""
        with self.changed:
            found = next((each for each in self.waiting if suits(each.job)), None)
            if found is not None:
                self.waiting.remove(found)
                self.in_hand += 1
            return found

    def put_back(self, item: Item, began: bool) -> None:
        """A job whose board was lost: it waits again, unless it has taken too many along."""
        with self.changed:
            self.in_hand -= 1
            item.losses += began
            left = item.left.work
            if item.losses >= MAX_LOSSES:
                self.given_up.append(item)
            elif not isinstance(left, AccuracyWork) or left.parts:
                self.waiting.appendleft(item)
            self.changed.notify_all()

    def finished(self) -> None:
        """A job is done."""
        with self.changed:
            self.in_hand -= 1
            self.changed.notify_all()

    def suits(self, suits: Callable[[Job], bool]) -> bool:
        """Whether any waiting job suits."""
        with self.changed:
            return any(suits(each.job) for each in self.waiting)

    def give_up(self) -> None:
        """Leave what waits for another day."""
        with self.changed:
            self.given_up.extend(self.waiting)
            self.waiting.clear()

    @property
    def open(self) -> bool:
        """Whether anything waits or is in hand."""
        with self.changed:
            return bool(self.waiting or self.in_hand)

    def wait(self) -> None:
        """Until something changes, or it is time to look at the boards again."""
        with self.changed:
            if self.waiting or self.in_hand:
                self.changed.wait(POLL_S)
