"""How often the interaction table names an environment, on a real network's real outputs.

Planted: ResNet-8 with its weights rounded to 5 bits. (It loses *less* under noise than fp32, having
lost 6 points already: what is named is a difference, in whichever direction.)
Null: the same fp32 outputs under another label, once seeing the same noise (as every sweep has it)
and once noise of its own. Over many seeds of the noise, with the statistics that fill the table.

Usage: ``python -m benchmarks.interaction_rates MODEL.onnx DATA.npz [SEEDS]`` (ResNet-8's file, and
an npz with ``x``, NHWC uint8, and ``y``). Each seed is one pass over the samples per model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hwbench import stats
from hwbench.seeds import Key
from hwbench_scenarios.noise import Noise

Right = npt.NDArray[np.int8]

SNR_DB = 25.0
BITS = 5
BATCH = 128


def rounded(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """Weights (not biases) on ``2 ** bits - 1`` levels, symmetric, one scale per output channel."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    levels = 2 ** (bits - 1) - 1
    for tensor in changed.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim >= 2 and values.dtype == np.float32:
            scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / levels
            coarse = (np.rint(values / scale) * scale).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))
    return changed


class Network:
    """A model in ONNX Runtime, on one thread."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def right(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> Right:
        """1 where a sample is classified rightly."""
        parts = [
            self.session.run(None, {self.name: x[start : start + BATCH]})[0].argmax(axis=1)
            for start in range(0, len(x), BATCH)
        ]
        right: Right = (np.concatenate(parts) == y).astype(np.int8)
        return right


def main() -> None:
    """Draw, count, print."""
    path, data = Path(sys.argv[1]), np.load(sys.argv[2])
    seeds = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    x = np.ascontiguousarray(data["x"].transpose(0, 3, 1, 2)).astype(np.float32)
    y = data["y"].astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        degraded = str(Path(folder) / "degraded.onnx")
        onnx.save(rounded(onnx.load(str(path)), BITS), degraded)
        networks = Network(str(path)), Network(degraded)
        clean = [each.right(x, y) for each in networks]
        print(f"{len(x)} samples, clean accuracy {clean[0].mean():.4f}, {BITS}-bit weights"
              f" {clean[1].mean():.4f}")  # fmt: skip
        report(*[np.stack(each) for each in drawn(networks, x, y, seeds)], clean=clean)


def drawn(
    networks: tuple[Network, Network],
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    seeds: int,
) -> tuple[list[Right], list[Right], list[Right]]:
    """Per seed: fp32 and degraded under the same noise, and fp32 under noise of its own."""
    found: tuple[list[Right], list[Right], list[Right]] = ([], [], [])
    scenario = Noise(snr_db=SNR_DB)
    for seed in range(seeds):
        for own in (False, True):
            key = Key.of_pattern(seed + own * seeds, scenario.identity, 0)
            noisy, _ = scenario.transform(x, np.arange(len(x)), key.child("input"))
            if own:
                found[2].append(networks[0].right(noisy, y))
            else:
                found[0].append(networks[0].right(noisy, y))
                found[1].append(networks[1].right(noisy, y))
    return found


def report(same: Right, degraded: Right, other: Right, *, clean: list[Right]) -> None:
    """Rates at which each comparison is named, by the interval and by McNemar's test at 5 %."""
    print(f"noise at {SNR_DB:g} dB, {len(same)} seeds; accuracy {same.mean():.4f},"
          f" degraded {degraded.mean():.4f}")  # fmt: skip
    for name, first, base in (
        ("planted: degraded, same noise", degraded, clean[1]),
        ("null: fp32 renamed, same noise", same, clean[0]),
        ("null: fp32 renamed, other noise", other, clean[0]),
    ):
        found = [
            stats.interaction(
                (base, one[None]), (clean[0], two[None]), shared_patterns=False, resamples=1000
            )
            for one, two in zip(first, same, strict=True)
        ]
        named = sum(each.named for each in found)
        less = sum(each.named and each.difference > 0 for each in found)
        tested = sum(each.p_value < 0.05 for each in found)
        limits = stats.wilson(named, len(found))
        mean = float(np.mean([each.difference for each in found]))
        print(
            f"{name:34} mean {mean:+.4f}; named by the interval {named} of {len(found)}"
            f" [{limits.low:.3f}, {limits.high:.3f}], {less} as losing less; McNemar {tested}"
        )


if __name__ == "__main__":
    main()
