"""MRFI: hooks of a configuration tree; its own fp32 bit-flip error mode at fixed positions.

A faulted weight is put back by the hook of a later run, and only while its configuration is
enabled. So the layer that was hit last stays enabled, without positions, for one run more; all
others are disabled, which is the least that a correct campaign can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mrfi import MRFI, EasyConfig
from torch import Tensor, nn

from benchmarks.injectors import peer
from benchmarks.injectors.peer import Fault, Injector, layers_of
from benchmarks.networks import Network


def _inject(kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "enabled": False,
        "selector": {"method": "FixPositions", "positions": []},
        "error_mode": {"method": "FloatFixedBitFlip", "bit": [], "floattype": "float32"},
        "module_type": ["Conv2d", "Linear"],
    }


class Mrfi(Injector):
    """One wrapped module for weights and for outputs."""

    name = "MRFI"

    def __init__(self, module: nn.Module, network: Network) -> None:
        faults = [{**_inject("weight"), "name": ["weight"]}, _inject("activation_out")]
        self._wrapped = MRFI(module, EasyConfig({"faultinject": faults}))
        hit: list[Any] = layers_of(module)
        self._weights = [each.FI_config.weights[0] for each in hit]
        self._outputs = [each.FI_config.activation_out[0] for each in hit]
        self._last: Any = None

    def weight(self, fault: Fault, x: Tensor) -> Tensor:
        """See ``Injector.weight``."""
        hit = self._weights[fault.layer]
        self._let_go(hit)
        _aim(hit, [fault.element], [fault.bit])
        return self._run(x, hit)

    def neurons(self, faults: Sequence[Fault], shape: torch.Size, x: Tensor) -> Tensor:
        """See ``Injector.neurons``."""
        self._let_go()
        hit, size = self._outputs[faults[0].layer], shape[1:].numel()
        places = [each.row * size + each.element for each in faults]
        _aim(hit, places, [each.bit for each in faults])
        result = self._run(x)
        hit.enabled = False
        return result

    @property
    def faulty(self) -> nn.Module:
        """See ``Injector.faulty``."""
        module: nn.Module = self._wrapped.model
        return module

    def intact(self, x: Tensor) -> tuple[nn.Module, Tensor]:
        """See ``Injector.intact``."""
        self._let_go()
        with self._wrapped.golden_run():
            outputs = self._run(x)
        return self.faulty, outputs

    def _let_go(self, hit: Any = None) -> None:
        """Let the next run put the last weight back, unless it hits the same layer again."""
        if self._last is not None and self._last is not hit:
            _aim(self._last, [], [])

    def _run(self, x: Tensor, hit: Any = None) -> Tensor:
        result: Tensor = self._wrapped(x)
        if self._last is not None and self._last is not hit:
            self._last.enabled = False
        self._last = hit
        return result


def _aim(config: Any, positions: list[int], bits: list[int]) -> None:
    config.enabled = True
    config.selector.args.positions = positions
    config.error_mode.args.bit = bits


if __name__ == "__main__":
    peer.main(Mrfi, {})
