"""Mean corruption error of ImageNet-C.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019. RobustBench averages ratios per severity instead: another number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SEVERITIES = 5

# AlexNet's top-1 error on ImageNet-C, the mean over severities 1 to 5 (same source).
ALEXNET_MEAN_ERROR: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.92264,
    "defocus_blur": 0.81988,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.79836,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.71784,
    "jpeg_compression": 0.6065,
}

Errors = Mapping[str, Sequence[float]]


def mean_corruption_error(
    errors: Errors, reference: Mapping[str, float] = ALEXNET_MEAN_ERROR
) -> float:
    """MCE in percent: the mean over kinds of summed errors by the reference's.

    ``CE_c = sum_s E(model, s, c) / sum_s E(reference, s, c)`` over severities 1 to 5. Against
    AlexNet it is the published number, and means something for ImageNet's 1000 classes alone;
    another classifier's mean errors give a relative one.

    Args:
        errors: top-1 error rates at severities 1 to 5, by kind.
        reference: mean error rate over the same severities, by kind.

    Raises:
        ValueError: a kind without its five severities, or one that the reference lacks.
    """
    _check(errors, reference)
    ratios = [float(np.mean(values)) / reference[kind] for kind, values in errors.items()]
    return 100 * float(np.mean(ratios))


def relative_mean_corruption_error(
    errors: Errors, clean: float, reference: Mapping[str, float], reference_clean: float
) -> float:
    """Relative mCE in percent: the same of the errors beyond the clean ones, degradation alone.

    Args:
        errors: top-1 error rates at severities 1 to 5, by kind.
        clean: error rate without corruption.
        reference: the other classifier's mean error rate over the same severities, by kind.
        reference_clean: its error rate without corruption.

    Returns:
        NaN where the reference does not degrade under some kind.

    Raises:
        ValueError: as for ``mean_corruption_error``.
    """
    _check(errors, reference)
    ratios = []
    for kind, values in errors.items():
        lost, theirs = float(np.mean(values)) - clean, reference[kind] - reference_clean
        ratios.append(lost / theirs if theirs else float("nan"))
    return 100 * float(np.mean(ratios))


def _check(errors: Errors, reference: Mapping[str, float]) -> None:
    if not errors:
        raise ValueError("no corruption, no mean")
    for kind, values in errors.items():
        if len(values) != SEVERITIES:
            raise ValueError(f"{kind} has {len(values)} severities, mCE takes {SEVERITIES}")
        if kind not in reference:
            raise ValueError(f"the reference has no errors for {kind}")
