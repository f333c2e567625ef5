"""Places where a test may have a process killed, to prove what a crash there costs.

``HWBENCH_FAILPOINT=records:synced`` kills at the first such place, ``records:synced#3`` at the
third of a process. With ``@FILE`` behind it only the first process that gets there is killed, which
makes the file. Unset, which is always but in tests, a place costs a look at the environment.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "HWBENCH_FAILPOINT"


def hit(name: str) -> None:
    """The process passes a place; SIGKILL if this is the one asked for."""
    asked = os.environ.get(VARIABLE)
    if asked is None or asked.partition("@")[0].partition("#")[0] != name:
        return
    place, _, marker = asked.partition("@")
    times = int(place.partition("#")[2] or 1)
    if times > 1:
        os.environ[VARIABLE] = f"{name}#{times - 1}" + (f"@{marker}" if marker else "")
    elif not marker or _first(Path(marker)):
        os.kill(os.getpid(), signal.SIGKILL)


def _first(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
