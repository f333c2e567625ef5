"""Mean corruption errors from cells of ImageNet-C's kinds at severities 1 to 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.record import Row

_LEVELS = range(1, 6)
_IMAGENET = (1000, 1001)  # with or without a background class


@dataclass
class Errors:
    """Top-1 errors of one environment: clean, and by kind and level of corruption."""

    clean: float | None = None
    levels: dict[str, dict[int, float]] = field(default_factory=dict)

    def take(self, case: Mapping[str, Any], accuracy: float) -> None:
        """Remember a case's error, if it is clean or one corruption alone."""
        error = 1.0 - accuracy
        if case["id"] == "clean":
            self.clean = error
        kinds = case.get("kinds", [])
        if len(kinds) == 1 and kinds[0][0] == "corruption":
            self.levels.setdefault(kinds[0][1], {})[int(case["severity"])] = error

    @property
    def whole(self) -> dict[str, list[float]]:
        """Kinds with all five levels, in their order."""
        return {
            kind: [found[level] for level in _LEVELS]
            for kind, found in self.levels.items()
            if set(found) == set(_LEVELS)
        }


def table(
    errors: Mapping[tuple[str, str], Errors],
    classes: Mapping[tuple[str, str], int | None],
    baseline: str,
) -> list[Row]:
    """A row per environment with at least one whole kind.

    Args:
        errors: by model and environment.
        classes: of the scored output, where the model tells.
        baseline: the environment whose errors stand in AlexNet's place.
    """
    return [
        _row(place, found, errors.get((place[0], baseline)), classes.get(place), baseline)
        for place, found in errors.items()
        if found.whole
    ]


def _row(
    place: tuple[str, str], found: Errors, base: Errors | None, classes: int | None, baseline: str
) -> Row:
    whole = found.whole
    missing = sorted(set(stats.ALEXNET_MEAN_ERROR) - set(whole))
    applies = not missing and classes in _IMAGENET
    row: Row = {
        "model": place[0],
        "environment": place[1],
        "kinds": len(whole),
        "of_15": ", ".join(missing) or None,
        "mean_error": float(np.mean(list(whole.values()))),
        "clean_error": found.clean,
        "mce_alexnet_percent": stats.mean_corruption_error(whole) if applies else None,
        "reference": baseline,
    }
    return row if base is None else row | _relative(whole, found.clean, base)


def _relative(whole: dict[str, list[float]], clean: float | None, base: Errors) -> Row:
    """Against the baseline, over the kinds that both have; an error of 0 divides nothing."""
    theirs = {kind: float(np.mean(each)) for kind, each in base.whole.items()}
    shared = {kind: each for kind, each in whole.items() if theirs.get(kind)}
    if not shared:
        return {}
    row: Row = {"mce_baseline_percent": stats.mean_corruption_error(shared, theirs)}
    if clean is not None and base.clean is not None:
        relative = stats.relative_mean_corruption_error(shared, clean, theirs, base.clean)
        row["relative_mce_baseline_percent"] = None if np.isnan(relative) else relative
    return row
