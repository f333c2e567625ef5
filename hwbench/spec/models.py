"""The typed spec. Values only: nothing here reads a file, imports a runtime or sets a variable."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from hwbench.backend import Emulation, Environment
from hwbench.errors import RequestError
from hwbench.spec.gates import GateSpec


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Names = Annotated[list[str], BeforeValidator(_as_list)]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")]
Cpu = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
Cpus = Annotated[list[Cpu], BeforeValidator(_as_list), Field(min_length=1)]
Counts = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_as_list)]


class Strict(BaseModel):
    """Unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(Strict):
    """Where a model comes from: exactly one of the keys, but for ``weights``."""

    onnx: str | None = Field(None, description="path of an ONNX file")
    torch: str | None = Field(None, description="package.module:factory (needs --allow-code)")
    pt2: str | None = Field(None, description="path of an exported program (torch.export.save)")
    library: str | None = Field(
        None,
        pattern=r"^(timm|torchvision|hf):.+",
        description="timm:NAME, torchvision:NAME or hf:NAME (a name, or a folder)",
    )
    weights: str | None = Field(
        None, description="safetensors (or weights-only .pt) for torch or library"
    )
    builtin: Literal["digits-cnn"] | None = Field(None, description="a model shipped with hwbench")
    data: DataSpec | None = Field(None, description="this model's own data, in place of `data`")

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        sources = ("onnx", "torch", "pt2", "library", "builtin")
        if sum(bool(getattr(self, key)) for key in sources) != 1:
            raise ValueError(f"give exactly one of {', '.join(sources)}")
        if self.weights and not (self.torch or self.library):
            raise ValueError("weights belong to a torch factory or a library; remove them")
        return self


class Preprocess(Strict):
    """``((x - offset) * scale - mean) / std`` after optional changes of shape and layout."""

    shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, description="of one sample, if the array's is another: [28, 28, 1]"
    )
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
    optional: bool = Field(False, description="no labels, rather than an error, if it is absent")


class Transform(Strict):
    """How an image becomes a model's input, in the words of timm's ``data_config``."""

    input_size: Annotated[list[int], Field(min_length=3, max_length=3)] = Field(
        [3, 224, 224], description="channels (1 or 3), height, width"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_pct: float = Field(0.875, gt=0, le=1, description="side of the crop by the resized side")
    mean: list[float] = [0.485, 0.456, 0.406]
    std: list[float] = [0.229, 0.224, 0.225]

    @field_validator("input_size")
    @classmethod
    def _sane(cls, value: list[int]) -> list[int]:
        if value[0] not in (1, 3) or not all(1 <= side <= MOST_SIDE for side in value[1:]):
            raise ValueError(f"channels are 1 or 3, sides 1 to {MOST_SIDE}")
        return value

    @model_validator(mode="after")
    def _one_per_channel(self) -> Transform:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.input_size[0]):
                raise ValueError(f"{name} lists one number, or one a channel")
        if 0.0 in self.std:
            raise ValueError("std divides: it cannot be 0")
        return self


MOST_SIDE = 16_384
MOST_BATCH = 1_000_000
SOURCES = ("npz", "images", "table", "dataset", "python", "builtin")
Constant = bool | int | float | list[Any]


