"""hwbench from Python: start a sweep, read a run.

    run = hwbench.sweep({"model": {"onnx": "m.onnx"}, "data": {"npz": "d.npz"}, ...})
    run.table("drift")

Tables are pandas frames; docs/tables.md says what every column means.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import RequestError
from hwbench.spec import Spec, load, load_mapping
from hwbench.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from hwbench.execute import Progress, Stop

AnyPath = str | os.PathLike[str]


class Run:
    """One run folder, read and never written.

    What is read is kept: a sweep that still goes on is seen anew by another ``Run``.

    Args:
        folder: that a sweep named at its end.

    Raises:
        RequestError: there is no run, or one of another version's schema.
    """

    def __init__(self, folder: AnyPath) -> None:
        self._store = Store.open(Path(folder))

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self._store.folder

    @cached_property
    def spec(self) -> Spec:
        """The resolved spec."""
        from hwbench.runfile import read_spec

        return read_spec(self._store)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """run.json: versions, machine, seed, digests of model and data, budget."""
        content: dict[str, Any] = self._store.read_json("run.json")
        return content

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """plan.json: environments, cases, the baseline, and why cells were refused."""
        content: dict[str, Any] = self._store.read_json("plan.json")
        return content

    @property
    def complete(self) -> bool:
        """Whether the sweep came to its end; if not, ``hwbench.resume`` goes on."""
        return bool(self.plan["complete"])

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Every table by name, made from the stored rows; one row per planned cell."""
        from hwbench.collect import collect

        return collect(self._store)

    def table(self, name: str) -> pd.DataFrame:
        """A table: ``cells``, ``drift``, ``latency``, ...; docs/tables.md has them all.

        Raises:
            RequestError: there is no table of that name.
        """
        from hwbench.collect import TABLES

        _check_name(name, TABLES, "table")
        return self.tables[name]

    def rows(self, part: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Stored rows as they were written: ``records``, ``processes``, ``faults``, ...

        Args:
            part: which; "Stored rows" in docs/tables.md has them all.
            columns: some of its columns; all if absent.

        Raises:
            RequestError: there is no such part.
        """
        from hwbench.record import PARTS

        _check_name(part, PARTS, "part")
        frame: pd.DataFrame = self._store.read(part, columns).to_pandas()
        return frame


def sweep(
    spec: AnyPath | Mapping[str, Any] | Spec,
    *,
    output: AnyPath | None = None,
    allow_code: bool = False,
    workers: int | None = None,
    cache: AnyPath | None = None,
    progress: bool = False,
) -> Run:
    """Run a sweep to its end, tables and report included.

    Args:
        spec: a YAML file, the same as a mapping (relative paths are then taken from the working
            directory), or a ``Spec``.
        output: run folder; default: ``results/runs/<name>-<UTC time>``.
        allow_code: run factories and functions that the spec names.
        workers: accuracy jobs at a time; default: as many as fit side by side.
        cache: folder of built artifacts; default: ``HWBENCH_CACHE`` or the user's cache.
        progress: show it on standard error.

    Raises:
        RequestError: the spec cannot be run, or the folder cannot be written.
        KeyboardInterrupt: on Ctrl-C, after the trials in hand; ``resume`` goes on.
    """
    from hwbench import engine

    options = engine.Options(allow_code, _path(output), workers, _path(cache))
    chosen = _spec(spec)
    return _followed(progress, lambda shown, stop: engine.start(chosen, options, shown, stop))


def resume(
    run: Run | AnyPath,
    *,
    allow_code: bool = False,
    workers: int | None = None,
    cache: AnyPath | None = None,
    progress: bool = False,
) -> Run:
    """Finish a run that was stopped; the arguments are those of ``sweep``.

    Raises:
        RequestError: no run there, or its model or data have changed since.
        KeyboardInterrupt: on Ctrl-C, as in ``sweep``.
    """
    from hwbench import engine

    folder = run.folder if isinstance(run, Run) else Path(run)
    options = engine.Options(allow_code, None, workers, _path(cache))
    return _followed(progress, lambda shown, stop: engine.resume(folder, options, shown, stop))


def _spec(given: AnyPath | Mapping[str, Any] | Spec) -> Spec:
    if isinstance(given, Spec):
        return given
    return load_mapping(given) if isinstance(given, Mapping) else load(Path(given))


def _path(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)


def _check_name(name: str, known: Mapping[str, object], what: str) -> None:
    from hwbench.registry import nearest

    if name not in known:
        raise RequestError(f"there is no {what} {name!r}.", hint=nearest(name, known))


def _followed(shown: bool, work: Callable[[Progress, Stop], Store]) -> Run:
    """Do it, listening for Ctrl-C, and write its tables and pages."""
    from hwbench.collect import write
    from hwbench.execute import Stop
    from hwbench.report import pages
    from hwbench.report.progress import Live

    stop = Stop()
    with Live(quiet=not shown) as live, stop.listening(lambda times: None):
        store = work(live, stop)
    run = Run(store.folder)
    write(store, run.tables)
    pages.write(store, run.tables)
    if stop:
        raise KeyboardInterrupt(f"stopped; hwbench.resume({str(store.folder)!r}) goes on")
    return run
