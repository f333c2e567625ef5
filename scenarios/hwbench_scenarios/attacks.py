"""The calls into the Adversarial Robustness Toolbox; imported only where an attack is prepared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hwbench.backend import Array, ModelSource
from hwbench.errors import Unsupported
from hwbench.scenario import Source
from hwbench.seeds import Key
from hwbench_torch.modules import load_module

Floats = npt.NDArray[np.float64]
Infer = Callable[[Array], Array]  # a batch of the input to logits


@dataclass(frozen=True)
class Budget:
    """What an attack may do; ``eps`` and ``step`` may be arrays that broadcast over samples."""

    order: float
    eps: Any
    step: Any
    steps: int
    starts: int


@dataclass(frozen=True)
class Sampling:
    """How CLEVER samples gradients around an input."""

    order: float
    radius: float
    batches: int
    size: int


class _Logits(nn.Module):
    """A module that gives one output alone."""

    def __init__(self, module: nn.Module, output: str | None) -> None:
        super().__init__()
        self.module, self.output = module, output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.module(x)
        if isinstance(found, Mapping):
            found = found[self.output] if self.output else next(iter(found.values()))
        elif isinstance(found, list | tuple):
            names = list(getattr(self.module, "output_names", ()))
            found = found[names.index(self.output) if self.output in names else 0]
        chosen: torch.Tensor = found
        return chosen


def differentiable(source: Source, model: ModelSource, clip: tuple[float, float]) -> Any:
    """ART's classifier of the torch model, clipped to the input's range."""
    from art.estimators.classification import PyTorchClassifier

    module = _Logits(load_module(model), source.output)
    shape = next(iter(source.inputs.values())).shape[1:]
    return PyTorchClassifier(
        module,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=_classes(module, shape),
        clip_values=clip,
        device_type="cpu",
    )


def _classes(module: nn.Module, shape: tuple[int, ...]) -> int:
    with torch.no_grad():
        found = module(torch.zeros((2, *shape)))
    if found.ndim != 2 or found.shape[1] < 2:
        raise Unsupported(f"attacks need a classifier: its output has shape {tuple(found.shape)}")
    return int(found.shape[1])


def by_module(model: ModelSource, source: Source) -> Infer:
    """Inference by the torch model."""
    module = _Logits(load_module(model), source.output)

    def infer(batch: Array) -> Array:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(np.asarray(batch, np.float32))).numpy())

    return infer


def by_session(source: Source) -> Infer:
    """Inference by the environment that the scenario names."""
    assert source.session is not None
    session = source.session()
    name, clean = next(iter(source.inputs.items()))
    fixed = source.model.inputs[0].shape[0]

    def infer(batch: Array) -> Array:
        rows = len(batch)
        size = fixed or rows
        parts = []
        for start in range(0, rows, size):
            part = np.asarray(batch[start : start + size], clean.dtype)
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            outputs = session.run({name: padded})
            found = outputs[source.output] if source.output else next(iter(outputs.values()))
            parts.append(found[: len(part)])
        return np.concatenate(parts)

    return infer


@contextmanager
def _seeded(key: Key) -> Iterator[None]:
    """ART draws from NumPy's and torch's global streams; they are given back as they were."""
    seed = int(key.hex(), 16) % 2**32
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)


def _by_batch(source: Source, count: int) -> Iterator[slice]:
    for start in range(0, count, source.batch):
        source.alive()
        yield slice(start, start + source.batch)


def fgsm(victim: Any, source: Source, clean: Array, order: float, eps: float) -> Array:
    """One step against the labels, or against the model's own decision without labels."""
    from art.attacks.evasion import FastGradientMethod

    attack = FastGradientMethod(victim, norm=order, eps=eps, eps_step=eps, batch_size=source.batch)
    labels = source.labels
    parts = [
        attack.generate(clean[rows], None if labels is None else labels[rows])
        for rows in _by_batch(source, len(clean))
    ]
    return np.concatenate(parts)


def pgd(
    victim: Any,
    source: Source,
    clean: Array,
    budget: Budget,
    key: Key,
    labels: npt.NDArray[np.int64] | None,
) -> Array:
    """Projected gradient descent against ``labels``, or the model's own decision without."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    parts = []
    for rows in _by_batch(source, len(clean)):
        eps, step = (
            each[rows].astype(np.float32) if isinstance(each, np.ndarray) else float(each)
            for each in (budget.eps, budget.step)
        )
        attack = ProjectedGradientDescentPyTorch(
            victim,
            norm=budget.order,
            eps=eps,
            eps_step=step,
            max_iter=budget.steps,
            num_random_init=budget.starts,
            batch_size=source.batch,
            verbose=False,
        )
        with _seeded(key.child(rows.start)):
            parts.append(attack.generate(clean[rows], None if labels is None else labels[rows]))
    return np.concatenate(parts)


def hop_skip_jump(
    infer: Infer,
    source: Source,
    clean: Array,
    budget: tuple[str, int, int],
    clip: tuple[float, float],
    key: Key,
) -> Array:
    """The nearest input found with another decision, per sample; the sample itself where none is.

    Args:
        infer: answers with logits.
        source: for labels and batch size.
        clean: the whole input.
        budget: norm, iterations, and the largest number of inferences for a gradient estimate.
        clip: range of the input.
        key: of the draws.
    """
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import BlackBoxClassifier

    norm, steps, queries = budget
    logits = np.concatenate([infer(clean[rows]) for rows in _by_batch(source, len(clean))])
    decided = logits.argmax(axis=1)
    wanted = decided if source.labels is None else source.labels
    victim = BlackBoxClassifier(infer, clean.shape[1:], logits.shape[1], clip_values=clip)
    attack = HopSkipJump(
        victim,
        batch_size=source.batch,
        norm=2 if norm == "l2" else np.inf,
        max_iter=steps,
        max_eval=queries,
        init_eval=min(queries, 20),
        verbose=False,
    )
    found = clean.copy()
    for index in np.flatnonzero(decided == wanted):  # the others need no attack
        source.alive()
        start = _nearest_other(clean, decided, int(index))
        if start is None:
            continue
        with _seeded(key.child(int(index))):
            # With a start of ours: ART would draw its own from a stream that nobody can seed.
            found[index] = attack.generate(
                clean[index : index + 1],
                wanted[index : index + 1],
                x_adv_init=clean[start : start + 1],
            )[0]
    return found


def _nearest_other(clean: Array, decided: npt.NDArray[np.int64], index: int) -> int | None:
    """The nearest sample that the model decides otherwise."""
    others = np.flatnonzero(decided != decided[index])
    if not others.size:
        return None
    distance = np.square(clean[others] - clean[index]).reshape(len(others), -1).sum(axis=1)
    return int(others[distance.argmin()])


def clever(victim: Any, source: Source, clean: Array, sampling: Sampling, key: Key) -> Floats:
    """CLEVER score of each sample over all other classes, shape (samples,)."""
    from art.metrics import clever_u

    scores = np.zeros(len(clean))
    for index, each in enumerate(clean):
        source.alive()
        with _seeded(key.child(index)):
            scores[index] = clever_u(
                victim,
                each,
                nb_batches=sampling.batches,
                batch_size=sampling.size,
                radius=sampling.radius,
                norm=sampling.order,
                pool_factor=5,
                verbose=False,
            )
    return scores
