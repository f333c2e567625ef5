"""PyTorchFI: a deep copy of the module for every declaration; custom functions flip the bit.

Its own single-bit error model flips a bit of an 8-bit quantised number and exists for outputs only;
its weight models set random numbers. So faults are declared with functions of one's own, as its
documentation describes, which flip a bit of the fp32 number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pytorchfi.core import fault_injection
from torch import Tensor, nn

from benchmarks.injectors import peer
from benchmarks.injectors.measured import LAYERS, NEURONS, ONE_NEURON, PARAMETERS
from benchmarks.injectors.peer import HIT, Fault, Injector, flip, layers_of
from benchmarks.networks import Network


class _Flips(fault_injection):  # type: ignore[misc]  # it ships no types
    """An error model as PyTorchFI's own ones are written: a subclass with a hook."""

    bits: Sequence[int] = ()

    def flip_output(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        layer = self.get_current_layer()
        if self.corrupt_layer[0] == layer:
            size = output[0].numel()
            for row, element, bit in zip(self.corrupt_batch, self.flat, self.bits, strict=True):
                flip(output, row * size + element, bit)
        self.updateLayer()
        if self.get_current_layer() >= self.get_total_layers():
            self.reset_current_layer()


class PyTorchFi(Injector):
    """Declares a corrupted copy for every run."""

    name = "PyTorchFI"

    def __init__(self, module: nn.Module, network: Network) -> None:
        with torch.no_grad():
            shape = list(network.shape)
            self._tool = _Flips(module, network.batch, shape, list(HIT), use_cuda=False)
        self._weights = [tuple(each.weight.shape) for each in layers_of(module)]

    def weight(self, fault: Fault, x: Tensor) -> Tensor:
        """See ``Injector.weight``."""
        places = _places(fault.element, self._weights[fault.layer])
        corrupted = self._tool.declare_weight_fi(
            function=lambda data, at: _flipped(data[at], fault.bit),
            layer_num=[fault.layer],
            **{key: [at] for key, at in zip(("k", "dim1", "dim2", "dim3"), places, strict=True)},
        )
        return _run(corrupted, x)

    def neurons(self, faults: Sequence[Fault], shape: torch.Size, x: Tensor) -> Tensor:
        """See ``Injector.neurons``."""
        places = [_places(each.element, tuple(shape[1:]), 3) for each in faults]
        self._tool.flat = [each.element for each in faults]
        self._tool.bits = [each.bit for each in faults]
        corrupted = self._tool.declare_neuron_fi(
            function=self._tool.flip_output,
            layer_num=[each.layer for each in faults],
            batch=[each.row for each in faults],
            dim1=[each[0] for each in places],
            dim2=[each[1] for each in places],
            dim3=[each[2] for each in places],
        )
        return _run(corrupted, x)

    @property
    def faulty(self) -> nn.Module:
        """See ``Injector.faulty``."""
        module: nn.Module = self._tool.get_corrupted_model()
        return module

    def intact(self, x: Tensor) -> tuple[nn.Module, Tensor]:
        """See ``Injector.intact``."""
        self._tool.fi_reset()
        module: nn.Module = self._tool.get_original_model()
        return module, _run(module, x)


def _places(element: int, shape: tuple[int, ...], dimensions: int = 4) -> list[int | None]:
    """Indices by dimension, none beyond those that there are."""
    found: list[int | None] = [int(each) for each in np.unravel_index(element, shape)]
    return found + [None] * (dimensions - len(shape))


def _flipped(number: Tensor, bit: int) -> Tensor:
    result = number.detach().clone()
    flip(result, 0, bit)
    return result


def _run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = module(x)
    return result


if __name__ == "__main__":
    note = "fp32 bit flips by functions of ours: its own models know none"
    peer.main(PyTorchFi, dict.fromkeys((PARAMETERS, LAYERS, NEURONS, ONE_NEURON), note))
