"""The noise floor of this machine: what two equal environments differ by (A/A).

Equal environments are measured as a sweep measures different ones (``hwbench.doctor.noise_floor``).
The floor is kept per machine; no verdict and no gate on latency can be tighter than it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as distributions

from hwbench import fingerprint, plan, stats
from hwbench.durable import write_durably
from hwbench.errors import RequestError
from hwbench.stats.latency import MINIMUM_PROCESSES

CONFIDENCE = 0.95


def known() -> dict[str, Any] | None:
    """This machine's floor, or ``None`` where it was never measured or cannot be read."""
    try:
        found: dict[str, Any] = json.loads(_path().read_text())
    except (OSError, ValueError):
        return None
    return found


def floor(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The floor from rows of ``processes`` of equal environments.

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
    if len(arms) < 2 or count < MINIMUM_PROCESSES:
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


def keep(found: dict[str, Any]) -> None:
    """Have ``known`` give this from now on.

    Raises:
        RequestError: the cache cannot be written.
    """
    write_durably(_path(create=True), json.dumps(found, indent=2, sort_keys=True).encode())


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
