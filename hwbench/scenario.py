"""The contract of a scenario: a perturbation of numbers, or a condition on the process.

A scenario class is a frozen dataclass whose fields are its parameters; ``parameter()`` documents
each. Exactly one of the names in ``severities`` is given in a spec: that is the severity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from hwbench.backend import Array, Backend, Capability, Site, TensorSpec
from hwbench.edits import Edits
from hwbench.seeds import Key


def parameter(default: Any, help: str, unit: str = "") -> Any:
    """A documented scenario parameter; without a default it is ``...``."""
    metadata = {"help": help, "unit": unit}
    if default is ...:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Scenario(ABC):
    """What happens to a model; its fields are its parameters.

    Class attributes:
        name: the key in a spec.
        severities: parameter names of which exactly one is given; it is the severity.
        milder: ``lower`` when a lower severity value harms less, ``higher`` otherwise.
        example: a spec entry that works, for ``hwbench list`` and the docs.
    """

    name: ClassVar[str]
    severities: ClassVar[tuple[str, ...]]
    milder: ClassVar[Literal["lower", "higher"]] = "lower"
    example: ClassVar[str]

    @property
    def severity_name(self) -> str:
        """The parameter that is this instance's severity."""
        given = [name for name in self.severities if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(self.severities)}")
        return given[0]

    @property
    def severity(self) -> float:
        """Its value."""
        return float(getattr(self, self.severity_name))

    @property
    def identity(self) -> dict[str, Any]:
        """Name and parameters without the severity's value: what random streams are keyed by."""
        parameters = {key: value for key, value in asdict(self).items() if value is not None}
        parameters[self.severity_name] = None
        return {"name": self.name, **parameters}

    @property
    def variant(self) -> str:
        """What tells instances apart in a cell's name beside the target, such as a kind."""
        return ""

    @property
    @abstractmethod
    def target(self) -> Literal["weights", "inputs", "activations", "process"]:
        """What is changed."""

    @property
    @abstractmethod
    def unit(self) -> Literal["pattern", "sample"]:
        """Sampling unit: ``pattern`` or ``sample``.

        ``pattern`` when a draw is shared by all samples (a chip), ``sample`` when every sample
        has a draw of its own.
        """


@dataclass(frozen=True)
class Perturbation(Scenario):
    """Changes numbers inside the worker. Pure: what it does depends on its arguments alone."""

    def refuses(self, tensor: TensorSpec) -> str:
        """Why this cannot be done to an input like ``tensor``; empty when it can."""
        return ""


@dataclass(frozen=True)
class EditPerturbation(Perturbation):
    """A perturbation that flips, sets, clears or writes stored bits."""

    @property
    def resident(self) -> bool:
        """Whether the same faults are there in every inference, until the model is loaded anew."""
        return self.unit == "pattern"

    @abstractmethod
    def draw(self, sites: Sequence[Site], key: Key, row: int = -1) -> Edits:
        """The faults of one pattern over ``sites`` (of one dataset sample where ``row`` >= 0)."""

    def share(self, drawn: Edits, sites: Sequence[Site]) -> float:
        """The severity achieved: the share of the sites' bits that the edits name."""
        return drawn.n_bits / sum(site.size * site.bits for site in sites)


@dataclass(frozen=True)
class SingleFaultPerturbation(EditPerturbation):
    """One fault per pattern, out of a population that can be counted: what a campaign samples."""

    @abstractmethod
    def strata(self, sites: Sequence[Site]) -> Mapping[tuple[str, str], int]:
        """Number of possible faults by (site, bit field); together they are the population."""

    @abstractmethod
    def nth(self, sites: Sequence[Site], field: str, n: int, key: Key, row: int = -1) -> Edits:
        """The ``n``-th fault of a random order of those of one bit field of some sites.

        Args:
            sites: whose faults are ordered.
            field: as in ``strata``.
            n: from 0; no two of an order are the same fault.
            key: of a pattern (and row); the order is that of all its patterns.
            row: dataset sample index for activations.
        """


@dataclass(frozen=True)
class TransformPerturbation(Perturbation):
    """A perturbation that computes new values for a tensor, sample by sample."""

    @abstractmethod
    def transform(
        self, array: Array, samples: npt.NDArray[np.int64], key: Key
    ) -> tuple[Array, npt.NDArray[np.float64]]:
        """New values of ``array`` in its dtype, and what was achieved.

        Args:
            array: its first dimension is ``samples``.
            samples: dataset indices.
            key: of the pattern and input; children are keyed by sample.

        Returns:
            The new array, and the severity really achieved per sample (NaN where undefined).
        """

    def fit(self, whole: Array) -> Self:
        """The same, knowing the whole dataset's tensor, where a draw depends on that.

        Called once per input and process, never with a batch; keys stay those of the original.
        """
        return self


