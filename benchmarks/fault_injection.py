"""Faults per second of hwbench and of other people's injectors, on the same networks.

Each tool runs in a process and an environment of its own (other people's are installed into .bench/
when first asked for), with one thread and a bare forward pass of the same deployment before every
run. The processes work in turns, a little of a target each, so that a machine whose speed drifts is
as fast for one as for another. Times are CPU times. What is done once per site or tool (gates,
sessions) is shown as `ready` and is no part of the rates. Some faults of every kind are repeated by
an independent run and compared byte by byte: for hwbench the corrupted file in a fresh session, for
the others a copy of the network in which the same bit was flipped by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from benchmarks.injectors.environments import (
    MRFI,
    PYTORCHFI,
    ROOT,
    Missing,
    last_line,
    python_of,
)
from benchmarks.injectors.measured import LAYERS, NEURONS, ONE_NEURON, PARAMETERS, Measured

FOOTNOTE = """\
forwards: faults in the time of one bare forward pass of the same deployment, by CPU time
(and by the clock); above 1 is faster than a forward pass.
x MRFI: faults per second over MRFI's on the same network and target, in this run.
The deployments compared differ: hwbench hits tensors of the graph that the runtime executes (after
folding and fusion, int8 as stored), the others weights and outputs of modules. All flip one random
bit. wrong/checked: faults that did not land, gave other bytes than the independent run, or stayed.
On a busy machine rates are indicative; ratios within a deployment suffer less."""


@dataclass(frozen=True)
class Extent:
    """How much is run of a network."""

    faults: int
    layers: int
    checks: int
    peer_faults: int
    peer_checks: int


ALL = 1000  # layers
DEFAULT = {"resnet20": Extent(800, ALL, 22, 80, 12), "resnet50": Extent(48, 3, 3, 4, 2)}
QUICK = {"resnet20": Extent(256, 8, 8, 12, 6), "resnet50": Extent(16, 1, 1, 2, 1)}
DEPLOYMENTS = (("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("torch", "fp32"))
TARGETS = (PARAMETERS, LAYERS, ONE_NEURON, NEURONS)  # as they are measured
PEERS = ((MRFI, "mrfi_peer"), (PYTORCHFI, "pytorchfi_peer"))


class Running:
    """A tool's process; it works between being told to go on and saying how far it is."""

    def __init__(
        self, python: str, module: str, options: Mapping[str, object], blank: Measured
    ) -> None:
        command = [python, "-W", "ignore", "-m", f"benchmarks.injectors.{module}"]
        for name, value in {"network": blank.network, **options}.items():
            command += [f"--{name}", str(value)]
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        own = str(ROOT) if module != "replayed" else path
        self._blank, self.rows = blank, list[Measured]()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **single, "PYTHONPATH": own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.place = self._heard()

    def go_on(self) -> None:
        """Let it work until it has done a little more, or all."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; what it says then is read below
        self.place = self._heard()

    def _heard(self) -> tuple[int, float] | None:
        """The target that it is at and the share of it that is done; None at its end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "done" in told:
                return TARGETS.index(told["target"]), told["done"]
            self.rows.append(Measured(**told))
        self._process.communicate()
        if self._process.returncode:
            self._errors.seek(0)
            note = f"failed: {last_line(self._errors.read())}"
            self.rows.append(replace(self._blank, failed=True, note=note))
        self._errors.close()
        return None


def measure(network: str, extent: Extent, *, peers: bool) -> list[Measured]:
    """All tools on a network: whichever is least far does a little more."""
    rows, running = list[Measured](), list[Running]()
    for backend, precision in DEPLOYMENTS:
        options = {"backend": backend, "precision": precision, "layers": extent.layers}
        options |= {"faults": extent.faults, "checks": extent.checks}
        blank = Measured("hwbench", f"{backend} {precision}", network, "")
        running.append(Running(sys.executable, "replayed", options, blank))
    for tool, module in PEERS if peers else ():
        blank = Measured(tool.requirement.split("==")[0], "torch fp32", network, "")
        options = {"faults": extent.peer_faults, "checks": extent.peer_checks}
        try:
            running.append(Running(str(python_of(tool)), module, options, blank))
        except Missing as reason:
            rows.append(replace(blank, note=f"cannot be had: {reason}"))
    while waiting := [(each.place, at) for at, each in enumerate(running) if each.place]:
        running[min(waiting)[1]].go_on()
    return rows + [row for each in running for row in each.rows]


def table(rows: Sequence[Measured]) -> Table:
    """One row per kind of fault, deployment and network."""
    result = Table(box=None, pad_edge=False)
    for name in ("network", "target", "tool", "deployment"):
        result.add_column(name, no_wrap=True)
    for name in ("faults", "faults/s", "forwards", "(clock)", "x MRFI", "wrong/checked", "ready s"):
        result.add_column(name, justify="right", no_wrap=True)
    floors = _floors(rows)
    for each in sorted(rows, key=lambda row: (row.network, row.target)):
        cells = [each.network, each.target, each.tool, each.deployment]
        if not each.faults:
            result.add_row(*cells, "not available")
            continue
        floor = floors.get((each.network, each.target), 0.0)
        cells += [f"{each.faults}", f"{each.per_second:.1f}", f"{each.multiple:.2f}"]
        cells += [f"{each.wall_multiple:.2f}"]
        cells += [f"{each.per_second / floor:.2f}" if floor else "-"]
        cells += [f"{each.wrong}/{each.checked}" if each.checked else "-", f"{each.ready_s:.1f}"]
        result.add_row(*cells)
    return result


def _floors(rows: Sequence[Measured]) -> dict[tuple[str, str], float]:
    """MRFI's faults per second by network and target."""
    mine = [each for each in rows if each.tool == "MRFI" and each.faults]
    return {(each.network, each.target): each.per_second for each in mine}


def notes(rows: Sequence[Measured]) -> list[str]:
    """What a reader must know of single rows, each once."""
    told = [f"{each.tool}, {each.deployment}: {each.note}" for each in rows if each.note]
    return list(dict.fromkeys(told))


def main() -> int:
    """Print the table; 1 if hwbench failed, or a fault of its differed from the independent run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few layers; ResNet-20 alone")
    parser.add_argument("--network", nargs="+", choices=DEFAULT, help="default: both")
    parser.add_argument("--no-peers", action="store_true", help="hwbench only")
    asked = parser.parse_args()
    console, rows = Console(width=160, soft_wrap=True), list[Measured]()
    for network in asked.network or (["resnet20"] if asked.quick else list(DEFAULT)):
        extent = (QUICK if asked.quick else DEFAULT)[network]
        found = measure(network, extent, peers=not asked.no_peers)
        console.print(table(found), "")
        rows += found
    print("\n".join([*notes(rows), FOOTNOTE]))
    return int(any(each.wrong or each.failed for each in rows if each.tool == "hwbench"))


if __name__ == "__main__":
    raise SystemExit(main())
