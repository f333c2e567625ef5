"""What this machine offers: runtimes, devices, precisions. Each runtime is asked in a process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench import fingerprint, noise, registry
from hwbench.errors import RequestError
from hwbench.scenario import Condition

if TYPE_CHECKING:
    from hwbench.execute import Progress, Stop
    from hwbench.spec import Spec

TIMEOUT_S = 120
ARMS = 4  # equal environments for the noise floor
PREFERRED = ("onnxruntime", "openvino", "torch")  # the quickest to start first


def examine() -> dict[str, Any]:
    """Machine, versions and every registered backend's own account."""
    from hwbench.execute import emulation  # the probes of single runtimes need nothing of it

    names = registry.names(registry.BACKENDS)
    with ThreadPoolExecutor(max_workers=fingerprint.cores()) as pool:
        backends = dict(zip(names, pool.map(_ask, names), strict=True))
    return {
        "machine": fingerprint.machine(),
        "versions": fingerprint.versions(),
        "backends": backends,
        "conditions": _conditions(),
        "boards": {name: asdict(each) for name, each in emulation.abilities().items()},
        "noise": noise.known(),
    }


def noise_floor(
    progress: Progress, stop: Stop, *, processes: int = 10, duration_s: float = 1.0
) -> dict[str, Any]:
    """Measure the floor with the built-in model and keep it for this machine.

    Args:
        progress: told about processes.
        stop: asked between them.
        processes: fresh processes of each of ``ARMS`` equal environments.
        duration_s: of timed calls in each.

    Returns:
        What ``noise.known`` gives from now on.

    Raises:
        RequestError: no runtime is installed, it was stopped, or too little could be measured.
    """
    # The probes of single runtimes start this module too, and need nothing of this.
    from hwbench import engine
    from hwbench.collect import trust

    with tempfile.TemporaryDirectory(prefix="hwbench-noise-") as folder:
        options = engine.Options(output=Path(folder) / "run")
        store = engine.start(_noise_spec(processes, duration_s), options, progress, stop)
        if stop:
            raise RequestError("stopped before the noise floor was known.")
        told = store.read("processes").to_pylist()
    rows = [each for each in told if (each["kind"], each["outcome"]) == ("latency", "ok")]
    wrong = trust.findings(rows, constrained=False, perturbed=False)
    found = {
        **noise.floor(rows),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "trust": trust.verdict(wrong),
        "trust_reasons": list(map(str, wrong)),
    }
    noise.keep(found)
    return found


def _noise_spec(processes: int, duration_s: float) -> Spec:
    from hwbench.spec import Spec

    usable = [n for n in PREFERRED if not registry.missing_modules(registry.backend(n))]
    if not usable:
        hint = 'install one: pip install "hwbench[onnxruntime]".'
        raise RequestError("no runtime is installed.", hint=hint)
    arms = [{"backend": usable[0], "label": f"same{index}"} for index in range(ARMS)]
    return Spec.model_validate(
        {
            "name": "noise",
            "model": {"builtin": "digits-cnn"},
            "data": {"builtin": "digits", "limit": 512},
            "environments": arms,
            "latency": {"processes": processes, "min_duration_s": duration_s, "batch": 64},
        }
    )


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
