"""Memory of a sweep's parent by its number of trials, and the time to plan ten million cells.

A stand-in tells a worker's events without any inference; all else is the sweep's own: strategy,
jobs, supervision, store, merging, state. Each size has a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hwbench import engine, plan
from hwbench.execute import Stop, supervise
from hwbench.execute.launch import Ended, StopSignal
from hwbench.job import AccuracyWork, BuildWork, Job
from hwbench.plan import Plan
from hwbench.spec import Spec
from hwbench.state import State
from hwbench.strategy import FixedSweep
from hwbench.trials import Trials

SIZES = (100_000, 1_000_000)
PLANNED = 10_000_000  # trials of a few cells; cells
SEVERITIES = 100_000
CASES = 5
BATCHES = 10  # of the built-in data


def spec(trials: int) -> Spec:
    """Bit flips on the built-in model, at several rates."""
    rates = [1e-6 * (i + 1) for i in range(CASES)]
    content = {
        "model": {"builtin": "digits-cnn"},
        "environments": [{"backend": "onnxruntime"}],
        "scenarios": [{"bitflip": {"rate": rates}, "patterns": trials // CASES // BATCHES}],
        "latency": False,
    }
    return Spec.model_validate(content)


def cells(severities: int, environments: int) -> Spec:
    """As many cells as there are severities times environments, of one pattern each."""
    rates = [1e-9 * (i + 1) for i in range(severities)]
    content = {
        "model": {"builtin": "digits-cnn"},
        "environments": [
            {"backend": "onnxruntime", "label": f"board-{i}"} for i in range(environments)
        ],
        "scenarios": [{"bitflip": {"rate": rates}}],
        "latency": False,
    }
    return Spec.model_validate(content)


def told(job: Job, on_event: Callable[[dict[str, Any]], None], stop: StopSignal) -> Ended:
    """What a worker tells of its trials."""
    del stop
    if isinstance(job.work, BuildWork):
        Path(job.work.artifact).mkdir(parents=True, exist_ok=True)
    elif isinstance(job.work, AccuracyWork):
        for part in job.work.parts:
            for pattern, batch in part.trials:
                trial = (part.case.id, pattern, batch)
                on_event({"event": "trials", "trials": [trial]})
                on_event({"event": "record", "trial": trial, "row": _values(pattern, batch)})
    ops = [{"name": "fc", "stored": "fp32", "executed": "fp32"}]
    actual = {"device": "cpu", "threads": 1, "ops": ops, "provider": "", "isa": "", "version": ""}
    return Ended(status=0, phase="done", values={"actual": actual})


def _values(pattern: int, batch: int) -> dict[str, Any]:
    number = pattern * 1000 + batch
    return {
        "seed_key": f"{pattern:032x}",
        "edits_hash": f"{pattern:032x}",
        "n_samples": 64,
        "n_sdc": 1,
        "n_due": 0,
        "outcomes": number.to_bytes(16, "little"),
        "correct": number.to_bytes(8, "little"),
        "partials": np.full(10, float(number)).tobytes(),
        "method": "naive",
    }


def peak_mib() -> float:
    """Peak resident set of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("the system does not tell the peak resident set")


def measured(trials: int) -> None:
    """Run a sweep of so many trials in this process, and print what it took."""
    supervise.run_worker = told  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        options = engine.Options(output=Path(folder) / "run", workers=2, cache=Path(folder) / "c")
        start = time.process_time()
        store = engine.start(spec(trials), options, engine.Silent(), Stop())
        spent = time.process_time() - start
        rows = sum(batch.num_rows for batch in store.batches("records", ["batch"]))
        parts = len(list((store.folder / "records").iterdir()))
    print(f"{rows} {peak_mib():.1f} {spent:.1f} {parts}")


def planned(asked: Spec) -> None:
    """Print how long it takes until the first jobs are there, and the peak of this process."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cache = Path(folder) / "cache"
        made = plan.make(asked, allow_code=False, cache=cache, code_cache=cache)
        found = FixedSweep(made, Path(folder), 2).next_round(_built(made))
        assert found is not None and found.steps is not None
        _ = [job.to_json() for job in islice(found.jobs, 4)]
        seconds = time.perf_counter() - start
    print(
        f"{len(made.perturbed(made.deployments[0])) * len(made.deployments):,} cells,"
        f" {found.steps:,} trials planned, four jobs made: {seconds:.1f} s, {peak_mib():.0f} MiB"
    )


def _built(made: Plan) -> State:
    """As behind the clean round."""
    state = State()
    for each in made.deployments:
        each.artifact.mkdir(parents=True, exist_ok=True)
        state.outcomes.update({("build", *each.key): "ok", ("clean", *each.key): "ok"})
        clean = f"{'/'.join(each.key)}/clean"
        state.done[clean] = Trials.every(1, each.subject.n_batches)
    return state


def main() -> None:
    """Print peaks side by side."""
    peaks = []
    for size in SIZES:
        command = [sys.executable, __file__, str(size)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        rows, peak, spent, parts = int(out[0]), float(out[1]), float(out[2]), int(out[3])
        peaks.append(peak)
        print(
            f"{rows:>9,} rows: peak {peak:.0f} MiB, {1e6 * spent / rows:.0f} us of CPU a row,"
            f" {parts} parts"
        )
    print(f"peak of the parent at {SIZES[1]:,} to {SIZES[0]:,} rows: {peaks[1] / peaks[0]:.2f}")
    planned(spec(PLANNED))
    planned(cells(SEVERITIES, PLANNED // SEVERITIES))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measured(int(sys.argv[1]))
    else:
        main()
