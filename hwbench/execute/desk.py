"""The jobs of a round over a rack: waiting, in hand, and given up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hwbench.execute.parcel import outputs
from hwbench.job import AccuracyWork, Job, Trial

POLL_S = 0.5
AHEAD = 2000  # jobs that wait at most: those of a tag whose boards are busy hold up no other's
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


class Desk:
    """The jobs of a round: still to be made, waiting, in hand, and given up.

    Jobs are made as boards ask for them, since a large sweep has more than fit in memory; they are
    looked through for one that suits up to ``AHEAD`` of them.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.waiting: deque[Item] = deque()
        self.in_hand = 0
        self.given_up: list[Item] = []
        self._coming = iter(jobs)
        self._changed = threading.Condition()

    def take(self, suits: Callable[[Job], bool]) -> Item | None:
        """The first waiting job that suits, which is then in hand."""
        with self._changed:
            found = self._find(suits)
            if found is not None:
                self.waiting.remove(found)
                self.in_hand += 1
            return found

    def put_back(self, item: Item, began: bool) -> None:
        """A job whose board was lost: it waits again, unless it has taken too many along."""
        with self._changed:
            self.in_hand -= 1
            item.losses += began
            left = item.left.work
            if item.losses >= MAX_LOSSES:
                self.given_up.append(item)
            elif not isinstance(left, AccuracyWork) or left.parts:
                self.waiting.appendleft(item)
            self._changed.notify_all()

    def finished(self) -> None:
        """A job is done."""
        with self._changed:
            self.in_hand -= 1
            self._changed.notify_all()

    def suits(self, suits: Callable[[Job], bool]) -> bool:
        """Whether any waiting job suits."""
        with self._changed:
            return self._find(suits) is not None

    def give_up(self) -> None:
        """Leave what waits for another day."""
        with self._changed:
            self.given_up.extend(self.waiting)
            self.waiting.clear()
            self._coming = iter(())

    @property
    def open(self) -> bool:
        """Whether anything waits or is in hand."""
        with self._changed:
            return self.in_hand > 0 or self._find(lambda job: True) is not None

    def wait(self) -> None:
        """Until something changes, or it is time to look at the boards again."""
        with self._changed:
            if self.waiting or self.in_hand:
                self._changed.wait(POLL_S)

    def _find(self, suits: Callable[[Job], bool]) -> Item | None:
        for item in self.waiting:
            if suits(item.job):
                return item
        while len(self.waiting) < AHEAD:
            job = next(self._coming, None)
            if job is None:
                return None
            self.waiting.append(Item(job))
            if suits(job):
                return self.waiting[-1]
        return None
