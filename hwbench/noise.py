"""The noise floor of this machine: what two equal environments differ by (A/A).

Equal environments are measured as a sweep measures different ones. The floor is kept per machine;
no verdict and no gate on latency can be tighter than it.
"""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as distributions

from hwbench import collect, fingerprint, plan, stats, sweep
from hwbench.errors import RequestError
from hwbench.execute import Progress, Stop
from hwbench.registry import backend, missing_modules
from hwbench.spec import Spec
from hwbench.store import write_durably

ARMS = 4
CONFIDENCE = 0.95
PREFERRED = ("onnxruntime", "openvino", "torch")  # the quickest to start first


def measure(
    progress: Progress, stop: Stop, *, processes: int = 10, duration_s: float = 1.0
) -> dict[str, Any]:
    """Measure the floor with the built-in model and keep it for this machine.

    Args:
        progress: told about processes.
        stop: asked between them.
        processes: fresh processes of each of ``ARMS`` equal environments.
        duration_s: of timed calls in each.

    Returns:
        What ``known`` gives from now on.

    Raises:
        RequestError: no runtime is installed, it was stopped, or nothing could be measured.
    """
    with tempfile.TemporaryDirectory(prefix="hwbench-noise-") as folder:
        options = sweep.Options(output=Path(folder) / "run")
        store = sweep.start(_spec(processes, duration_s), options, progress, stop)
        if stop:
            raise RequestError("stopped before the noise floor was known.")
        rows = [each for each in store.read("processes").to_pylist() if each["kind"] == "latency"]
        table = collect.collect(store)["latency"].to_dict("records")
    found = floor([each for each in rows if each["outcome"] == "ok"])
    reasons = sorted({row["trust_reasons"] for row in table if row["trust"] == "unstable"})
    found |= {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "trust": "unstable" if reasons else "trustworthy",
        "trust_reasons": reasons,
    }
    write_durably(_path(create=True), json.dumps(found, indent=2, sort_keys=True).encode())
    return found


def known() -> dict[str, Any] | None:
    """This machine's floor, or ``None`` where it was never measured or cannot be read."""
    try:
        found: dict[str, Any] = json.loads(_path().read_text())
    except (OSError, ValueError):
        return None
    return found


def floor(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The floor from rows of ``processes`` of equal environments.

    Arms are compared within their blocks' mean, so that a machine that gets slower from block to
    block does not count as spread: interleaving takes that out of comparisons too.

    Returns:
        ``spread`` (standard deviation of log medians between processes), ``spread_high`` (its 95 %
        upper limit, by chi-square), ``floor`` (the least slowdown, as a share, that as many
        processes as were measured find 4 times in 5), the same for 5 and 10 processes, the largest
        difference of two equal arms that was seen (``largest``), ``processes`` and ``p50_ms``.

    Raises:
        RequestError: fewer than two arms or three processes gave numbers.
    """
    arms: dict[str, list[float]] = {}
    for each in rows:
        arms.setdefault(each["environment"], []).append(each["latency_p50_ms"])
    count = min(map(len, arms.values()), default=0)
    if len(arms) < 2 or count < stats.MINIMUM_PROCESSES:
        raise RequestError("too few processes gave a latency.", hint="see `hwbench doctor`.")
    logs = np.log(np.array([values[:count] for values in arms.values()]))
    spread, freedom = _spread(logs)
    high = spread * float(np.sqrt(freedom / distributions.chi2.ppf(1 - CONFIDENCE, freedom)))
    means = logs.mean(axis=1)
    return {
        "floor": stats.noise_ratio(spread, count) - 1,
        "floor_5_processes": stats.noise_ratio(spread, 5) - 1,
        "floor_10_processes": stats.noise_ratio(spread, 10) - 1,
        "spread": spread,
        "spread_high": high,
        "largest": float(np.exp(means.max() - means.min()) - 1),
        "arms": len(arms),
        "processes": count,
        "p50_ms": float(np.exp(logs.mean())),
    }


def _spread(logs: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Standard deviation within arms, and its degrees of freedom; shape (arms, processes)."""
    freedom = logs.shape[0] * (logs.shape[1] - 1)
    return float(np.sqrt(logs.var(axis=1, ddof=1).mean())), freedom


def _spec(processes: int, duration_s: float) -> Spec:
    usable = [name for name in PREFERRED if not missing_modules(backend(name))]
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


def _path(create: bool = False) -> Path:
    folder = plan.cache_folder() / "noise"
    if create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"the cache cannot be written ({error.strerror})."
            hint = "set HWBENCH_CACHE to a writable folder."
            raise RequestError(what, where=str(folder), hint=hint) from error
    return folder / f"{fingerprint.machine()['fingerprint']}.json"
