"""Adversarial inputs: made once against the model in torch, then fed to every environment.

The attacks are the Adversarial Robustness Toolbox's (ART). Gradients are those of the model's torch
form in fp32; what is measured elsewhere is how far the attack *transfers*, not how an attacker who
knows that environment would do. Accuracy under attack is an upper bound of robust accuracy.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hwbench.backend import SUPPORTED, Array, Capability, ModelSource, TensorSpec
from hwbench.errors import Unsupported
from hwbench.scenario import PreparedPerturbation, Source, parameter
from hwbench.seeds import Key

Floats = npt.NDArray[np.float64]
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
_HINT = 'pip install "hwbench[adversarial]"'


@dataclass(frozen=True)
class _Attack(PreparedPerturbation):
    """What all attacks share: the torch model they are guided by, and the input's range."""

    code: ClassVar[tuple[str, ...]] = ("through",)

    through: str | None = parameter(
        None,
        "package.module:factory of the torch model that guides the attack; the model's own if"
        " absent (needs --allow-code)",
    )
    weights: str | None = parameter(None, "its safetensors or weights-only .pt file", path=True)
    low: float | None = parameter(None, "lower end of the input's range; the dataset's if absent")
    high: float | None = parameter(None, "upper end of the input's range; the dataset's if absent")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) lies below high ({self.high:g})")
        if self.weights and not self.through:
            raise ValueError("weights belong to a torch factory: give through, too")

    @property
    def identity(self) -> dict[str, Any]:
        """Where files lie decides nothing about what is drawn."""
        return {k: v for k, v in super().identity.items() if k not in ("through", "weights")}

    def refuses(self, tensor: TensorSpec) -> str:
        """Integers (token ids, indices) have no gradient and no distance."""
        if np.issubdtype(np.dtype(tensor.dtype), np.floating):
            return ""
        return (
            f"{self.name} moves real-valued inputs along a gradient or a distance, and"
            f" {tensor.name!r} is {tensor.dtype}: token ids and indices have neither"
        )

    def requires(self) -> Capability:
        """ART, which brings the attacks."""
        if find_spec("art") is None:
            return Capability("unsupported", f"{self.name} needs ART. Hint: {_HINT}")
        return SUPPORTED

    def prepare(self, source: Source, name: str, key: Key) -> tuple[Array, Floats]:
        """The perturbed input, and the norm of what was added, per sample."""
        if len(source.inputs) > 1:
            others = ", ".join(each for each in source.inputs if each != name)
            raise Unsupported(
                f"{self.name} attacks models of one input, and this one also takes {others}"
            )
        clean = source.inputs[name].astype(np.float32)
        attacked = self.attacked(source, clean, key)
        return attacked, norms(attacked - clean, self.order)

    def range_of(self, clean: Array) -> tuple[float, float]:
        """What the attack is clipped to."""
        low = float(clean.min()) if self.low is None else self.low
        return low, float(clean.max()) if self.high is None else self.high

    def torch_form(self, model: ModelSource) -> ModelSource:
        """The torch model whose gradients are taken.

        Raises:
            Unsupported: there is none.
        """
        if self.through:
            return replace(model, torch=self.through, weights=self.weights)
        if model.torch is None:
            raise Unsupported(
                f"{self.name} needs gradients, and the model is an ONNX file: no kept converter"
                " makes today's operator sets differentiable. Hint: give the same network in torch"
                " as through: package.module:factory and weights: FILE, with --allow-code"
            )
        return model

    @property
    @abstractmethod
    def order(self) -> float:
        """Order of the norm that is bounded."""

    @abstractmethod
    def attacked(self, source: Source, clean: Array, key: Key) -> Array:
        """The attacked input of the whole dataset, float32."""


@dataclass(frozen=True)
class _Bounded(_Attack):
    """An attack within a ball of radius ``eps``."""

    severities: ClassVar[tuple[str, ...]] = ("eps",)

    eps: float | None = parameter(
        None, "largest norm of the change, in the input's own units (8 on 0..255 is 8/255)"
    )
    norm: Literal["linf", "l2", "l1"] = parameter("linf", "linf, l2 or l1")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.eps is not None and not self.eps >= 0:
            raise ValueError(f"eps is at least 0, not {self.eps:g}")

    @property
    def order(self) -> float:
        """That of ``norm``."""
        return ORDERS[self.norm]


