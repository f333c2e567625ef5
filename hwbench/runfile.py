"""What a run says of itself: spec.yaml, resolved, and run.json, its provenance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from hwbench import extending, files, fingerprint, noise
from hwbench.durable import write_durably
from hwbench.errors import RequestError
from hwbench.plan import Plan
from hwbench.record import SCHEMA_VERSION
from hwbench.score import METRICS
from hwbench.spec import Spec
from hwbench.store import Store


def write_spec(store: Store, spec: Spec) -> None:
    """Write the spec as it is run."""
    content = spec.model_dump(mode="json", exclude_none=True)
    for key in ("latency", "replay"):
        content[key] = content.get(key, False)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_durably(store.folder / "spec.yaml", text.encode())


def read_spec(store: Store) -> Spec:
    """What ``write_spec`` wrote, with the counts of all extensions.

    Raises:
        RequestError: the file is missing or damaged.
    """
    path = store.folder / "spec.yaml"
    try:
        spec = Spec.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        hint = "is this the folder of a run that had begun?"
        raise RequestError("cannot be read.", where=str(path), hint=hint) from error
    for each in store.read_json("run.json").get("extensions", []):
        spec = extending.extended(spec, each["counts"])
    return spec


def note_extension(store: Store, counts: Mapping[str, int]) -> None:
    """Write into run.json that counts were raised: from then on they are."""
    run = store.read_json("run.json")
    made = {"at": now(), "counts": dict(counts), "versions": fingerprint.versions()}
    store.write_json("run.json", {**run, "extensions": [*run.get("extensions", []), made]})


def check_same(store: Store, spec: Spec) -> None:
    """Refuse a spec that is not the run's, whatever its counts.

    Raises:
        RequestError: naming what has changed.
    """
    if extending.digest(spec) != store.read_json("run.json")["spec_hash"]:
        before, after = extending.uncounted(read_spec(store)), extending.uncounted(spec)
        raise RequestError(
            f"the spec has changed since this run began: {extending.difference(before, after)}.",
            where=str(store.folder),
            hint="restore it, or start a new run.",
        )


def write_provenance(store: Store, made: Plan) -> None:
    """Write run.json, with which a run begins."""
    store.write_json(
        "run.json",
        {
            "schema": SCHEMA_VERSION,
            "started": now(),
            "versions": fingerprint.versions(),
            "machine": fingerprint.machine(),
            "noise": noise.known(),
            "seed": made.spec.seed,
            "spec_hash": extending.digest(made.spec),
            "inputs": _inputs(made),
            "files": _files(made.spec),
            "partials": [[metric.name, metric.width] for metric in METRICS],
            "budget": {"asked": made.spec.budget} if made.spec.budget else None,
        },
    )


def now() -> str:
    """The time, for people."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _inputs(made: Plan) -> dict[str, Any]:
    """What must not change between the parts of a run."""
    shifted: dict[str, str] = defaultdict(str)
    for (name, _), subject in made.shifted.items():
        shifted[name] += f"+{subject.dataset_digest}"
    return {
        each.subject.source.name: {
            "model": each.subject.digest,
            "data": each.subject.dataset_digest + shifted[each.subject.source.name],
        }
        for each in made.deployments
    }


def check_unchanged(store: Store, made: Plan) -> None:
    """Refuse a plan whose model, data or tables are not those that the run began with.

    Raises:
        RequestError: naming what has changed.
    """
    run = store.read_json("run.json")
    before, after = run["inputs"], _inputs(made)
    for name in sorted(set(before) | set(after)):
        for what in ("model", "data"):
            if before.get(name, {}).get(what) != after.get(name, {}).get(what):
                raise RequestError(
                    f"the {what} of {name!r} has changed since this run began.",
                    where=str(store.folder),
                    hint="restore it, or start a new run.",
                )
    for path, content in run["files"].items():
        if not Path(path).is_file() or files.digest(Path(path)) != content:
            what = f"{path} has changed since this run began."
            hint = "restore it, or start a new run."
            raise RequestError(what, where=str(store.folder), hint=hint)


def _files(spec: Spec) -> dict[str, str]:
    """The digests of what scenarios read: a table of error rates decides what is injected."""
    named = sorted(set(files.named_in(spec.model_dump(mode="json")["scenarios"])))
    return {path: files.digest(Path(path)) for path in named if Path(path).is_file()}
