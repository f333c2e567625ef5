"""The backend: complete, small, and honest unless told otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwbench import edits as bits
from hwbench.backend import (
    SUPPORTED,
    Actual,
    Array,
    Artifact,
    Backend,
    Capability,
    Environment,
    Feeds,
    ModelSource,
    OpPrecision,
    Probe,
    Replayer,
    Session,
    Site,
    TensorSpec,
)
from hwbench.edits import Edits
from hwbench.errors import Unsupported

from .faults import strike
from .replay import FakeReplayer
from .shown import ShowingReplayer

VERSION = "0.0.0"
OUTPUT = "logits"
ISA = "HWBENCH_FAKE_ISA"


class FakeBackend(Backend):
    """``x @ weight.T + bias`` from an ONNX file's initializers.

    Options: ``die``, ``at`` (build, load, run, told: what really ran), ``on``, ``once``,
    ``grouped`` (see ``faults.strike``); ``lie`` (bf16, device, threads: what ``actual`` reports
    instead) and ``lie_once_there_is`` (a path); ``flaky`` (process, call: what outputs depend on);
    ``lands`` (false: corrupting changes nothing); ``stays`` (live faults can be had, and
    whether they are left there);
    ``replay`` (whether faults can be replayed); ``shows`` (whether they can be followed too);
    ``slow`` (seconds that each inference takes).
    """

    name: ClassVar[str] = "fake"
    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    requires: ClassVar[tuple[str, ...]] = ("numpy",)

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        gap = Capability("unsupported", "the fake computes in fp32 only")
        return Probe(VERSION, ("cpu",), {"fp32": SUPPORTED, "int8": gap}, {"live": gap})

    def build(
        self, model: ModelSource, environment: Environment, calibration: Feeds | None, folder: Path
    ) -> Artifact:
        """See ``Backend.build``."""
        import onnx
        from onnx import numpy_helper

        if environment.precision != "fp32":
            raise Unsupported("the fake computes in fp32 only")
        strike(environment.options, "build")
        assert model.onnx is not None
        held = onnx.load(model.onnx).graph.initializer
        tensors = {each.name: np.asarray(numpy_helper.to_array(each)) for each in held}
        _write(folder, tensors)
        output = TensorSpec(OUTPUT, (None, len(tensors["bias"])), "float32")
        return Artifact(folder, environment, model.inputs, (output,))

    def sites(self, artifact: Artifact) -> Sequence[Site]:
        """See ``Backend.sites``."""
        tensors = _read(artifact.folder)
        return [
            Site("weight", "weight", "float32", tensors["weight"].shape, "Gemm", "fc"),
            Site("bias", "bias", "float32", tensors["bias"].shape, "Gemm", "fc"),
        ]

    def corrupt(self, artifact: Artifact, edits: Edits, folder: Path) -> Artifact:
        """See ``Backend.corrupt``."""
        tensors = _read(artifact.folder)
        for name in edits.touched() if artifact.environment.options.get("lands", True) else ():
            tensors[name] = bits.apply(tensors[name], edits.at_site(name))
        _write(folder, tensors)
        return replace(artifact, folder=folder)

    def isa_variables(self, ceiling: str) -> Mapping[str, str]:
        """See ``Backend.isa_variables``."""
        if ceiling != "avx2":
            raise Unsupported(f"the fake knows avx2, not {ceiling}")
        return {ISA: ceiling}

    def open(self, artifact: Artifact) -> Session:
        """See ``Backend.open``."""
        tensors = _read(artifact.folder)
        strike(artifact.environment.options, "load", tensors["weight"])
        return FakeSession(artifact, tensors)

    def replayer(self, artifact: Artifact, feeds: Feeds, memory_mib: float) -> Replayer:
        """See ``Backend.replayer``."""
        if artifact.environment.options.get("shows"):
            return ShowingReplayer(_read(artifact.folder), feeds)
        if not artifact.environment.options.get("replay"):
            raise Unsupported("the fake replays and shows nothing unless told to")
        return FakeReplayer(artifact, _read(artifact.folder), feeds)

    def stored(self, artifact: Artifact, name: str) -> Array:
        """See ``Backend.stored``."""
        return _read(artifact.folder)[name]


class FakeSession(Session):
    """The classifier in memory."""

    def __init__(self, artifact: Artifact, tensors: Mapping[str, Array]) -> None:
        self.inputs, self.outputs = artifact.inputs, artifact.outputs
        self._environment = artifact.environment
        self._options: Mapping[str, Any] = artifact.environment.options
        self._tensors = self._stored = tensors
        self._calls = 0

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See ``Session.run``."""
        (rows,) = feeds.values()
        strike(self._options, "run", rows)
        time.sleep(self._options.get("slow", 0.0))
        self._calls += 1
        with np.errstate(all="ignore"):  # faulted weights may overflow: that is a result
            logits = np.asarray(
                [self._tensors["weight"] @ row + self._tensors["bias"] for row in rows], np.float32
            )
        return {OUTPUT: logits + np.float32(self._wobble())}

    def live(self, edits: Edits) -> None:
        """See ``Session.live``; option ``stays``: what was done is not taken back."""
        if "stays" not in self._options:
            super().live(edits)
        if not self._options["stays"]:
            self._tensors = dict(self._stored)
        held = dict(self._tensors)
        for name in edits.touched():
            held[name] = bits.apply(held[name], edits.at_site(name))
        self._tensors = held

    def loaded(self, name: str) -> Array:
        """See ``Session.loaded``."""
        if "stays" not in self._options:
            return super().loaded(name)
        return self._tensors[name].copy()

    def _wobble(self) -> float:
        by = {"process": os.getpid(), "call": self._calls}
        return 1e-3 * by.get(self._options.get("flaky", ""), 0)

    @property
    def actual(self) -> Actual:
        """See ``Session.actual``."""
        strike(self._options, "told")
        when = self._options.get("lie_once_there_is")
        lie = self._options.get("lie") if when is None or Path(when).exists() else None
        op = OpPrecision("fc", "Gemm", "fp32", "bf16" if lie == "bf16" else "fp32", "numpy")
        threads = self._environment.threads + (lie == "threads")
        device = "elsewhere" if lie == "device" else "cpu"
        return Actual(VERSION, device, "numpy", threads, os.environ.get(ISA, "any"), (op,))


def _write(folder: Path, tensors: Mapping[str, Array]) -> None:
    for name, tensor in tensors.items():
        np.save(folder / f"{name}.npy", tensor, allow_pickle=False)


def _read(folder: Path) -> dict[str, Array]:
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
