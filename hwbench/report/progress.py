"""Live progress of a sweep on standard error."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Live:
    """One bar a round; without a terminal, one line a round."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bars = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def begin(self, title: str, total: int) -> None:
        """A round of ``total`` steps starts."""
        if self._bars.disable:
            self._console.print(f"{title}: {total} to do", highlight=False)
        if self._task is not None:
            self._bars.stop_task(self._task)
        self._task = self._bars.add_task(title, total=total)

    def advance(self, steps: int) -> None:
        """Steps were done. Called from several threads."""
        if self._task is not None:
            self._bars.advance(self._task, steps)

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
