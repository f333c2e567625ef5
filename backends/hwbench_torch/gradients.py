"""Gradients of the loss by what is stored, for searches that rank bits by them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from hwbench.backend import Array, Artifact, Feeds
from hwbench.errors import Unsupported
from hwbench_torch.probe import QUANTISED
from hwbench_torch.session import open_session


def gradients(
    artifact: Artifact,
    feeds: Feeds,
    output: str,
    targets: npt.NDArray[np.int64],
    *,
    probabilities: bool,
) -> dict[str, Array]:
    """See ``Backend.gradients``; for tensors that are stored as real numbers.

    Raises:
        Unsupported: the program is quantised, and rounding has no gradient.
    """
    if artifact.environment.precision in QUANTISED:
        raise Unsupported("a quantised program has no gradients: rounding has none")
    session = open_session(artifact)
    classes = torch.from_numpy(targets).to(artifact.environment.device)

    def loss(outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        rows = outputs[output].float()
        # What a softmax rounded to 0 has no logarithm.
        logs = rows.clamp_min(1e-30).log() if probabilities else rows.log_softmax(dim=1)
        return torch.nn.functional.nll_loss(logs, classes)

    found = session.derivatives(feeds, loss)
    session.close()
    return {name: each.double().cpu().numpy() for name, each in found.items()}
