"""The contract of a runtime adapter: probe, build, sites, corrupt, open.

Adapters infer. They never time, never score, and never catch what they do not understand. A
capability gap is declared in ``probe`` and raised as ``Unsupported`` with the same reason.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench.edits import Edits
from hwbench.errors import Unsupported

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
SiteKind = Literal["weight", "bias", "scale", "zero_point", "activation", "input"]
Status = Literal["supported", "unsupported", "unknown"]

# Precisions that are known to every room; a backend may add its own names.
# Set by a condition for a worker: MiB of GPU memory that its sessions may take.
GPU_MEMORY = "HWBENCH_GPU_MEMORY_MIB"
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-ref")


@dataclass(frozen=True)
class Emulation:
    """A processor made of software that workers run on: what it computes counts, its time not.

    Attributes:
        arch: architecture, as ``platform.machine()`` tells it there.
        cpu: model, by the emulator's name.
        root: folder with a system for that architecture.
        python: its interpreter, from ``root``.
    """

    arch: str
    cpu: str
    root: str
    python: str = "usr/bin/python3"

    @property
    def emulator(self) -> str:
        """The program that emulates it."""
        return f"qemu-{self.arch}"


@dataclass(frozen=True)
class Environment:
    """What would be deployed.

    Attributes:
        backend: entry-point name of the adapter.
        device: ``cpu``, ``cuda:0``, ...
        precision: asked precision, one of the backend's names.
        threads: intra-op threads; the adapter must pin inter-op parallelism to 1.
        options: runtime options by the runtime's own names; ``None`` leaves an option unset that
            the adapter would otherwise set.
        label: distinguishes environments that differ in options only.
        allow: deviations of the actual from the asked that are accepted, by name, such as
            ``fp16-as-fp32``.
        tags: which boards of a rack may run it; not part of the id, see ``label``.
        emulation: what workers run on in place of this machine's processor; artifacts are built
            here all the same.
    """

    backend: str
    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    allow: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    emulation: Emulation | None = None

    @property
    def id(self) -> str:
        """Readable id, such as ``onnxruntime-cpu-int8-t1``."""
        parts = [self.backend, self.device.replace(":", ""), self.precision, f"t{self.threads}"]
        if self.emulation:
            parts += [self.emulation.arch, self.emulation.cpu]
        return "-".join([*parts, self.label] if self.label else parts)


@dataclass(frozen=True)
class TensorSpec:
    """A model input or output: ``None`` in ``shape`` is a free dimension; NumPy dtype name."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Site:
    """A tensor that can be hit, in its stored form.

    Attributes:
        name: unique within the artifact, the same in every session opened from it.
        kind: what the tensor is to the kernel that reads it.
        dtype: stored dtype: a NumPy name, or ``bfloat16``.
        shape: stored shape; for inputs and activations the shape of one row.
        op_type: type of the first consumer, in the runtime's words (``Conv``, ``MatMul``).
        layer: name of the first consumer.
        order: position of that consumer in topological order.
    """

    name: str
    kind: SiteKind
    dtype: str
    shape: tuple[int, ...]
    op_type: str = ""
    layer: str = ""
    order: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bits(self) -> int:
        """Bits per element in storage."""
        return 16 if self.dtype == "bfloat16" else 8 * np.dtype(self.dtype).itemsize


MODEL_FORMATS = ("onnx", "torch", "pt2", "library")  # fields of ``ModelSource``


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from. At least one form is present; adapters say which they accept.

    Attributes:
        name: the user's name for it.
        inputs: the model's inputs as data provides them, in positional order; the first dimension
            is the batch (``None``).
        onnx: path of an ONNX file.
        torch: ``package.module:factory``, called without arguments, giving an ``nn.Module``.
        weights: safetensors or ``torch.load(weights_only=True)`` file for ``torch`` or ``library``.
        pt2: path of a program that ``torch.export.save`` wrote.
        library: ``timm:NAME``, ``torchvision:NAME`` or ``hf:NAME``, a name or a folder.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    onnx: str | None = None
    torch: str | None = None
    weights: str | None = None
    pt2: str | None = None
    library: str | None = None

    @property
    def formats(self) -> tuple[str, ...]:
        """The forms that are present."""
        return tuple(form for form in MODEL_FORMATS if getattr(self, form) is not None)