@dataclass(frozen=True)
class ValuePerturbation(Perturbation):
    """A perturbation that computes new values for a stored tensor from its present ones."""

    @abstractmethod
    def rewrite(
        self, site: Site, values: npt.NDArray[np.float64], key: Key
    ) -> npt.NDArray[np.float64]:
        """New values of a stored tensor, in its shape; they are then rounded to its dtype.

        Args:
            site: the tensor, for its name, kind and stored dtype.
            values: what is stored, by ``hwbench.values.decode``: int8 gives codes.
            key: of this pattern (chip) and site.
        """

    @abstractmethod
    def achieved(self, before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> float:
        """The severity that one site really got after rounding; NaN where it is undefined."""


class Victim(Protocol):
    """The deployed model as a search sees it, with all that was committed so far in it."""

    def stored(self, name: str) -> Array:
        """A site's tensor as stored now; see ``Backend.stored``."""

    def losses(self, candidates: Sequence[Edits]) -> npt.NDArray[np.float64]:
        """Mean loss over the attacked samples, in nats, with each of the candidates alone added.

        Each candidate's edits concern one site; shape (candidates,).
        """

    def gradient(self, name: str) -> npt.NDArray[np.float64] | None:
        """Derivative of that loss by a site's values now, in its shape; ``None`` if not known."""


@dataclass(frozen=True)
class SearchPerturbation(Perturbation):
    """A perturbation that looks at the model while it chooses: the worst case, not a usual one.

    Severities are nested by construction: severity k is the first k steps of one search.
    """

    @property
    @abstractmethod
    def attacked(self) -> int:
        """How many samples of the dataset the search tries its candidates on, at most."""

    @abstractmethod
    def steps(self, victim: Victim, sites: Sequence[Site], key: Key) -> Iterator[Edits]:
        """Step after step, without end; each is committed to ``victim`` before the next is asked.

        Args:
            victim: what is attacked.
            sites: what may be hit, in topological order.
            key: of this pattern.

        Yields:
            Edits over ``sites`` (their names in this order) that no earlier step made.
        """

    def share(self, found: Edits, sites: Sequence[Site]) -> float:
        """The severity achieved: the share of the sites' bits that the edits name."""
        return found.n_bits / sum(site.size * site.bits for site in sites)


Counters = Mapping[str, float]


@dataclass
class Launch:
    """How a worker is about to be started; conditions change it in place.

    Attributes:
        argv: the command. A condition may put a program before it that changes itself and then
            ``exec``s the rest, so that the process id stays the worker's.
        variables: the worker's environment variables.
        backend: the adapter it will run, for what only a runtime knows.
        reads: folders that the worker reads, such as the artifact's.
    """

    argv: list[str]
    variables: dict[str, str]
    backend: Backend
    reads: tuple[Path, ...] = ()


@dataclass
class Enforced:
    """A condition in force.

    Attributes:
        mechanism: what enforces it here, in words.
        counters: what happened under it, read when the worker has ended: columns of ``processes``
            such as ``oom_kills``.
        started: called with the worker's process id as soon as it runs.
        needs_core: it keeps a thread of ours busy, so that timing needs a core beside the worker's.
        emulated: the worker runs on a CPU made of software: what it computes counts, its time not.
    """

    mechanism: str
    counters: Callable[[], Counters] = dict
    started: Callable[[int], None] = lambda pid: None
    needs_core: bool = False
    emulated: bool = False


@dataclass(frozen=True)
class Condition(Scenario):
    """Constrains the worker process from outside; nothing of it runs in the worker."""

    @property
    def target(self) -> Literal["process"]:
        """The process as a whole."""
        return "process"

    @property
    def unit(self) -> Literal["sample"]:
        """Nothing is drawn, so samples are the units."""
        return "sample"

    @property
    def searched(self) -> bool:
        """Whether its severity is not given, but to be found by bisection."""
        return False

    def at(self, severity: float) -> Self:
        """The same condition at a severity; at infinity it limits nothing, and still counts.

        Raises:
            NotImplementedError: its severity cannot be searched.
        """
        raise NotImplementedError(f"the severity of {self.name} cannot be searched")

    @abstractmethod
    def check(self) -> Capability:
        """Whether this machine can enforce it, with the reason where it cannot."""

    def refuses(self, backend: Backend) -> str:
        """Why it means nothing for a runtime; empty when it does."""
        return ""

    @abstractmethod
    def enforce(self, launch: Launch) -> AbstractContextManager[Enforced]:
        """Have the worker that ``launch`` starts constrained; leaving the context undoes it.

        Raises:
            Unsupported: it cannot be enforced after all; the worker is not started.
        """

    @classmethod
    @abstractmethod
    def abilities(cls) -> Mapping[str, Capability]:
        """What this machine can enforce, mechanism by mechanism, for ``hwbench doctor``."""
