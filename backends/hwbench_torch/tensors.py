"""Tensors by rows, and compared by their bits."""

from __future__ import annotations

import numpy as np
import torch

from hwbench.backend import Array
from hwbench.replay.rows import Indices

_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ALIGNMENT = 64  # bytes: of what torch itself allocates; kernels may differ by alignment


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same bits as integers, so that NaN equals itself and 0 differs from -0."""
    return tensor.view(_SIGNED[tensor.element_size()])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bits(a), as_bits(b))


def differing(a: torch.Tensor, b: torch.Tensor) -> Indices:
    """Rows (first dimension) in which a bit differs, ascending, shape (n,)."""
    unequal = as_bits(a) != as_bits(b)
    found: Indices = unequal.reshape(len(a), -1).any(1).numpy().nonzero()[0]
    return found


def has_rows(value: object, rows: int) -> bool:
    """Whether a step's result is a tensor with a first dimension of ``rows``."""
    return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == rows


def take(batch: torch.Tensor, rows: Indices) -> torch.Tensor:
    """Rows of a batch in the batch's layout, aligned as what torch allocates; not to be changed."""
    first, count = int(rows[0]), len(rows)
    if rows[-1] - first + 1 == count and bool((np.diff(rows) == 1).all()):
        return cut(batch, first, first + count)
    return gather(batch, rows)


def gather(batch: torch.Tensor, rows: Indices) -> torch.Tensor:
    """A copy of rows of a batch in the batch's layout."""
    index = torch.from_numpy(np.ascontiguousarray(rows)).to(batch.device)
    if batch.is_contiguous():
        return batch.index_select(0, index)
    strides = batch.stride()
    order = sorted(range(batch.ndim), key=lambda axis: -strides[axis])
    if order[0] != 0:
        return batch.index_select(0, index)
    back = sorted(range(batch.ndim), key=order.__getitem__)
    return batch.permute(order).index_select(0, index).permute(back)


def cut(batch: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Rows ``first`` up to ``last``; copied only where the memory would not be aligned."""
    if first == 0 and last == len(batch):
        return batch
    some = batch[first:last]
    return some.clone() if some.data_ptr() % _ALIGNMENT else some


def from_array(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of an array's bits."""
    return torch.from_numpy(array.view(f"i{array.dtype.itemsize}")).view(dtype)


def to_array(tensor: torch.Tensor) -> Array:
    """A tensor's bits as an array without a copy; bfloat16 as uint16."""
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        bits: Array = plain.view(torch.int16).numpy().view(np.uint16)
        return bits
    array: Array = plain.numpy()
    return array
