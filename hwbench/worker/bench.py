"""What all trials of an accuracy job share: model, data, golden, and how a trial is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hwbench import edits, score
from hwbench.backend import Array, Artifact, Backend, Replayer, Session, Site
from hwbench.case import Case
from hwbench.dataset import Batch, Dataset
from hwbench.edits import Edits
from hwbench.job import AccuracyWork, Job
from hwbench.manner import rows_of
from hwbench.worker import custom, perturb
from hwbench.worker.events import Events
from hwbench.worker.search import Progress

Outputs = Mapping[str, Array]

# A scenario that rewrites every weight would list them all; its seed and hash give them again.
FAULT_ROWS = 10_000
# Bytes of an artifact above which two are not held at once; loading it again takes a second.
LARGE = 128 * 2**20


@dataclass
class Bench:
    """The state of an accuracy job.

    Attributes:
        opened: a session of the undamaged artifact; ``None`` while it is set aside.
        first: what this process itself gives for batch 0, unperturbed.
        golden: the cell's unperturbed outputs by name, one row per sample.
        reference: the baseline's golden of the scored output, where it can be compared.
        searches: those that this job has begun; see ``worker.search``.
    """

    job: Job
    work: AccuracyWork
    backend: Backend
    events: Events
    artifact: Artifact
    dataset: Dataset
    opened: Session | None
    golden: dict[str, Array] = field(default_factory=dict)
    first: dict[str, Array] = field(default_factory=dict)
    reference: Array | None = None
    searches: dict[str, Progress] = field(default_factory=dict)
    _chosen: dict[tuple[str, int], list[Site]] = field(default_factory=dict)
    _functions: list[custom.Function] | None = None
    _masked: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep what is asked of a session while none is open."""
        self._first_output = self.session.outputs[0].name

    @property
    def session(self) -> Session:
        """A session of the undamaged artifact, opened anew if it was set aside."""
        if self.opened is None:
            self.opened = self.backend.open(self.artifact)
        return self.opened

    def set_aside(self) -> None:
        """Close a large model's session: a trial's own would be a second copy in memory."""
        files = (each for each in self.artifact.folder.rglob("*") if each.is_file())
        if self.opened is not None and sum(each.stat().st_size for each in files) >= LARGE:
            self.opened.close()
            self.opened = None

    @cached_property
    def sites(self) -> list[Site]:
        """The stored tensors of the artifact."""
        return list(self.backend.sites(self.artifact))

    def stored(self, name: str) -> Array:
        """A site's tensor in the undamaged artifact."""
        return self.backend.stored(self.artifact, name)

    @cached_property
    def fit(self) -> perturb.Fit:
        """What gives a scenario the whole of an input."""
        return perturb.fitting(self.dataset)

    def sites_of(self, case: Case, layer: int) -> list[Site]:
        """The stored tensors that a layer may hit."""
        if (case.id, layer) not in self._chosen:
            self._chosen[case.id, layer] = perturb.chosen(case, layer, self.sites)
        return self._chosen[case.id, layer]

    def replayer(self, batch: Batch) -> Replayer:
        """A replayer of a batch, within the job's memory for golden tensors.

        Raises:
            Unsupported: the adapter has none.
        """
        memory = self.work.replay_mib or 1.0
        return self.backend.replayer(self.artifact, batch.feeds, memory)

    @property
    def output(self) -> str:
        """Name of the scored output."""
        return self.work.scoring.output or self._first_output

    def batch(self, index: int) -> Batch:
        """A batch of the dataset, padded to the job's size."""
        return self.dataset.batch(index, self.work.batch)

    def golden_of(self, batch: Batch) -> dict[str, Array]:
        """Golden's rows of a batch."""
        return {name: rows[batch.samples] for name, rows in self.golden.items()}

    def record(
        self, case: Case, pattern: int, batch: Batch, outputs: Outputs, values: Mapping[str, Any]
    ) -> None:
        """Score a trial's outputs (the scored rows) and tell its record."""
        key = perturb.seed_key(case, self.work.seed, pattern)
        row = {"seed_key": key, **self._scored(batch, outputs), **values}
        self.events.send("record", trial=(case.id, pattern, batch.index), row=row)

    def _scored(self, batch: Batch, outputs: Outputs) -> dict[str, Any]:
        """The numbers of a trial; those of masked ones are the same for all trials of a batch."""
        golden = self.golden_of(batch)
        masked = equal(outputs, golden)
        if masked and batch.index in self._masked:
            return self._masked[batch.index]
        with self.events.during("score"):
            numbers = self._numbers(batch, outputs, golden)
        if masked:
            self._masked[batch.index] = numbers
        return numbers

    def _numbers(self, batch: Batch, outputs: Outputs, golden: Outputs) -> dict[str, Any]:
        scoring, samples = self.work.scoring, batch.samples
        outcome = score.outcomes(
            outputs, golden, self.output, classes=scoring.classes, tolerance=scoring.tolerance
        )
        scored = score.Scored(
            outputs[self.output],
            golden[self.output],
            None if self.reference is None else self.reference[samples],
            None if self.dataset.labels is None else self.dataset.labels[samples],
            outcome,
            scoring.tolerance,
            scoring.classes,
        )
        right = score.correct(scored)
        return {
            "n_samples": len(samples),
            "n_masked": int((outcome == score.Outcome.MASKED).sum()),
            "n_benign": int((outcome == score.Outcome.BENIGN).sum()),
            "n_sdc": int((outcome == score.Outcome.SDC).sum()),
            "n_due": int((outcome == score.Outcome.DUE).sum()),
            "outcomes": score.pack(outcome),
            "correct": None if right is None else np.packbits(right).tobytes(),
            "partials": score.packed(score.partials(scored)),
            "custom": self._own(outputs[self.output], scored.labels),
        }

    def _own(self, outputs: Array, labels: npt.NDArray[np.generic] | None) -> list[float]:
        names = self.work.scoring.custom
        if self._functions is None:
            self._functions = custom.load(names)
        return custom.sums(names, self._functions, outputs, labels)

    def tell_faults(
        self, case: Case, pattern: int, layer: int, drawn: Edits, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """The edits of a pattern, bits before and after; of the first patterns and of single ones.

        Single faults are told of every pattern: tables by site and bit field are made of them.
        """
        wanted = (pattern < self.work.faults or len(drawn) == 1) and len(drawn) <= FAULT_ROWS
        if rows and wanted:
            shared = {"pattern": pattern, "layer": layer, "edits_hash": drawn.digest()}
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            self.events.send("faults", case=case.id, shared=shared, columns=columns)


def infer(session: Session, batch: Batch, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The scored rows of every output.

    Raises:
        RuntimeError: an output has not one row per row of the batch: an error, never a score.
    """
    rows = rows_of(feeds)
    outputs = session.run(feeds)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows or array.size == 0:
            raise RuntimeError(
                f"output {name!r} has shape {array.shape} for a batch of {rows} rows"
            )
    return {name: array[: len(batch.samples)] for name, array in outputs.items()}


def equal(a: Outputs, b: Outputs) -> bool:
    """Whether every output of ``b`` has the same bytes in ``a``."""
    return all(bool(score.same_bytes(a[name], b[name]).all()) for name in b)


def fault_rows(site: Site, here: Edits, before: Array, after: Array) -> list[dict[str, Any]]:
    """What each edit of one site did.

    Args:
        site: that is hit.
        here: its edits, n of them.
        before: the edited elements' numbers before, shape (n,).
        after: and after, shape (n,).
    """
    width = before.dtype.itemsize
    digits = 2 * width
    old, new = (np.ascontiguousarray(each).view(f"u{width}") for each in (before, after))
    return [
        {
            "site": site.name,
            "element": element,
            "row": row if row >= 0 else None,
            "mask": f"{mask:0{digits}x}",
            "op": edits.Op(op).name.lower(),
            "before": f"{int(old[i]):0{digits}x}",
            "after": f"{int(new[i]):0{digits}x}",
            "dtype": site.dtype,
            "kind": site.kind,
            "consumer": site.layer,
            "op_type": site.op_type,
            "order": site.order,
        }
        for i, (element, row, mask, op) in enumerate(
            zip(
                here.element.tolist(),
                here.row.tolist(),
                here.mask.tolist(),
                here.op.tolist(),
                strict=True,
            )
        )
    ]
