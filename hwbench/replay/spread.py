"""How far an error got: a tensor between operators under faults, beside golden's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwbench.backend import Array, Site
from hwbench.replay import lanes


@dataclass(frozen=True)
class Reach:
    """The error in one activation of a batch.

    Attributes:
        tensor: its name.
        layer: the operator that writes it; for an input its first reader.
        op_type: type of that operator.
        dtype: as executed.
        elements: how many were compared, padding rows left out.
        changed: how many differ by a byte.
        not_finite: how many are NaN or Inf where golden's are not.
        sqnr_db: 10 log10 of golden's power to that of the difference, over elements that are
            finite on both sides; infinite without a difference, NaN without a signal. Integers
            are codes with an offset that is not known here, so their signal is what differs from
            its mean.
    """

    tensor: str
    layer: str
    op_type: str
    dtype: str
    elements: int
    changed: int
    not_finite: int
    sqnr_db: float

    @property
    def share(self) -> float:
        """Share of the elements that differ."""
        return self.changed / self.elements if self.elements else 0.0


def reach(site: Site, golden: Array, faulty: Array) -> Reach:
    """Compare a tensor with golden's.

    Raises:
        ValueError: the two are not of one shape and dtype.
    """
    if golden.shape != faulty.shape or golden.dtype != faulty.dtype:
        raise ValueError(
            f"{site.name!r} is {faulty.dtype}{faulty.shape}, golden's {golden.dtype}{golden.shape}"
        )
    changed = int((lanes.unsigned(golden) != lanes.unsigned(faulty)).sum())
    clean, wrong = golden.astype(np.float64), faulty.astype(np.float64)
    finite = np.isfinite(clean) & np.isfinite(wrong)
    return Reach(
        site.name,
        site.layer,
        site.op_type,
        site.dtype,
        golden.size,
        changed,
        int((np.isfinite(clean) & ~np.isfinite(wrong)).sum()),
        _sqnr_db(clean[finite], wrong[finite], offset=golden.dtype.kind in "iu"),
    )


def _sqnr_db(clean: Array, wrong: Array, *, offset: bool) -> float:
    error = float(np.square(wrong - clean).sum())
    signal = float(np.square(clean - clean.mean() if offset and clean.size else clean).sum())
    if not signal:
        return float("nan")
    return float(10 * np.log10(signal / error)) if error else float("inf")
