"""What this machine offers: runtimes, devices, precisions. Each runtime is asked in a process."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from hwbench import fingerprint, registry
from hwbench.scenario import Condition

TIMEOUT_S = 120


def examine() -> dict[str, Any]:
    """Machine, versions and every registered backend's own account."""
    names = registry.names(registry.BACKENDS)
    with ThreadPoolExecutor(max_workers=fingerprint.cores()) as pool:
        backends = dict(zip(names, pool.map(_ask, names), strict=True))
    return {
        "machine": fingerprint.machine(),
        "versions": fingerprint.versions(),
        "backends": backends,
        "conditions": _conditions(),
    }


def _conditions() -> dict[str, Any]:
    """What every registered condition can be enforced by here."""
    kinds = {name: registry.scenario(name) for name in registry.names(registry.SCENARIOS)}
    return {
        name: {each: asdict(found) for each, found in kind.abilities().items()}
        for name, kind in kinds.items()
        if issubclass(kind, Condition)
    }


def _ask(name: str) -> dict[str, Any]:
    """A probe in a fresh process: a broken runtime cannot break the doctor."""
    adapter = registry.backend(name)
    missing = registry.missing_modules(adapter)
    if missing:
        return {"state": "missing", "hint": registry.install_hint(adapter)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hwbench.doctor", name],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"state": "broken", "error": f"no answer within {TIMEOUT_S} s"}
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"state": "broken", "error": lines[-1] if lines else f"exit {done.returncode}"}
    return {"state": "found", **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Probe one backend and print it as JSON."""
    print(json.dumps(asdict(registry.backend(sys.argv[1]).probe())))


if __name__ == "__main__":
    main()
