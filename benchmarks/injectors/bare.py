"""A bare forward pass of a deployed network in a process of its own, on demand.

In the injector's process its memory allocator would be in another state than as deployed: a forward
pass of eager torch takes a fifth less time between replays, whose large tensors keep the heap from
being handed back to the system.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

from benchmarks.images import images
from benchmarks.injectors.measured import Clock
from benchmarks.networks import NETWORKS, Network
from hwbench import registry
from hwbench.backend import Artifact

WARM_UP = 3


class Bare:
    """The other process, waiting between runs."""

    def __init__(self, artifact: Artifact, network: Network) -> None:
        artifact.save()
        argv = [sys.executable, "-m", "benchmarks.injectors.bare", str(artifact.folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [*argv, network.name], stdin=pipe, stdout=pipe, text=True, bufsize=1
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # not beside what another tool does in its turn

    def time(self, clock: Clock) -> None:
        """One forward pass, added to a clock."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        cpu, wall = map(float, self._process.stdout.readline().split())
        clock.cpu.append(cpu)
        clock.wall.append(wall)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.communicate()


def main(folder: str, network: Network) -> None:
    """Run once per line of the input and tell CPU and wall milliseconds."""
    artifact = Artifact.load(Path(folder))
    session = registry.backend(artifact.environment.backend).open(artifact)
    feeds = {"input": images(network.batch, network.shape)}
    for _ in range(WARM_UP):
        session.run(feeds)
    print("ready", flush=True)
    for _ in sys.stdin:
        clock = Clock()
        clock.time(lambda: session.run(feeds))
        print(clock.cpu[0], clock.wall[0], flush=True)
    session.close()


if __name__ == "__main__":
    main(sys.argv[1], NETWORKS[sys.argv[2]])
