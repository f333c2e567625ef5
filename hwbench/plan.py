"""Spec to plan: which models meet which environments and cases. Reads inputs, runs nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from hwbench import __version__, data, model, registry
from hwbench.backend import Environment, ModelSource, TensorSpec
from hwbench.case import Case
from hwbench.dataset import Dataset
from hwbench.errors import RequestError
from hwbench.manner import call_size
from hwbench.scenario import Perturbation, PreparedPerturbation
from hwbench.seeds import canonical
from hwbench.spec import Spec
from hwbench.spec.cases import expand, searches
from hwbench.spec.models import SOURCES, DataSpec, ModelSpec


@dataclass(frozen=True)
class Subject:
    """One model with its data, checked and prepared.

    Attributes:
        source: the model in every form it has.
        digest: content hash of its files.
        dataset: folder of the prepared dataset.
        dataset_digest: content hash of it.
        n_samples: scored samples.
        labelled: whether accuracy can be told.
        batch: samples per inference: the spec's, or the one the model is fixed to.
        fixed_batch: the one the model is fixed to, or ``None``.
        classes: size of the scored output's last axis, where the model tells.
    """

    source: ModelSource
    digest: str
    dataset: Path
    dataset_digest: str
    n_samples: int
    labelled: bool
    batch: int
    fixed_batch: int | None
    classes: int | None = None

    @property
    def n_batches(self) -> int:
        """Batches that cover the dataset."""
        return -(-self.n_samples // self.batch)


@dataclass(frozen=True)
class Deployment:
    """A model in an environment, and where its artifact lies (or will lie)."""

    subject: Subject
    environment: Environment
    artifact: Path

    @property
    def key(self) -> tuple[str, str]:
        """Model name and environment id."""
        return (self.subject.source.name, self.environment.id)


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first worker starts.

    On a rack (``elsewhere``) what this machine can do says nothing; the boards tell in rows.
    By model and case id, ``unprepared`` says why what a case needs could not be computed, and
    ``shifted`` has the model with the data that a case puts in place of the spec's.
    """

    spec: Spec
    cases: tuple[Case, ...]
    deployments: tuple[Deployment, ...]
    baseline: str
    code_path: tuple[str, ...] = ()
    searches: tuple[Case, ...] = ()  # whose severity is to be found; they are no cells
    unprepared: Mapping[tuple[str, str], str] = field(default_factory=dict)
    shifted: Mapping[tuple[str, str], Subject] = field(default_factory=dict)
    elsewhere: bool = False
    _perturbed: dict[tuple[str, str, bool], tuple[Case, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def perturbed(self, deployment: Deployment) -> tuple[Case, ...]:
        """Its cases but clean ones and what it refuses.

        That depends on the model, the runtime and whether it is emulated, and is asked for once.
        """
        environment = deployment.environment
        key = (deployment.key[0], environment.backend, environment.emulation is not None)
        if key not in self._perturbed:
            cases = (case for case in self.cases if case.layers and not case.replacement)
            self._perturbed[key] = tuple(
                case for case in cases if not self.refusal(deployment, case)
            )
        return self._perturbed[key]

    def refusal(self, deployment: Deployment, case: Case) -> str:
        """Why a case cannot be had for a model in an environment; empty when it can."""
        return (
            _refused(deployment.environment, case, self.elsewhere)
            or _meaningless(deployment.subject, case, self.elsewhere)
            or self.unprepared.get((deployment.key[0], case.id), "")
        )


def _refused(environment: Environment, case: Case, elsewhere: bool) -> str:
    """Why a condition cannot be enforced on this machine, or on this runtime."""
    if environment.emulation and case.conditions:
        return "it would constrain the emulator, not the board that is emulated"
    for condition in case.conditions:
        found = condition.check()
        if found.status == "unsupported" and not elsewhere:
            return found.reason
        reason = condition.refuses(registry.backend(environment.backend))
        if reason:
            return reason
    return ""


def _meaningless(subject: Subject, case: Case, elsewhere: bool) -> str:
    """Why a perturbation means nothing for a model's inputs."""
    for layer in case.layers:
        if isinstance(layer.scenario, Perturbation) and layer.scenario.target == "inputs":
            hit = [t for t in subject.source.inputs if layer.sites.keeps_name(t.name)]
            reasons = [layer.scenario.refuses(tensor) for tensor in hit]
            if isinstance(layer.scenario, PreparedPerturbation):
                missing = layer.scenario.requires()
                if missing.status == "unsupported" and not elsewhere:
                    return missing.reason
            if not hit:
                return f"no input is called {', '.join(layer.sites.include)}"
            if all(reasons):
                return reasons[0]
    return ""


def cache_folder() -> Path:
    """Where artifacts and prepared data are kept between runs: ``$HWBENCH_CACHE`` or the usual."""
    chosen = os.environ.get("HWBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen).expanduser() if chosen else Path(base).expanduser() / "hwbench"


def make(spec: Spec, *, allow_code: bool, cache: Path, code_cache: Path) -> Plan:
    """Check everything a spec names, and prepare its data.

    Args:
        spec: with absolute paths.
        allow_code: whether a torch factory may run.
        cache: for artifacts and data that depend on file contents alone.
        code_cache: for artifacts that depend on the user's code, whose changes nobody can see.

    Raises:
        RequestError: what is wrong, where, and what to do.
    """
    models = spec.named_models
    if not models:
        raise RequestError(
            "no model.", where="model", hint="give model: {onnx: FILE} or --model FILE."
        )
    environments = spec.expand_environments()
    if not environments:
        raise RequestError("no environments.", where="environments", hint="see `hwbench init`.")
    model.check_allowed(models, allow_code)
    cases = tuple(expand(spec.scenarios))
    _check_code(cases, allow_code)
    _check_generators(spec, allow_code)
    if spec.own_metrics and not allow_code:
        raise RequestError(
            f"{spec.own_metrics[0]!r} runs code.",
            where="metrics",
            hint="if you trust it, add --allow-code.",
        )
    subjects = [_subject(name, each, spec, cache) for name, each in models.items()]
    shifted = {
        (each.source.name, case.id): _shifted(each, models[each.source.name], case, spec, cache)
        for each in subjects
        for case in cases
        if case.replacement
    }
    deployments = [
        Deployment(subject, each, _artifact(subject, each, cache, code_cache))
        for subject in subjects
        for each in environments
    ]
    code_path = (str(Path.cwd()),) if allow_code else ()
    baseline = spec.baseline or environments[0].id
    found = tuple(searches(spec.scenarios))
    return Plan(spec, cases, tuple(deployments), baseline, code_path, found, shifted=shifted)


def _check_code(cases: tuple[Case, ...], allow_code: bool) -> None:
    """Refuse scenarios that would run the user's code, unless that is allowed."""
    for made in (layer.scenario for case in cases for layer in case.layers):
        for name in made.code:
            if getattr(made, name) and not allow_code:
                raise RequestError(
                    f"{made.name} runs code from {getattr(made, name)}.",
                    where=f"scenarios: {made.name}.{name}",
                    hint="if you trust it, add --allow-code.",
                )


def _check_generators(spec: Spec, allow_code: bool) -> None:
    """Refuse data that would run the user's code, unless that is allowed."""
    for each in (spec.data, *(each.data for each in spec.named_models.values())):
        if each is not None and each.python and not allow_code:
            hint = "if you trust it, add --allow-code."
            raise RequestError(f"runs code from {each.python}.", where="data.python", hint=hint)


def _subject(name: str, chosen: ModelSpec, spec: Spec, cache: Path) -> Subject:
    signature = model.signature(chosen)
    wanted = _data(spec, chosen, signature)
    kind = data.meaning(spec.task.kind)
    dataset = data.prepare(wanted, signature, labels=kind) if wanted else data.nothing()
    model.check_outputs(chosen, dataset.state.values(), "data.state")
    folder = _saved(dataset, cache)
    inputs = _from_data(dataset) if signature is None else _fed(signature, dataset)
    source = model.source(name, chosen, inputs)
    ranks = {each: array.ndim for each, array in dataset.inputs.items()}
    fixed = call_size(inputs, ranks, bool(dataset.state))
    batch = _batch(fixed, min(wanted.batch if wanted else 1, len(dataset)), dataset, name)
    labelled = dataset.labels is not None and spec.task.classes
    classes = model.n_classes(chosen, spec.task.output) if labelled else None
    if classes is not None:
        data.check_labels(dataset.labels, classes, "data.labels")
    digest = model.digest(source)
    n, which = len(dataset), dataset.digest
    return Subject(source, digest, folder, which, n, labelled, batch, fixed, classes)


def _fed(signature: tuple[TensorSpec, ...], dataset: Dataset) -> tuple[TensorSpec, ...]:
    """The inputs that data are for."""
    return tuple(each for each in signature if each.name in dataset.inputs)


def _batch(fixed: int | None, asked: int, dataset: Dataset, name: str) -> int:
    """Samples of one batch: as many as asked, in whole calls of a model fixed to some number."""
    if fixed is None:
        return asked
    row = sum(array[:1].nbytes for array in dataset.inputs.values())
    if fixed * row > psutil.virtual_memory().available // 2:
        what = f"is fixed to a batch of {fixed}, which does not fit this machine's memory."
        raise RequestError(what, where=f"model {name}", hint="export it with another batch.")
    return -(-asked // fixed) * fixed


def _saved(dataset: Dataset, cache: Path) -> Path:
    folder = cache / "data" / dataset.digest
    try:
        dataset.save(folder)
    except OSError as error:
        what = f"the cache cannot be written ({error.strerror})."
        raise RequestError(
            what, where=str(cache), hint="set HWBENCH_CACHE to a writable folder."
        ) from error
    return folder


def _shifted(subject: Subject, chosen: ModelSpec, case: Case, spec: Spec, cache: Path) -> Subject:
    """The model with other data, prepared as the spec's are."""
    assert case.replacement is not None
    signature = model.signature(chosen)
    wanted = _data(spec, chosen, signature)
    if wanted is None:
        raise RequestError("the model has no inputs.", where=f"scenarios: {case.name}")
    usual = data.spelled_out(wanted, signature).model_dump()
    other = {**dict.fromkeys((*SOURCES, "split", "calibration")), **case.replacement.archive}
    changed = DataSpec.model_validate({**usual, **other})
    dataset = data.prepare(changed, signature, labels=data.meaning(spec.task.kind))
    labelled = dataset.labels is not None and spec.task.classes
    classes = model.n_classes(chosen, spec.task.output) if labelled else None
    if classes is not None:
        data.check_labels(dataset.labels, classes, f"scenarios: {case.name}")
    return replace(
        subject,
        dataset=_saved(dataset, cache),
        dataset_digest=dataset.digest,
        n_samples=len(dataset),
        labelled=labelled,
    )


def _data(
    spec: Spec, chosen: ModelSpec, signature: tuple[TensorSpec, ...] | None
) -> DataSpec | None:
    """The model's own data, or everybody's; ``None`` for a model without inputs."""
    if chosen.data is not None or spec.data is not None:
        return None if signature == () else chosen.data or spec.data
    if signature == ():
        return None
    if chosen.builtin:
        return DataSpec(builtin="digits")
    raise RequestError("no data.", where="data", hint="give data: {npz: FILE} or --data FILE.")


def _from_data(dataset: Dataset) -> tuple[TensorSpec, ...]:
    """The signature a torch factory is exported with."""
    return tuple(
        TensorSpec(name, (None, *array.shape[1:]), array.dtype.name)
        for name, array in dataset.inputs.items()
    )


def _artifact(subject: Subject, environment: Environment, cache: Path, code_cache: Path) -> Path:
    """Where the artifact lies: by the hash of all that it is made of."""
    plain = replace(environment, threads=1, label="", allow=(), tags=(), emulation=None)
    made_of = {
        "model": subject.digest,
        "inputs": [[each.name, list(each.shape), each.dtype] for each in subject.source.inputs],
        "environment": [plain.id, dict(plain.options)],
        "calibration": subject.dataset_digest if environment.precision.startswith("int8") else "",
        "versions": _versions(environment.backend, subject.source),
    }
    name = hashlib.sha256(canonical(made_of).encode()).hexdigest()[:24]
    ours = subject.source.torch in (None, model.BUILTIN_FACTORY) and not model.unseen(
        subject.source
    )
    return (cache if ours else code_cache) / "artifacts" / name


def _versions(backend: str, source: ModelSource) -> Mapping[str, str]:
    """Versions of what makes an artifact; the converter may be another runtime."""
    found = {"hwbench": __version__}
    wanted = set(registry.backend(backend).requires) | {"onnx", "torch", "nncf", "torchao"}
    if source.library is not None:
        wanted |= {"timm", "torchvision", "transformers"}
    for name in sorted(wanted):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