@dataclass(frozen=True)
class Artifact:
    """The portable deployed file(s) of a model in an environment, in a folder of their own.

    ``meta`` is the adapter's own JSON (file names, operator tables); nobody else reads it.
    """

    folder: Path
    environment: Environment
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        """Write ``artifact.json`` into the folder."""
        content = asdict(self)
        del content["folder"]
        (self.folder / "artifact.json").write_text(json.dumps(content, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> Artifact:
        """Read what ``save`` wrote."""
        content = json.loads((folder / "artifact.json").read_text())
        return cls(
            folder,
            environment_from(content["environment"]),
            tuple(tensor_from(each) for each in content["inputs"]),
            tuple(tensor_from(each) for each in content["outputs"]),
            content["meta"],
        )


def environment_from(content: Mapping[str, Any]) -> Environment:
    """An ``Environment`` from its JSON form."""
    lists = {name: tuple(content.get(name, ())) for name in ("allow", "tags")}
    emulation = content.get("emulation")
    made = {"emulation": emulation and Emulation(**emulation)}
    return Environment(**{**content, **lists, **made})


def tensor_from(content: Mapping[str, Any]) -> TensorSpec:
    """A ``TensorSpec`` from its JSON form."""
    return TensorSpec(content["name"], tuple(content["shape"]), content["dtype"])


def source_from(content: Mapping[str, Any]) -> ModelSource:
    """A ``ModelSource`` from its JSON form."""
    return ModelSource(
        **{**content, "inputs": tuple(tensor_from(each) for each in content["inputs"])}
    )


@dataclass(frozen=True)
class Capability:
    """Whether something can be done here; unknown is not unsupported."""

    status: Status
    reason: str = ""


SUPPORTED = Capability("supported")


@dataclass(frozen=True)
class Probe:
    """What a runtime says of itself on this machine.

    Attributes:
        version: of the runtime.
        devices: names an environment may ask for.
        precisions: per precision name, whether it can be built and run here.
        features: ``live``, ``suffix``, ``compile``, ... : whether the optional parts exist.
    """

    version: str
    devices: tuple[str, ...]
    precisions: Mapping[str, Capability]
    features: Mapping[str, Capability] = field(default_factory=dict)


@dataclass(frozen=True)
class OpPrecision:
    """How one weight-bearing operator is stored in the artifact and executed by the runtime."""

    name: str
    op_type: str
    stored: str
    executed: str
    kernel: str = ""


@dataclass(frozen=True)
class Actual:
    """What a session really does, read from the runtime itself, never from what was asked."""

    version: str
    device: str
    provider: str
    threads: int | None
    isa: str
    ops: tuple[OpPrecision, ...]

    @property
    def precision(self) -> str:
        """The executed precisions, most frequent first, joined by ``+``; ``none`` without ops."""
        names = [op.executed for op in self.ops]
        ranked = sorted(set(names), key=lambda name: (-names.count(name), name))
        return "+".join(ranked) or "none"


class Session(ABC):
    """A loaded model, ready to infer."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One inference of a whole batch: arrays by input name to arrays by output name.

        Outputs are NumPy arrays the caller owns; bfloat16 is widened to float32.
        """

    @property
    @abstractmethod
    def actual(self) -> Actual:
        """What this session really executes. May cost as much as a load; may need one ``run``."""

    def live(self, edits: Edits) -> None:
        """Corrupt the buffers the kernels read, from now on; ``none()`` takes everything back."""
        raise Unsupported(f"{type(self).__module__.split('.')[0]} has no live residence")

    def loaded(self, name: str) -> Array:
        """A copy of the bits of a site, unsigned, in the buffer that kernels read: for proofs."""
        raise Unsupported(f"{type(self).__module__.split('.')[0]} has no live residence")

    def close(self) -> None:
        """Free what the runtime holds. Nothing may be called afterwards."""
        return None


@dataclass(frozen=True)
class Method:
    """How the faults of a site are run.

    Attributes:
        route: ``grouped`` (faults stacked into one run of the operator that is hit, then the rest
            of the network), ``windowed`` (of maps only the places that a fault can reach, then the
            rest), ``suffix`` (from the operator on), ``constant`` (the same, loaded anew
            for each fault), ``fed`` (the whole network, the tensor that is hit an input) or
            ``whole`` (the naive route).
        refused: the faster routes that were not taken, each ``route: reason``.
    """

    route: str
    refused: tuple[str, ...] = ()


class Replayer(ABC):
    """One batch again under faults, from a cached golden prefix; exact to the bit.

    A route is taken for a site only after it gave the bytes of golden and of sampled faults run
    the naive way; ``methods`` tells which one. Sites are best visited in topological order: the
    cached prefix then only advances.

    Attributes:
        golden: outputs of the deployed session for this batch.
        methods: per site that was run, how; ``pattern`` for patterns over several sites.
        rows_independent: whether a row's outputs depend on that row alone, as found by running:
            faults of many patterns, one a row, then fit into one batch.
    """

    golden: dict[str, Array]
    methods: dict[str, Method]
    rows_independent: bool = False

    @property
    @abstractmethod
    def activations(self) -> Sequence[Site]:
        """The tensors between operators of the graph that is executed, and the inputs, as sites.

        Their elements count within one row, in the executed layout. ``layer`` and ``op_type`` are
        those of the operator that writes the tensor, for an input of its first reader.
        """

    def activation(self, name: str) -> Array:
        """The golden tensor of one of ``activations``, as executed; not to be written into.

        Raises:
            Unsupported: this runtime does not show it.
        """
        raise Unsupported("this runtime does not show the tensors between its operators")

    @abstractmethod
    def run(self, edits: Edits) -> list[dict[str, Array]]:
        """Outputs of each lane, 0 to the last; all edits concern one site.

        ``Edits.row`` is a row of the batch for activations and inputs. A fault that the runtime
        refuses to run (an index out of bounds) raises the runtime's error for all lanes.
        """

    @abstractmethod
    def run_pattern(self, edits: Edits) -> dict[str, Array]:
        """Outputs with all edits at once, of any number of sites; lanes are ignored."""

    def on(self, feeds: Feeds) -> Replayer:
        """The same for another batch of the same shapes, with what was prepared for this one.

        A route that sampled faults have proven is kept where it repeats golden of the new batch
        too; elsewhere it is chosen anew.

        Raises:
            Unsupported: nothing can be kept; ask ``Backend.replayer`` again.
        """
        raise Unsupported("each batch is prepared anew")

    @abstractmethod
    def method(self, site: str) -> Method:
        """How faults of a site are run; finds the fastest route that is exact, if need be."""

    def spread(self, edits: Edits) -> Iterator[tuple[Site, Array, Array]]:
        """How far an error goes: every activation in topological order, golden and faulty.

        Args:
            edits: all at once, of any number of sites; lanes are ignored.

        Yields:
            The site, its golden tensor of the batch and the same under the edits, as executed.

        Raises:
            Unsupported: this runtime does not show what is between its operators.
        """
        raise Unsupported("this runtime does not show the tensors between its operators")

    def close(self) -> None:
        """Free what the runtime holds. Nothing may be called afterwards."""
        return None


class Backend(ABC):
    """A runtime adapter. Constructing one imports nothing; its methods import the runtime."""

    name: ClassVar[str]
    accepts: ClassVar[tuple[str, ...]]  # model formats that build() takes, preferred first
    converts: ClassVar[tuple[tuple[str, str], ...]] = ()  # (from, to) pairs that convert() takes
    requires: ClassVar[tuple[str, ...]]  # distributions a user installs, for the hint
    extra: ClassVar[str] = ""  # the extra that brings them

    @abstractmethod
    def probe(self) -> Probe:
        """Version, devices and capabilities on this machine. Cheap: no model is touched."""

    @abstractmethod
    def build(
        self, model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
    ) -> Artifact:
        """Export, fold and quantise into ``folder``; independent of this CPU's instruction set.

        Args:
            model: has at least one of the formats in ``accepts``.
            environment: the asked environment.
            calibration: rows by input name (float, preprocessed); needed for int8, else ``None``.
            folder: empty, exists; everything the artifact needs goes here.

        Raises:
            Unsupported: the precision, device or model cannot be had here.
        """

    @abstractmethod
    def sites(self, artifact: Artifact) -> Sequence[Site]:
        """Every stored tensor that can be hit, in topological order of the first consumer."""

    @abstractmethod
    def corrupt(self, artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
        """The naive route: the same artifact with the edits in its stored bits, in ``folder``.

        The result must be what ``open`` would load from a damaged storage: no re-optimisation,
        no re-quantisation. Files that no edit concerns may be links.
        """

    @abstractmethod
    def open(self, artifact: Artifact) -> Session:
        """Load with the deployed options (environment of the artifact)."""

    def isa_variables(self, ceiling: str) -> Mapping[str, str]:
        """Environment variables that cap the instruction set, if set before the import.

        Args:
            ceiling: ``sse4``, ``avx2`` or ``avx512`` (without the extensions for int8 and bf16).
        """
        raise Unsupported(f"{self.name} has no switch for the instruction set")

    def gpu_memory_variables(self, limit_mib: float) -> Mapping[str, str]:
        """Environment variables by which this adapter's sessions keep to so much GPU memory."""
        raise Unsupported(f"{self.name} has no bound on the GPU memory that it takes")

    def replayer(self, artifact: Artifact, feeds: Feeds, memory_mib: float) -> Replayer:
        """The accelerated route for one batch.

        Args:
            artifact: what is deployed.
            feeds: the batch, arrays by input name.
            memory_mib: bound on the golden tensors that are kept between calls.

        Raises:
            Unsupported: this adapter only has the naive route.
        """
        raise Unsupported(f"{self.name} only has the naive route")

    def gradients(
        self,
        artifact: Artifact,
        feeds: Feeds,
        output: str,
        targets: npt.NDArray[np.int64],
        *,
        probabilities: bool,
    ) -> dict[str, Array]:
        """Derivatives of the mean cross-entropy by stored values, per site that has one, float64.

        Args:
            artifact: what is deployed.
            feeds: a batch, arrays by input name.
            output: the one that holds the classes, shape (rows, classes).
            targets: the class of each row.
            probabilities: whether that output went through a softmax already.

        Raises:
            Unsupported: this runtime, precision or model has none.
        """
        raise Unsupported(f"{self.name} has no gradients")

    def convert(self, model: ModelSource, to: str, folder: Path) -> ModelSource:
        """The same model in another format, written into ``folder``."""
        raise Unsupported(f"{self.name} does not convert models")

    @abstractmethod
    def stored(self, artifact: Artifact, name: str) -> Array:
        """A site's tensor as stored; bfloat16 comes as its uint16 bits. For proofs and reports."""
