"""Places where a test may have the process killed, to prove what a crash there costs.

``HWBENCH_FAILPOINT=records:synced`` kills it at the first such place, ``records:synced#3`` at the
third. Unset, which is always but in tests, a place costs a look at the environment.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "HWBENCH_FAILPOINT"


def hit(name: str) -> None:
    """The process passes a place; SIGKILL if this is the one asked for."""
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return
    wanted, _, times = asked.partition("#")
    if wanted != name:
        return
    if times and int(times) > 1:
        os.environ[VARIABLE] = f"{wanted}#{int(times) - 1}"
        return
    os.kill(os.getpid(), signal.SIGKILL)
