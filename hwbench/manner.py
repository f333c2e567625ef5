"""How a model is called with a dataset: samples of one call, constants, and what is carried.

A model may be fixed to a batch of its own, take numbers that are no samples (a sampling rate), or
give a state that its next call needs. Lean: workers import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from hwbench.backend import Array, Feeds, TensorSpec
from hwbench.dataset import Dataset
from hwbench.errors import RequestError
from hwbench.registry import nearest

MOST_CONSTANT = 2**28  # bytes: a state or constant is no data


@dataclass(frozen=True)
class Manner:
    """How a model is called.

    Attributes:
        size: samples of one call; ``None``: as many as there are.
        constants: inputs that are no samples, fed alike in every call; states before the first.
        state: inputs that get an output of the call before, by its name. A batch is one sequence:
            its first call gets the state that ``constants`` holds.
        bare: inputs without a batch dimension: a call gets one sample, without it.
    """

    size: int | None = None
    constants: Mapping[str, Array] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    bare: frozenset[str] = frozenset()

    @property
    def plain(self) -> bool:
        """Whether a batch is one call."""
        return self.size is None and not self.constants

    def split(self, feeds: Feeds) -> Iterator[dict[str, Array]]:
        """The samples of each call; none of the constants."""
        rows = rows_of(feeds)
        size = self.size or rows
        for start in range(0, rows, size):
            yield {
                name: np.asarray(array[start] if name in self.bare else array[start : start + size])
                for name, array in feeds.items()
            }

    def joined(self, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Outputs of the calls of a batch, one row a sample.

        What a call of one sample returns is that sample's row, whatever its shape.

        Raises:
            RuntimeError: an output changes its shape from call to call.
        """
        made = {name: [self._rows(part[name]) for part in parts] for name in parts[0]}
        for name, arrays in made.items():
            shapes = {array.shape[1:] for array in arrays}
            if len(shapes) > 1:
                told = " and ".join(map(str, sorted(shapes)))
                raise RuntimeError(
                    f"output {name!r} has rows of shape {told}: rows that differ in shape cannot"
                    " be compared"
                )
        return {name: np.concatenate(arrays) for name, arrays in made.items()}

    def _rows(self, array: Array) -> Array:
        if self.size == 1 and (array.ndim == 0 or len(array) != 1):
            return array[np.newaxis]
        return array


def rows_of(feeds: Feeds) -> int:
    """Rows of a batch; of a model without inputs one."""
    return len(next(iter(feeds.values()))) if feeds else 1


def call_size(inputs: Sequence[TensorSpec], ranks: Mapping[str, int], stateful: bool) -> int | None:
    """Samples of one call of a model; ``None`` where it takes any number.

    Args:
        inputs: of the model, as it declares them.
        ranks: dimensions of the data by input, the one that counts samples among them.
        stateful: whether a state is carried.
    """
    fed = [each for each in inputs if each.name in ranks]
    if stateful or not fed or any(len(each.shape) < ranks[each.name] for each in fed):
        return 1
    return next((each.shape[0] for each in fed if each.shape and each.shape[0]), None)


def calibration_calls(
    inputs: Sequence[TensorSpec], rows: Feeds, usual: int, most: int | None = None
) -> Iterator[dict[str, Array]]:
    """Calibration rows in calls as the model takes them, in its own dtypes.

    Args:
        inputs: of the model.
        rows: by input; the first dimension counts rows.
        usual: rows of a call where the model takes any number.
        most: rows that are used.

    Raises:
        RequestError: an input has no rows, or there are fewer than the model's batch; a rest that
            does not fill its batch is left out.
    """
    missing = [each.name for each in inputs if each.name not in rows]
    if missing:
        what = f"int8 needs calibration rows of the input {', '.join(missing)}."
        raise RequestError(what, where="data.calibration", hint="name them, or ask for fp32.")
    ranks = {each.name: rows[each.name].ndim for each in inputs}
    fixed = call_size(inputs, ranks, stateful=False)
    count = min(len(rows[each.name]) for each in inputs)
    count = min(count, most or count)
    if fixed and count < fixed:
        what = f"int8 needs at least {fixed} calibration rows (the model's batch), not {count}."
        raise RequestError(what, where="data.calibration", hint="add rows.")
    count = count // fixed * fixed if fixed else count
    bare = frozenset(each.name for each in inputs if len(each.shape) < ranks[each.name])
    how = Manner(fixed or min(usual, count), bare=bare)
    used = {each.name: rows[each.name][:count].astype(each.dtype) for each in inputs}
    yield from how.split(used)


def manner(dataset: Dataset, inputs: Sequence[TensorSpec]) -> Manner:
    """How a model with these inputs is called with this dataset."""
    ranks = {name: array.ndim for name, array in dataset.inputs.items()}
    bare = {each.name for each in inputs if len(each.shape) < ranks.get(each.name, 0)}
    size = call_size(inputs, ranks, bool(dataset.state))
    return Manner(size, dataset.constants, dataset.state, frozenset(bare))


def initial(
    constants: Mapping[str, Any], state: Iterable[str], inputs: Sequence[TensorSpec]
) -> dict[str, Array]:
    """Inputs fed alike in every call, as the model takes them; zeros for the first of a state.

    Args:
        constants: by input: a number, or a nested list of the input's shape.
        state: inputs that carry one.
        inputs: of the model; free dimensions count as 1.

    Raises:
        RequestError: the model has no such input, or the values do not fit it.
    """
    known = {each.name: each for each in inputs}
    for role, names in (("constants", constants), ("state", state)):
        for name in names:
            if name not in known:
                what = f"the model has no input {name!r}."
                hint = nearest(name, known) if known else "only ONNX files tell their inputs."
                raise RequestError(what, where=f"data.{role}", hint=hint)
    made = {name: _constant(known[name], value) for name, value in constants.items()}
    return made | {name: _constant(known[name], 0) for name in state}


def _constant(target: TensorSpec, value: Any) -> Array:
    """A number in every element, or a list of the input's own shape; free dimensions are 1."""
    where = f"data.constants.{target.name}"
    shape = tuple(size or 1 for size in target.shape)
    try:
        given = np.asarray(value)
        made = given.astype(target.dtype) if given.dtype.kind in "biuf" else None
    except (ValueError, OverflowError):
        made = None
    if made is None or not np.array_equal(made, given):
        raise RequestError(f"is no {target.dtype} number.", where=where)
    if prod(shape) * made.dtype.itemsize > MOST_CONSTANT:
        raise RequestError(f"the input has shape {shape}: too large.", where=where)
    if made.ndim == 0:
        return np.full(shape, made)
    fits = made.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(target.shape, made.shape, strict=True)
    )
    if not fits:
        raise RequestError(f"has shape {made.shape}, the model takes {shape}.", where=where)
    return made
