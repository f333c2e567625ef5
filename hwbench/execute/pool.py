"""A round of jobs over an executor, with progress, and an orderly stop on Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Protocol

from hwbench.execute.supervise import Sink, supervise
from hwbench.job import AccuracyWork, Job


class Progress(Protocol):
    """Shows what is going on."""

    def begin(self, title: str, total: int) -> None:
        """A round of ``total`` steps starts."""

    def advance(self, steps: int) -> None:
        """Steps were done."""


class Engine(Protocol):
    """Where the jobs of a round run, if not here."""

    def run(self, jobs: Iterable[Job], sink: Sink, stop: Stop, progress: Progress) -> None:
        """Do all jobs; what cannot be done is left open, and ``stop`` is requested."""


class Stop:
    """Ctrl-C once: workers stop after the trial in hand. Twice: they are killed at once."""

    def __init__(self) -> None:
        self.requests = 0
        self.now, self._at_once = os.pipe()  # ``now`` is readable once workers are to be killed

    def __bool__(self) -> bool:
        return self.requests > 0

    def request(self) -> None:
        """Ask to stop; asking again asks to stop at once."""
        self.requests += 1
        if self.requests > 1:
            os.write(self._at_once, b"!")

    @contextmanager
    def listening(self, announce: Callable[[int], None]) -> Iterator[Stop]:
        """Count SIGINT and SIGTERM while a sweep runs (only the main thread can)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def handle(_: int, __: FrameType | None) -> None:
            self.request()
            announce(self.requests)

        before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def steps(job: Job) -> int:
    """How many steps of progress a job is."""
    return job.work.n_trials if isinstance(job.work, AccuracyWork) else 1


def run_round(
    title: str,
    jobs: Iterable[Job],
    sink: Sink,
    *,
    workers: int,
    stop: Stop,
    progress: Progress,
    engine: Engine | None = None,
    total: int | None = None,
) -> None:
    """Do all jobs; a worker's death is a row, anything else that goes wrong is raised.

    Args:
        title: shown beside the progress.
        jobs: that need not see each other's results, in the order they start. They are taken as
            workers get free, so that many may be made while others run.
        sink: where rows go.
        workers: how many jobs run at a time; 1 for latency.
        stop: asked between trials.
        progress: told about trials.
        engine: where jobs run; default: threads here, one process each.
        total: steps of all jobs; default: counted, for which all of them are made at once.
    """
    if total is None:
        jobs = list(jobs)
        total = sum(map(steps, jobs))
    progress.begin(title, total)
    if engine is not None:
        engine.run(jobs, sink, stop, progress)
        return
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        started = (pool.submit(_one, job, sink, stop, progress) for job in jobs if not stop)
        _drain(started, 2 * workers, stop)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one(job: Job, sink: Sink, stop: Stop, progress: Progress) -> None:
    if stop:
        return
    supervise(job, sink, stop, progress.advance)
    if not isinstance(job.work, AccuracyWork):
        progress.advance(1)


def _drain(started: Iterator[Future[None]], most: int, stop: Stop) -> None:
    """Start jobs, at most ``most`` ahead of what has ended, and wait for all."""
    pending = set(islice(started, most))
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                future.result()
            except BaseException:
                stop.request()  # the other workers end after the trial in hand
                for each in pending:
                    each.cancel()
                raise
        pending |= set(islice(started, most - len(pending)))
