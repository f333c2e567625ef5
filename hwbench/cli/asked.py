"""Command-line arguments as a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import RequestError

if TYPE_CHECKING:
    from hwbench.spec import Spec


def overrides(
    model: Path | None,
    data: Path | None,
    calibration: Path | None,
    labels: str | None,
    budget: str | None,
    seed: int | None,
) -> dict[str, Any]:
    """Command-line values as spec keys, with paths from the working directory."""
    found: dict[str, Any] = {}
    if model is not None:
        from hwbench.model import by_name

        found |= {"model": by_name(str(model)), "name": model.stem}
    if data is not None:
        found["data"] = _data_override(data.resolve(), calibration, labels)
    elif calibration or labels:
        raise RequestError("--calibration and --labels belong to --data.", hint="add --data FILE.")
    if budget is not None:
        found["budget"] = budget
    if seed is not None:
        found["seed"] = seed
    return found


def _data_override(data: Path, calibration: Path | None, labels: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"npz": str(data)}
    if calibration is not None:
        found["calibration"] = str(calibration.resolve())
    if labels is not None:
        found["labels"] = labels
    return found


def chosen_spec(spec: str | None, overrides: dict[str, Any]) -> Spec:
    """The spec, suite or default that is asked for, with ``overrides`` in place of its keys.

    Raises:
        RequestError: it cannot be read, or says what cannot be.
    """
    from hwbench import registry
    from hwbench.spec import load, load_default, load_suite

    if spec is None:
        return _found_here(load_default({"model": {"builtin": "digits-cnn"}, **overrides}))
    if spec in registry.suites() and not Path(spec).exists():
        if "model" not in overrides:
            overrides = {"model": {"builtin": "digits-cnn"}, **overrides}
        return load_suite(spec, overrides)
    loaded = load(Path(spec))
    # What the spec leaves out stays so: it has other defaults than a value that is given.
    return type(loaded).model_validate({**loaded.model_dump(exclude_unset=True), **overrides})


def _found_here(spec: Spec) -> Spec:
    """The default sweep leaves out runtimes that are not installed."""
    from hwbench import registry

    kept = [
        entry
        for entry in spec.environments
        if not any(registry.missing_modules(registry.backend(name)) for name in entry.backend)
    ]
    if not kept:
        hint = 'install one: pip install "hwbench[onnxruntime]".'
        raise RequestError("no runtime is installed.", hint=hint)
    return spec.model_copy(update={"environments": kept})