@dataclass(frozen=True)
class Fgsm(_Bounded):
    """The fast gradient (sign) method: one step of size eps against the labels.

    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.
    """

    name: ClassVar[str] = "fgsm"
    example: ClassVar[str] = "{fgsm: {eps: [0.5, 1, 2], norm: linf}}"

    @property
    def variant(self) -> str:
        """The norm."""
        return self.norm

    def attacked(self, source: Source, clean: Array, key: Key) -> Array:
        """By ART."""
        from hwbench_scenarios import attacks

        if not self.eps:
            return clean
        victim = attacks.differentiable(source, self.torch_form(source.model), self.range_of(clean))
        return attacks.fgsm(victim, source, clean, self.order, self.eps)


@dataclass(frozen=True)
class Pgd(_Bounded):
    """Projected gradient descent: steps against the labels, each projected back into the ball.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018. Every
    pattern has random starts of its own.
    """

    name: ClassVar[str] = "pgd"
    example: ClassVar[str] = "{pgd: {eps: [1, 2, 4], steps: 10, norm: linf}}"

    steps: int = parameter(10, "gradient steps")
    step: float | None = parameter(None, "size of a step; 2.5 eps / steps if absent")
    starts: int = parameter(1, "random starts; 0 starts at the input itself")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.steps < 1 or self.starts < 0:
            raise ValueError("steps is at least 1, starts at least 0")
        if self.step is not None and not self.step > 0:
            raise ValueError(f"step is above 0, not {self.step:g}")

    @property
    def variant(self) -> str:
        """The rest of the budget."""
        starts = "" if self.starts == 1 else f"{self.starts}starts"
        return "-".join(filter(None, (self.norm, f"{self.steps}steps", starts)))

    def attacked(self, source: Source, clean: Array, key: Key) -> Array:
        """By ART."""
        from hwbench_scenarios import attacks

        if not self.eps:
            return clean
        victim = attacks.differentiable(source, self.torch_form(source.model), self.range_of(clean))
        step = self.step or 2.5 * self.eps / self.steps
        budget = attacks.Budget(self.order, self.eps, step, self.steps, self.starts)
        return attacks.pgd(victim, source, clean, budget, key, source.labels)


