"""Options of ``hwbench sweep`` for a rack of boards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.errors import RequestError

if TYPE_CHECKING:
    from hwbench.execute.cluster import Rack


class Executor(StrEnum):
    """Where jobs run."""

    LOCAL = "local"
    DASK = "dask"


ExecutorOption = Annotated[
    Executor, typer.Option("--executor", help="local: here; dask: boards behind --scheduler.")
]
SchedulerOption = Annotated[
    str | None, typer.Option("--scheduler", help="dask: tls://HOST:PORT; see docs/cluster.md.")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="dask: another host without TLS, on a closed network.")
]
CaOption = Annotated[Path | None, typer.Option("--tls-ca-file", help="dask: whom to trust.")]
CertOption = Annotated[Path | None, typer.Option("--tls-cert", help="dask: our certificate.")]
KeyOption = Annotated[Path | None, typer.Option("--tls-key", help="dask: its private key.")]


@contextmanager
def chosen_rack(
    executor: Executor,
    scheduler: str | None,
    insecure: bool,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
) -> Iterator[Rack | None]:
    """The rack that was asked for while it is in use, or ``None`` to run here.

    Raises:
        RequestError: options that do not go together, or the rack cannot be used.
    """
    if executor is Executor.LOCAL:
        if scheduler or insecure or ca or cert or key:
            raise RequestError("--scheduler and --tls-* belong to a rack.", hint="--executor dask.")
        yield None
        return
    if scheduler is None:
        hint = "add --scheduler tls://HOST:PORT; see docs/cluster.md."
        raise RequestError("--executor dask needs its scheduler.", hint=hint)
    from hwbench.execute.cluster import connect
    from hwbench.execute.scheduler import Tls

    tls = Tls(*(str(each) if each else None for each in (ca, cert, key)))
    rack = connect(scheduler, tls, insecure=insecure, tell=_tell)
    try:
        yield rack
    finally:
        rack.close()


def _tell(text: str) -> None:
    typer.echo(f"hwbench: {text}", err=True)
