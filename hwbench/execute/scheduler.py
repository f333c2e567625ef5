"""A connection to a dask scheduler that is safe to use: dask runs what arrives over it."""

from __future__ import annotations

import asyncio
import ipaddress
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from hwbench.errors import RequestError

CONNECT_S = 10


@dataclass(frozen=True)
class Tls:
    """Certificate files: the authority that both ends trust, and our own."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __bool__(self) -> bool:
        return any((self.ca, self.cert, self.key))


def check_address(address: str, tls: Tls, insecure: bool) -> None:
    """Refuse to talk to another machine without TLS.

    Raises:
        RequestError: the connection would be open to anybody on its way.
    """
    scheme, _, rest = address.rpartition("://")
    scheme = scheme or "tcp"
    if scheme in ("tls", "wss"):
        return
    if tls:
        hint = f"give tls://{rest}, or drop the certificates."
        raise RequestError(f"certificates do not go with {scheme}://.", where=address, hint=hint)
    if insecure or _loopback(urlsplit(f"//{rest}").hostname or ""):
        return
    raise RequestError(
        "is another machine, without TLS: whoever reaches its port runs code on every board.",
        where=address,
        hint="use tls:// with certificates (docs/cluster.md), or --insecure on a closed network.",
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def client_of(address: str, tls: Tls, *, insecure: bool) -> Any:
    """A dask client that is connected.

    Args:
        address: ``tls://HOST:PORT`` or ``tcp://HOST:PORT``.
        tls: certificates; what is left out comes from dask's own configuration.
        insecure: whether another machine may be reached without TLS.

    Raises:
        RequestError: the scheduler cannot be reached, is not safe to talk to, or repeats jobs by
            itself.
    """
    check_address(address, tls, insecure)
    try:
        from distributed import Client, Security
    except ModuleNotFoundError as error:
        hint = 'pip install "hwbench[cluster]".'
        raise RequestError(f"{error.name} is not installed.", where="dask", hint=hint) from None
    given = {"tls_ca_file": tls.ca, "tls_client_cert": tls.cert, "tls_client_key": tls.key}
    known = {name: value for name, value in given.items() if value}
    try:
        security = Security(require_encryption=address.startswith(("tls:", "wss:")), **known)
        _knock(address, security)
        client = Client(address, security=security, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TypeError, ValueError) as error:
        what = f"no scheduler answers ({' '.join(str(error).split())[:300]})."
        hint = "is it running, and are the certificates those of its authority?"
        raise RequestError(what, where=address, hint=hint) from None
    try:
        _check_scheduler(client, address)
    except BaseException:
        client.close()
        raise
    return client


def _knock(address: str, security: Any) -> None:
    """Connect once and leave: a client that cannot connect leaves threads behind.

    Raises:
        OSError: nobody is there, or one end does not trust the other.
    """
    from distributed.comm import connect

    async def there_and_back() -> None:
        arguments = security.get_connection_args("client")
        comm = await connect(address, timeout=CONNECT_S, **arguments)
        await comm.close()

    with ThreadPoolExecutor(1) as apart:  # the caller may have an event loop of its own
        apart.submit(asyncio.run, there_and_back()).result()


def _check_scheduler(client: Any, address: str) -> None:
    """Dask must not decide what a job's end means: it would run a deadly job on board after board.

    Raises:
        RequestError: the scheduler repeats tasks of dead workers, or does not tell.
    """
    import dask

    hint = "start it with DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0."
    try:
        found = client.run_on_scheduler(dask.config.get, "distributed.scheduler.allowed-failures")
    except (OSError, ValueError, KeyError) as error:
        what = f"does not tell its allowed-failures ({error})."
        raise RequestError(what, where=address, hint=hint) from None
    if found != 0:
        what = f"repeats the tasks of dead workers (allowed-failures: {found})."
        raise RequestError(what, where=address, hint=hint)