@dataclass(frozen=True)
class HopSkipJump(_Bounded):
    """A decision-based attack: it sees nothing but which class wins, so it works on any runtime.

    Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE
    S&P 2020. It looks for the nearest input of another class, from the nearest sample of the
    dataset that already is one; a sample whose nearest lies farther than eps stays as it is. So
    what is found at a smaller eps is found at a larger one.
    """

    name: ClassVar[str] = "hopskipjump"
    example: ClassVar[str] = "{hopskipjump: {eps: [100, 300], norm: l2, steps: 3, queries: 100}}"

    norm: Literal["linf", "l2", "l1"] = parameter("l2", "l2 or linf")
    steps: int = parameter(5, "iterations")
    queries: int = parameter(100, "largest number of inferences for one gradient estimate")
    environment: str = parameter(
        "", "id of the environment that answers; the model's torch form if absent"
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.norm == "l1":
            raise ValueError("norm is l2 or linf")
        if self.steps < 1 or self.queries < 10:
            raise ValueError("steps is at least 1, queries at least 10")

    @property
    def variant(self) -> str:
        """The rest of the budget, and who answered."""
        budget = f"{self.norm}-{self.steps}steps-{self.queries}queries"
        return f"{budget}({self.environment})" if self.environment else budget

    @property
    def guide(self) -> str:
        """The environment that answers."""
        return self.environment

    def attacked(self, source: Source, clean: Array, key: Key) -> Array:
        """By ART, once for all eps."""
        nearest = source.shared(key.hex(), lambda: self._nearest(source, clean, key))
        distance = norms(nearest - clean, self.order)
        near = distance <= float(self.eps or 0.0)
        return np.where(near.reshape(-1, *[1] * (clean.ndim - 1)), nearest, clean)

    def _nearest(self, source: Source, clean: Array, key: Key) -> Array:
        from hwbench_scenarios import attacks

        infer = (
            attacks.by_session(source)
            if source.session
            else attacks.by_module(self.torch_form(source.model), source)
        )
        found: Array = attacks.hop_skip_jump(
            infer, source, clean, (self.norm, self.steps, self.queries), self.range_of(clean), key
        )
        return found


@dataclass(frozen=True)
class Clever(_Attack):
    """An attack just as far as each sample's own margin, as CLEVER estimates it.

    Weng et al., "Evaluating the robustness of neural networks: an extreme value theory approach",
    ICLR 2018: an estimate of the distance below which no change alters the decision. Each sample is
    attacked by PGD within ``multiple`` times its score, against the model's own decision: up to 1 a
    faithful environment should decide as before, so churn there is margin that it has lost. The
    achieved severity is the mean norm of the change; at multiple 1 the mean score bounds it.
    """

    name: ClassVar[str] = "clever"
    severities: ClassVar[tuple[str, ...]] = ("multiple",)
    example: ClassVar[str] = "{clever: {multiple: [0.5, 1, 2], norm: l2, batches: 10, size: 32}}"

    multiple: float | None = parameter(None, "radius of the attack by the sample's CLEVER score")
    norm: Literal["linf", "l2", "l1"] = parameter("l2", "linf, l2 or l1")
    radius: float | None = parameter(
        None,
        "largest distance that CLEVER samples, in the input's own units; 5 per mille of the range"
        " (linf), times sqrt(elements) for l2, times elements for l1 if absent",
    )
    batches: int = parameter(10, "batches whose largest gradient norms are fitted")
    size: int = parameter(32, "samples a batch")
    steps: int = parameter(10, "steps of the attack")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        super().__post_init__()
        if self.multiple is not None and not self.multiple >= 0:
            raise ValueError(f"multiple is at least 0, not {self.multiple:g}")
        if min(self.batches, self.size, self.steps) < 1:
            raise ValueError("batches, size and steps are at least 1")

    @property
    def order(self) -> float:
        """That of ``norm``."""
        return ORDERS[self.norm]

    @property
    def variant(self) -> str:
        """The rest of the budget."""
        return f"{self.norm}-{self.batches}x{self.size}-{self.steps}steps"

    def attacked(self, source: Source, clean: Array, key: Key) -> Array:
        """By ART: scores once for all multiples, then PGD."""
        from hwbench_scenarios import attacks

        victim = attacks.differentiable(source, self.torch_form(source.model), self.range_of(clean))
        sampling = attacks.Sampling(self.order, self._radius(clean), self.batches, self.size)
        scores = source.shared(
            key.hex(), lambda: attacks.clever(victim, source, clean, sampling, key)
        )
        eps = float(self.multiple or 0.0) * scores.reshape(-1, *[1] * (clean.ndim - 1))
        if not eps.any():
            return clean
        step = 2.5 * eps / self.steps
        # From the input itself: ART draws no random starts in l1 balls of different sizes.
        budget = attacks.Budget(self.order, eps, step, self.steps, 0)
        return attacks.pgd(victim, source, clean, budget, key, None)

    def _radius(self, clean: Array) -> float:
        if self.radius is not None:
            return self.radius
        low, high = self.range_of(clean)
        elements = float(np.prod(clean.shape[1:]))
        per_element = 0.005 * (high - low)
        return per_element * float(
            {"linf": 1.0, "l2": np.sqrt(elements), "l1": elements}[self.norm]
        )


def norms(change: Array, order: float) -> Floats:
    """The norm of each sample's change, float64, shape (samples,)."""
    flat = change.reshape(len(change), -1).astype(np.float64)
    return np.asarray(np.linalg.norm(flat, ord=order, axis=1))
