"""Golden, the unperturbed outputs of a cell: made by its clean job, repeated by every other."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from hwbench.backend import Array
from hwbench.durable import replacing
from hwbench.job import Part
from hwbench.worker.bench import Bench, Outputs, equal, infer


def make(bench: Bench, part: Part) -> None:
    """The unperturbed outputs of all batches: written whole before any record is told.

    A worker behind one that was cut runs every batch again, and tells the records that are left.
    """
    batches = list(bench.dataset.batches(bench.work.batch))
    bench.events.send("trials", trials=[(part.case.id, *trial) for trial in part.trials])
    start, outputs = time.perf_counter_ns(), []
    for batch in batches:
        bench.events.phase("run")  # a sign of life: the deadline is on silence
        outputs.append(infer(bench.session, batch, batch.feeds))
        if len(outputs) == 1:
            first_ms = (time.perf_counter_ns() - start) / 1e6
            bench.events.send("process", first_inference_ms=first_ms)
    names = outputs[0].keys()
    bench.golden = {name: np.concatenate([each[name] for each in outputs]) for name in names}
    again = infer(bench.session, batches[0], batches[0].feeds)
    path = Path(bench.work.golden)
    same = equal(again, outputs[0]) and (not path.exists() or equal(bench.golden, read(path)))
    bench.events.send("process", golden_reproduced=same)
    _check_classes(bench)
    _write(path, bench.golden)
    bench.reference = _reference(bench)
    for pattern, index in part.trials:
        bench.record(part.case, pattern, batches[index], outputs[index], {"method": "naive"})


def load(bench: Bench) -> None:
    """Golden as the clean job left it."""
    bench.golden = bench.golden or read(Path(bench.work.golden))
    bench.reference = _reference(bench)


def repeats(bench: Bench) -> bool:
    """Outcomes mean something only where this process repeats golden's bytes.

    Except under a condition: what it does to the outputs is what is asked for.
    """
    batch = bench.batch(0)
    start = time.perf_counter_ns()
    outputs = infer(bench.session, batch, batch.feeds)
    bench.events.send("process", first_inference_ms=(time.perf_counter_ns() - start) / 1e6)
    bench.first = outputs
    same = equal(outputs, bench.golden_of(batch))
    bench.events.send("process", golden_reproduced=same)
    return same


def read(path: Path) -> dict[str, Array]:
    """Unperturbed outputs by name, one row per sample."""
    with np.load(path, allow_pickle=False) as stored:
        return {str(name): stored[f"output-{i}"] for i, name in enumerate(stored["names"])}


def _write(path: Path, outputs: Outputs) -> None:
    names = {f"output-{i}": array for i, array in enumerate(outputs.values())}
    with replacing(path, "golden") as file:
        np.savez(file, allow_pickle=False, names=np.array(list(outputs), dtype=np.str_), **names)


def _check_classes(bench: Bench) -> None:
    labels, scored = bench.dataset.labels, bench.golden[bench.output]
    if bench.work.scoring.classes and labels is not None and labels.max() >= scored.shape[-1]:
        raise RuntimeError(
            f"label {labels.max()} is out of range: output {bench.output!r} has"
            f" {scored.shape[-1]} classes; check data.labels and its offset"
        )


def _reference(bench: Bench) -> Array | None:
    """The baseline's golden of the scored output, where the outputs can be compared."""
    if not bench.work.reference or not Path(bench.work.reference).exists():
        return None
    stored = read(Path(bench.work.reference))
    found = stored.get(bench.output, next(iter(stored.values())))
    return found if found.shape == bench.golden[bench.output].shape else None
