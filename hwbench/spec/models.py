"""The typed spec. Values only: nothing here reads a file, imports a runtime or sets a variable."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from hwbench.backend import Environment
from hwbench.errors import RequestError
from hwbench.spec.gates import GateSpec


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Names = Annotated[list[str], BeforeValidator(_as_list)]
Counts = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_as_list)]


class Strict(BaseModel):
    """Unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Strict):
    """Where a model comes from: exactly one of ``onnx``, ``torch`` and ``builtin``."""

    onnx: str | None = Field(None, description="path of an ONNX file")
    torch: str | None = Field(None, description="package.module:factory (needs --allow-code)")
    weights: str | None = Field(None, description="safetensors (or weights-only .pt) for torch")
    builtin: Literal["digits-cnn"] | None = Field(None, description="a model shipped with hwbench")

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        given = [key for key in ("onnx", "torch", "builtin") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError("give exactly one of onnx, torch, builtin")
        if self.weights and not self.torch:
            raise ValueError("weights belong to a torch factory; remove them")
        return self


class Preprocess(Strict):
    """``((x - offset) * scale - mean) / std`` after an optional change of layout."""

    layout: Literal["NHWC->NCHW", "NCHW->NHWC"] | None = None
    offset: float = 0.0
    scale: float = 1.0
    mean: float | list[float] = 0.0
    std: float | list[float] = 1.0

    @field_validator("std")
    @classmethod
    def _no_zero(cls, value: float | list[float]) -> float | list[float]:
        if 0.0 in (value if isinstance(value, list) else [value]):
            raise ValueError("std divides: it cannot be 0")
        return value


class Labels(Strict):
    """Which array holds the labels; class = label + offset."""

    array: str
    offset: int = 0


class DataSpec(Strict):
    """Arrays by name, and how they become model inputs."""

    npz: str | None = Field(None, description="archive with one array per input, and the labels")
    builtin: Literal["digits"] | None = Field(None, description="data shipped with hwbench")
    inputs: dict[str, str] = Field({}, description="model input: array; default: only input: x")
    labels: Labels | None = Field(None, description="array of class indices, or {array, offset}")
    calibration: str | None = Field(None, description="npz with the same arrays, for int8")
    limit: int | None = Field(None, ge=1, description="use only the first so many samples")
    preprocess: dict[str, Preprocess] = Field(
        {}, description="for all inputs, or per input: {name: {...}}"
    )
    batch: int = Field(64, ge=1, description="samples per inference; the last batch is padded")

    @field_validator("labels", mode="before")
    @classmethod
    def _short_labels(cls, value: Any) -> Any:
        return {"array": value} if isinstance(value, str) else value

    @field_validator("preprocess", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        if (
            isinstance(value, dict)
            and value
            and not all(isinstance(v, dict) for v in value.values())
        ):
            return {"*": value}
        return value

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        if (self.npz is None) == (self.builtin is None):
            raise ValueError("give exactly one of npz, builtin")
        return self


class EnvironmentSpec(Strict):
    """One or several environments: lists expand to their product."""

    backend: Names
    device: Names = ["cpu"]
    precision: Names = ["fp32"]
    threads: Counts = [1]
    options: dict[str, Any] = {}
    label: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    allow: Annotated[list[str], BeforeValidator(_as_list)] = []

    def expand(self) -> list[Environment]:
        """The environments this entry stands for."""
        axes = product(self.backend, self.device, self.precision, self.threads)
        return [
            Environment(*axis, dict(self.options), self.label, tuple(self.allow)) for axis in axes
        ]


class TaskSpec(Strict):
    """What the outputs mean, and so when a decision has changed (sdc)."""

    kind: Literal["classification", "regression", "other"] = Field(
        "classification",
        description="regression: labels are real numbers, one a sample (metrics mae and r2)",
    )
    output: str | None = Field(None, description="the output that is scored; default: the first")
    tolerance: float = Field(
        0.05,
        gt=0,
        description="without classes: sdc if an output moves by more than this share of the range",
    )


Use = Literal["singlestream", "loadgen-singlestream", "multistream", "server", "offline"]
Uses = Annotated[list[Use], BeforeValidator(_as_list), Field(min_length=1)]


class ServerSpec(Strict):
    """Poisson arrivals, latency from the scheduled time of arrival."""

    p99_ms: float = Field(gt=0, description="bound that the 99th percentile must keep")
    rate: float | None = Field(
        None, gt=0, description="arrivals a second; default: search the highest that keeps it"
    )


class LatencySpec(Strict):
    """How latency is measured: fresh processes, randomly interleaved within blocks."""

    processes: int = Field(5, ge=1, description="fresh processes per environment")
    min_duration_s: float = Field(1.0, gt=0, description="at least so long per process")
    min_count: int = Field(30, ge=1, description="at least so many inferences per process")
    warmup_s: float = Field(0.2, ge=0, description="unrecorded inferences first")
    batch: Counts = [1]
    percentile: Literal["p50", "p90", "p95", "p97", "p99", "p99.9"] | None = Field(
        None, description="as many inferences per process as this percentile needs"
    )
    threshold: float = Field(
        0.05, ge=0, description="a difference below this share is not called slower or faster"
    )
    use: Uses = Field(["singlestream"], description="how calls arrive; all but the first: LoadGen")
    server: ServerSpec | None = Field(None, description="for use: server")

    @model_validator(mode="after")
    def _bounded(self) -> LatencySpec:
        if "server" in self.use and self.server is None:
            raise ValueError("use server needs a bound: server: {p99_ms: 10}")
        return self


class ReplaySpec(Strict):
    """Faults from a cached golden prefix, many at once; ``false``: every fault in a whole run."""

    memory_mib: float = Field(512.0, gt=0, description="bound on cached golden tensors per worker")


class SoakSpec(Strict):
    """Latency over a long time: one process per environment and condition, alone."""

    duration_s: float = Field(60.0, gt=0, description="how long; 20 windows at least tell a drift")
    window_s: float = Field(1.0, gt=0, description="timed calls between two looks at the sensors")
    warmup_s: float = Field(1.0, ge=0, description="unrecorded inferences first")
    batch: int = Field(1, ge=1, description="samples per inference")


class Spec(Strict):
    """A whole sweep."""

    name: str = "sweep"
    model: ModelSpec | None = None
    models: dict[str, ModelSpec] = {}
    data: DataSpec | None = None
    environments: list[EnvironmentSpec] = Field([], description="lists expand to their product")
    baseline: str | None = Field(None, description="environment id; default: the first")
    scenarios: list[Any] = Field(["clean"], description="names, or {scenario: parameters}")
    task: TaskSpec = TaskSpec()
    metrics: list[str] = Field(
        [],
        description="shown in the summary; package.module:function is your own (--allow-code)",
    )
    latency: LatencySpec | None = LatencySpec()
    replay: ReplaySpec | None = ReplaySpec()
    soak: SoakSpec | None = Field(None, description="latency drift over a long time")
    gates: list[GateSpec] = Field([], description="what must hold, for `hwbench qualify`")
    deadline_s: float = Field(300.0, gt=0, description="longest silence of a worker")
    budget: str | None = Field(None, description="bound on the run time, such as 30m")
    seed: int = Field(0, ge=0)

    @field_validator("latency", "replay", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("scenarios", mode="before")
    @classmethod
    def _one_scenario(cls, value: Any) -> Any:
        return _as_list(value)

    @model_validator(mode="after")
    def _one_form(self) -> Spec:
        if self.model is not None and self.models:
            raise ValueError("give model or models, not both")
        return self

    @property
    def named_models(self) -> dict[str, ModelSpec]:
        """Every model by name."""
        if self.model is not None:
            return {model_name(self.model): self.model}
        return self.models

    @property
    def own_metrics(self) -> list[str]:
        """Metrics that are functions of the user's."""
        return [name for name in self.metrics if ":" in name]

    def expand_environments(self) -> list[Environment]:
        """All environments in order, without repetitions.

        Raises:
            RequestError: two that differ have the same id.
        """
        distinct: dict[str, Environment] = {}
        for each in (each for entry in self.environments for each in entry.expand()):
            if distinct.setdefault(each.id, each) != each:
                what = f"two different environments are called {each.id!r}."
                raise RequestError(what, where="environments", hint="give one of them a label.")
        return list(distinct.values())


def model_name(model: ModelSpec) -> str:
    """A default name: the file's or the factory's."""
    if model.builtin:
        return model.builtin
    if model.onnx:
        return model.onnx.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".onnx")
    return str(model.torch).rsplit(":", 1)[-1]
