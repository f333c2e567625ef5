"""Distribution shift: other data than the spec's, prepared and labelled alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar

from hwbench.scenario import Replacement, parameter


@dataclass(frozen=True)
class Dataset(Replacement):
    """The same model on a second dataset: what a changed world costs, beside changed hardware.

    Arrays, labels and preprocessing are those of the spec's ``data`` unless said otherwise here.
    Nothing is paired with the first dataset; the table `shift` has intervals for two independent
    samples.
    """

    name: ClassVar[str] = "dataset"
    severities: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[str] = "{dataset: [night.npz, rain.npz]}"
    short: ClassVar[str] = "npz"

    npz: str = parameter(..., "archive with the same arrays as the spec's data", path=True)
    labels: str | None = parameter(None, "array of its labels; the spec's if absent")
    limit: int | None = parameter(None, "only the first so many samples")

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is at least 1, not {self.limit}")

    @property
    def variant(self) -> str:
        """The file's name."""
        return PurePath(self.npz).stem

    @property
    def archive(self) -> Mapping[str, Any]:
        """The spec's data with this archive in it."""
        changed: dict[str, Any] = {"npz": self.npz, "builtin": None, "limit": self.limit}
        return changed if self.labels is None else {**changed, "labels": self.labels}
