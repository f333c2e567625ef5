"""A rack of boards behind a dask scheduler: jobs to boards with the right tags, rows back.

One dask worker is one board with one slot. Which board does which job is decided here, one job a
board, and dask carries it there: so its queue holds nothing that a board's death could take along,
a late board is used at once, and the order of latency jobs stays. Rows are committed while they
arrive; when a board is lost, what is left of its job goes to another one.
"""

from __future__ import annotations

import hashlib
import json
import queue
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwbench import __version__, fingerprint
from hwbench.errors import RequestError
from hwbench.execute import board as remote
from hwbench.execute.blobs import Hashes
from hwbench.execute.boards import SLOT, START, Board, check_slot, home, introduced
from hwbench.execute.desk import MAX_LOSSES, POLL_S, Desk, Item
from hwbench.execute.following import Following, Inbox
from hwbench.execute.link import Link, Lost
from hwbench.execute.parcel import pack
from hwbench.execute.pool import Progress, Stop
from hwbench.execute.scheduler import Tls, client_of
from hwbench.execute.supervise import Sink
from hwbench.job import Job
from hwbench.plan import Plan
from hwbench.record import Row
from hwbench.seeds import canonical

PATIENCE_S = 60.0  # how long jobs wait for a board when none that suits is left


def connect(
    address: str, tls: Tls, *, insecure: bool, tell: Callable[[str], None] = lambda text: None
) -> Rack:
    """The rack behind a scheduler; see ``scheduler.client_of``.

    Args:
        address: ``tls://HOST:PORT`` or ``tcp://HOST:PORT``.
        tls: certificates.
        insecure: whether another machine may be reached without TLS.
        tell: takes lines about boards that come and go.

    Raises:
        RequestError: it cannot be reached, or is not safe to use.
    """
    return Rack(client_of(address, tls, insecure=insecure), address, tell)


@dataclass(frozen=True)
class _Round:
    """What the lanes of a round share."""

    desk: Desk
    sink: Sink
    stop: Stop
    progress: Progress


