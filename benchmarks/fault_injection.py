"""Faults per second of hwbench and of other people's injectors, on the same networks.

Each tool runs in a process and an environment of its own (other people's are installed into .bench/
when first asked for), with one thread and a bare forward pass of the same deployment before every
run. Times are CPU times. What is done once per site or tool (gates, sessions) is shown as `ready`
and is no part of the rates. Some faults of every kind are repeated by an independent run and
compared byte by byte: for hwbench the corrupted file in a fresh session, for the others a copy of
the network in which the same bit was flipped by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from benchmarks.injectors.environments import (
    MRFI,
    PYTORCHFI,
    ROOT,
    Missing,
    Tool,
    last_line,
    python_of,
)
from benchmarks.injectors.measured import Measured

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
DEFAULT = {"resnet20": Extent(800, ALL, 22, 40, 12), "resnet50": Extent(48, 3, 3, 4, 2)}
QUICK = {"resnet20": Extent(256, 8, 8, 12, 6), "resnet50": Extent(16, 1, 1, 2, 1)}
DEPLOYMENTS = (("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("torch", "fp32"))
PEERS = ((MRFI, "mrfi_peer"), (PYTORCHFI, "pytorchfi_peer"))


def ours(network: str, extent: Extent) -> Iterator[Measured]:
    """hwbench on every runtime."""
    for backend, precision in DEPLOYMENTS:
        options = {"backend": backend, "precision": precision, "layers": extent.layers}
        options |= {"faults": extent.faults, "checks": extent.checks}
        blank = Measured("hwbench", f"{backend} {precision}", network, "")
        yield from _told(sys.executable, "replayed", network, options, blank)


def theirs(network: str, extent: Extent) -> Iterator[Measured]:
    """Other people's tools."""
    for tool, module in PEERS:
        blank = Measured(tool.requirement.split("==")[0], "torch fp32", network, "")
        yield from _theirs(tool, module, extent, blank)


def _theirs(tool: Tool, module: str, extent: Extent, blank: Measured) -> Iterator[Measured]:
    try:
        python = python_of(tool)
    except Missing as reason:
        yield replace(blank, note=f"cannot be had: {reason}")
        return
    options = {"faults": extent.peer_faults, "checks": extent.peer_checks}
    yield from _told(str(python), module, blank.network, options, blank)


def _told(
    python: str, module: str, network: str, options: Mapping[str, object], blank: Measured
) -> list[Measured]:
    """Run a tool and read its lines; a process that fails is a line of the table too."""
    command = [python, "-W", "ignore", "-m", f"benchmarks.injectors.{module}"]
    for name, value in {"network": network, **options}.items():
        command += [f"--{name}", str(value)]
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    if module != "replayed":
        path = str(ROOT)
    done = subprocess.run(
        command, env={**os.environ, **single, "PYTHONPATH": path}, capture_output=True, text=True
    )
    rows = [Measured(**json.loads(each)) for each in done.stdout.splitlines()]
    if done.returncode:
        rows.append(replace(blank, failed=True, note=f"failed: {last_line(done.stderr)}"))
    return rows


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
        parts = [ours(network, extent)] + ([] if asked.no_peers else [theirs(network, extent)])
        found = [row for part in parts for row in part]
        console.print(table(found), "")
        rows += found
    print("\n".join([*notes(rows), FOOTNOTE]))
    return int(any(each.wrong or each.failed for each in rows if each.tool == "hwbench"))


if __name__ == "__main__":
    raise SystemExit(main())