class DataSpec(Strict):
    """Arrays by name, and how they become model inputs."""

    npz: str | None = Field(None, description="archive with one array per input, and the labels")
    images: str | None = Field(None, description="folder of images, one folder a class")
    table: str | None = Field(None, description="CSV (.csv, .tsv) or Parquet file")
    dataset: str | None = Field(None, description="Hugging Face dataset on disk (save_to_disk)")
    python: str | None = Field(
        None, description="package.module:function that yields samples (needs --allow-code)"
    )
    builtin: Literal["digits"] | None = Field(None, description="data shipped with hwbench")
    split: str | None = Field(None, description="dataset: which one")
    transform: Transform = Field(Transform(), description="images: size, crop, mean, std")
    inputs: dict[str, str | list[str]] = Field(
        {}, description="model input: array, or table columns; default: only input: x"
    )
    constants: dict[str, Constant] = Field(
        {}, description="model input: what every call is fed, such as {sr: 16000}"
    )
    state: dict[str, str] = Field(
        {}, description="model input: output of the call before; zeros in a batch's first call"
    )
    labels: Labels | None = Field(
        None, description="array of labels, or {array, offset}; npz: y if absent"
    )
    calibration: str | None = Field(None, description="the same kind of source, for int8")
    limit: int | None = Field(None, ge=1, description="use only the first so many samples")
    preprocess: dict[str, Preprocess] = Field(
        {}, description="for all inputs, or per input: {name: {...}}"
    )
    batch: int = Field(
        64, ge=1, le=MOST_BATCH, description="samples per inference; the last batch is padded"
    )

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
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(SOURCES)}")
        if self.split is not None and self.dataset is None:
            raise ValueError("split belongs to dataset; remove it")
        both = sorted({*self.constants} & {*self.state} | {*self.inputs} & {*self.constants})
        if both:
            raise ValueError(f"{both[0]!r} is fed in two ways; remove one")
        return self

    @property
    def source(self) -> str:
        """Which kind of source it is."""
        return next(key for key in SOURCES if getattr(self, key) is not None)

    @property
    def place(self) -> str:
        """The file, folder or function."""
        return str(getattr(self, self.source))


class EnvironmentSpec(Strict):
    """One or several environments: lists expand to their product."""

    backend: Names
    device: Names = ["cpu"]
    precision: Names = ["fp32"]
    threads: Counts = [1]
    options: dict[str, Any] = {}
    label: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    allow: Annotated[list[str], BeforeValidator(_as_list)] = []
    tags: Annotated[list[Tag], BeforeValidator(_as_list)] = Field(
        [], description="on a rack: boards that have all of these run it, such as board:jetson"
    )
    arch: Literal["aarch64"] | None = Field(
        None, description="emulated by qemu-user, for accuracy alone; needs cpu and root"
    )
    cpu: Cpus | None = Field(None, description="arch: qemu's name of its model, such as cortex-a72")
    root: str | None = Field(
        None, description="arch: folder with a system, Python and runtime for it (docs/boards.md)"
    )
    python: str | None = Field(None, description="arch: interpreter; default: usr/bin/python3")

    @model_validator(mode="after")
    def _whole_emulation(self) -> EnvironmentSpec:
        if self.arch is None and (self.cpu or self.root or self.python):
            raise ValueError("cpu, root and python belong to an emulated board: give arch as well")
        if self.arch and not (self.cpu and self.root):
            raise ValueError("arch needs cpu (such as cortex-a72) and root (docs/boards.md)")
        return self

    def expand(self) -> list[Environment]:
        """The environments this entry stands for."""
        axes = product(self.backend, self.device, self.precision, self.threads)
        made = [
            Environment(
                *axis, dict(self.options), self.label, tuple(self.allow), tuple(sorted(self.tags))
            )
            for axis in axes
        ]
        return [replace(each, emulation=board) for each in made for board in self._emulations()]

    def _emulations(self) -> list[Emulation | None]:
        if self.arch is None:
            return [None]
        chosen = {"python": self.python} if self.python else {}
        return [Emulation(self.arch, cpu, str(self.root), **chosen) for cpu in self.cpu or []]


class TaskSpec(Strict):
    """What the outputs mean, and so when a decision has changed (sdc)."""

    kind: Literal[
        "classification",
        "sequence-classification",
        "token-classification",
        "regression",
        "detection",
        "other",
    ] = Field(
        "classification",
        description="regression: labels are real numbers, one a sample (metrics mae and r2);"
        " token-classification: one class a token, negative where none is asked for;"
        " detection, other: by drift, or by metrics of your own",
    )
    output: str | None = Field(None, description="the output that is scored; default: the first")
    tolerance: float = Field(
        0.05,
        gt=0,
        description="without classes: sdc if an output moves by more than this share of the range",
    )

    @property
    def classes(self) -> bool:
        """Whether the decision is the largest along the output's last axis."""
        return self.kind.endswith("classification")


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

    processes: int = Field(5, ge=1, le=10_000, description="fresh processes per environment")
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
    deadline_s: float = Field(300.0, gt=0, le=1e6, description="longest silence of a worker")
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
    if model.pt2:
        return PurePath(model.pt2).stem
    if model.library:
        return PurePath(model.library.partition(":")[2]).name
    return str(model.torch).rsplit(":", 1)[-1]