class Rack:
    """Boards behind a scheduler, as what ``run_round`` runs jobs on."""

    def __init__(self, client: Any, address: str, tell: Callable[[str], None]) -> None:
        self.address = address
        self.patience_s = PATIENCE_S
        self._client = client
        self._tell = tell
        self._boards: dict[str, Board] = {}  # those connected now, by address
        self._met: dict[str, dict[str, Any]] = {}  # machines of all that did a job
        self._ignored: set[str] = set()
        self._kinds: dict[str, str] = {}  # by environment: the kind of board it is at home on
        self._inboxes: dict[str, Inbox] = {}
        self._hashes = Hashes()
        client.subscribe_topic(remote.TOPIC, self._deliver)

    def close(self) -> None:
        """Leave the scheduler; boards stop what they do for us."""
        self._client.close()

    def machines(self) -> dict[str, dict[str, Any]]:
        """What is known of the machines that did jobs, by fingerprint."""
        return self._met

    @property
    def size(self) -> int:
        """Boards connected now."""
        return len(self._boards)

    # Which board for what

    def place(self, plan: Plan) -> Plan:
        """Find every environment a home, and tell the plan that it is not this machine.

        Raises:
            RequestError: no board has an environment's tags, or those that have differ.
        """
        self._look(strict=True)
        if not self._boards:
            raise RequestError("no board is connected.", where=self.address, hint=f"start {START}.")
        boards = list(self._boards.values())
        homes = {each.environment.id: home(each.environment, boards) for each in plan.deployments}
        self._kinds = {name: each.kind for name, each in homes.items()}
        deployments = tuple(
            replace(each, artifact=_built_there(each.artifact, homes[each.environment.id]))
            for each in plan.deployments
        )
        return replace(plan, deployments=deployments, elsewhere=True)

    def check_resumed(self, processes: Sequence[Row]) -> None:
        """Refuse to go on where other machines would do the rest of an environment.

        Args:
            processes: rows with ``kind``, ``environment``, ``outcome`` and ``machine``.

        Raises:
            RequestError: an environment was begun on a machine that is not its home now.
        """
        homes = {board.kind: board for board in self._boards.values()}
        for each in processes:
            now = homes.get(self._kinds.get(each["environment"], ""))
            begun = each["kind"] == "accuracy" and each["outcome"] == "ok" and each["machine"]
            if now is not None and begun and each["machine"] != now.mark:
                raise RequestError(
                    f"{each['environment']} was begun on machine {each['machine']}, but board"
                    f" {now.name} is {now.mark}.",
                    where=self.address,
                    hint="connect a board of that kind, or start a new run.",
                )

    def _suits(self, board: Board) -> Callable[[Job], bool]:
        def suits(job: Job) -> bool:
            kind = self._kinds.get(job.environment.id, board.kind)
            return board.has(job.environment.tags) and kind == board.kind

        return suits

    def _look(self, *, strict: bool = False) -> None:
        """Learn which boards are connected.

        Raises:
            RequestError: the scheduler is gone; or, if ``strict``, a board is not as it should be.
        """
        workers = self._workers()
        found = {
            address: self._boards.get(address) or self._met_now(address, told, strict)
            for address, told in workers.items()
            if SLOT in told["resources"] and address not in self._ignored
        }
        gone = [each.name for address, each in self._boards.items() if address not in found]
        self._boards = {address: each for address, each in found.items() if each is not None}
        for name in gone:
            self._tell(f"board {name} is gone")

    def _workers(self) -> Mapping[str, Any]:
        """What the scheduler knows of its workers, ours or not, by address.

        Raises:
            RequestError: it does not answer any more.
        """
        try:
            told = self._client.scheduler_info()
        except (OSError, TimeoutError):
            told = {}
        if "workers" not in told:  # the client gave it up
            hint = "start it again, and go on with --resume."
            raise RequestError("the scheduler is gone.", where=self.address, hint=hint)
        workers: Mapping[str, Any] = told["workers"]
        return workers

    def _met_now(self, address: str, told: Mapping[str, Any], strict: bool) -> Board | None:
        """A board that was not there before; later ones that are not as they should be stay out."""
        name = str(told["name"])
        try:
            check_slot(name, told)
            board = introduced(address, name, told, self._described(address, name))
        except Lost:
            return None
        except RequestError as error:
            if strict:
                raise
            self._ignored.add(address)
            self._tell(f"ignored: {error.line()}")
            return None
        if not strict:
            self._tell(f"board {name} is there ({', '.join(sorted(board.tags)) or 'no tags'})")
        return board

    def _described(self, address: str, name: str) -> dict[str, Any]:
        try:
            said: dict[str, Any] = Link(self._client, address, name).call(remote.describe)
        except (ImportError, AttributeError) as error:
            what, hint = f"has no such hwbench ({error}).", f"install hwbench {__version__} there."
            raise RequestError(what, where=f"board {name}", hint=hint) from None
        return said

    # Rounds

    def run(self, jobs: Iterable[Job], sink: Sink, stop: Stop, progress: Progress) -> None:
        """Do all jobs, whatever boards come and go; what no board is left for stays open.

        Raises:
            RequestError: the scheduler is gone, or a board cannot do what it is for.
        """
        work = _Round(Desk(jobs), sink, stop, progress)
        lanes: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(max_workers=1024, thread_name_prefix="hwbench-board") as pool:
            try:
                self._attend(work, lanes, pool)
            except BaseException:
                stop.request()
                raise
        _raise_any(lanes)
        if work.desk.given_up:
            self._tell(_left_open(work.desk.given_up))
            stop.request()

    def _attend(
        self, work: _Round, lanes: dict[str, Future[None]], pool: ThreadPoolExecutor
    ) -> None:
        """Keep every board busy while there is work for it."""
        desk, alone_s = work.desk, 0.0
        while (desk.open and not work.stop) or not all(each.done() for each in lanes.values()):
            self._look()
            for address, board in self._boards.items():
                idle = address not in lanes or lanes[address].done()
                if idle and not work.stop and desk.suits(self._suits(board)):
                    lanes[address] = pool.submit(self._lane, board, work)
            alone_s = 0.0 if desk.in_hand or self._hope(desk) else alone_s + POLL_S
            if alone_s > self.patience_s:
                desk.give_up()
            desk.wait()
            _raise_any(lanes)

    def _hope(self, desk: Desk) -> bool:
        return any(desk.suits(self._suits(board)) for board in self._boards.values())

    def _lane(self, board: Board, work: _Round) -> None:
        """One board's jobs, one after the other."""
        while not work.stop:
            item = work.desk.take(self._suits(board))
            if item is None:
                return
            try:
                self._delegate(board, item, work)
            except Lost as lost:
                work.desk.put_back(item, lost.began)
                return
            except BaseException:
                work.stop.request()
                work.desk.finished()
                raise
            work.desk.finished()

    def _delegate(self, board: Board, item: Item, work: _Round) -> None:
        """One job on one board, from its files to its rows.

        Raises:
            Lost: the board went away.
        """
        self._remember(board)
        link = Link(self._client, board.address, board.name)
        parcel = pack(item.left, self._hashes)
        link.send(parcel)
        resources = {SLOT: 1, **dict.fromkeys(item.job.environment.tags, 1)}
        executor = self._client.get_executor(
            workers=[board.address], allow_other_workers=False, resources=resources, pure=False
        )
        with self._attempt() as (token, inbox):
            future = executor.submit(
                remote.perform, json.dumps({**parcel.content, "token": token}).encode()
            )
            future.add_done_callback(lambda done: inbox.put(None))
            following = Following(
                link,
                lambda: board.address in self._boards,
                item,
                token,
                work.sink,
                work.stop,
                work.progress,
            )
            try:
                result = following.through(future, inbox)
            finally:
                if not future.done():
                    future.cancel()
        if result is not None:
            link.fetch(result["made"])
            following.commit()

    @contextmanager
    def _attempt(self) -> Iterator[tuple[str, Inbox]]:
        """A token whose messages arrive in an inbox; later ones reach nobody."""
        token, inbox = uuid.uuid4().hex, queue.SimpleQueue[Any]()
        self._inboxes[token] = inbox
        try:
            yield token, inbox
        finally:
            del self._inboxes[token]

    def _deliver(self, event: tuple[float, Any]) -> None:
        """Called in dask's thread for every message on our topic, other sweeps' included."""
        message = event[1]
        inbox = self._inboxes.get(message["token"]) if isinstance(message, dict) else None
        if inbox is not None:
            inbox.put(message)

    def _remember(self, board: Board) -> None:
        known = self._met.setdefault(board.mark, {**board.machine, "boards": {}})
        known["boards"][board.name] = dict(board.versions)


def _raise_any(lanes: Mapping[str, Future[None]]) -> None:
    for each in lanes.values():
        if each.done():
            each.result()


def _built_there(artifact: Path, board: Board) -> Path:
    """Where the artifact lies: other versions there may make other bytes of the same model."""
    if dict(board.versions) == fingerprint.versions():
        return artifact
    mark = hashlib.sha256(canonical(dict(board.versions)).encode()).hexdigest()[:8]
    return artifact.with_name(f"{artifact.name}-{mark}")


def _left_open(items: Sequence[Item]) -> str:
    names = ", ".join(sorted({each.job.environment.id for each in items}))
    lost = any(each.losses >= MAX_LOSSES for each in items)
    why = f"{MAX_LOSSES} boards were lost over one" if lost else "no board that suits is left"
    return f"jobs of {names} stay open: {why}"
