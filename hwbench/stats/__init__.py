"""Pure statistics: intervals, tests, sample sizes. NumPy and SciPy only.

Each interval names its method. What cannot be estimated from the data at hand is ``None``, and the
module's ``TOO_FEW_...`` constant is the reason to print.
"""

from __future__ import annotations

from hwbench.stats.bounded import (
    TOO_FEW_PATTERNS,
    betting_interval,
    betting_sequence,
    crossed_mean_interval,
    minimum_patterns,
    shuffled,
)
from hwbench.stats.corruption import (
    ALEXNET_MEAN_ERROR,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from hwbench.stats.drift import TOO_FEW_WINDOWS, last_against_first, slope, step
from hwbench.stats.interaction import Interaction, interaction
from hwbench.stats.interval import Interval
from hwbench.stats.intervals import (
    clopper_pearson,
    mcnemar,
    newcombe_paired,
    rule_of_three,
    wilson,
)
from hwbench.stats.latency import (
    TOO_FEW_PROCESSES,
    RatioOfMedians,
    detectable_ratio,
    median_interval,
    noise_ratio,
    ratio_of_medians,
    t_reach,
)
from hwbench.stats.multiplicity import holm
from hwbench.stats.percentiles import (
    early_stopping_count,
    minimum_count,
    percentile_interval,
    query_count,
    rounded_query_count,
)
from hwbench.stats.sampling import (
    layer_bit_sample_sizes,
    layer_sample_sizes,
    normal_quantile,
    sample_size,
)
from hwbench.stats.sequential import calibrated_confidence, spent_confidence
from hwbench.stats.shift import (
    Confidences,
    Shift,
    calibration_shift,
    confidence_shift,
    newcombe_unpaired,
)
from hwbench.stats.stratified import (
    neyman,
    proportional,
    stratified_estimate,
    stratified_interval,
)

__all__ = [
    "ALEXNET_MEAN_ERROR",
    "TOO_FEW_PATTERNS",
    "TOO_FEW_PROCESSES",
    "TOO_FEW_WINDOWS",
    "Confidences",
    "Interaction",
    "Interval",
    "RatioOfMedians",
    "Shift",
    "betting_interval",
    "betting_sequence",
    "calibrated_confidence",
    "calibration_shift",
    "clopper_pearson",
    "confidence_shift",
    "crossed_mean_interval",
    "detectable_ratio",
    "early_stopping_count",
    "holm",
    "interaction",
    "last_against_first",
    "layer_bit_sample_sizes",
    "layer_sample_sizes",
    "mcnemar",
    "mean_corruption_error",
    "median_interval",
    "minimum_count",
    "minimum_patterns",
    "newcombe_paired",
    "newcombe_unpaired",
    "neyman",
    "noise_ratio",
    "normal_quantile",
    "percentile_interval",
    "proportional",
    "query_count",
    "ratio_of_medians",
    "relative_mean_corruption_error",
    "rounded_query_count",
    "rule_of_three",
    "sample_size",
    "shuffled",
    "slope",
    "spent_confidence",
    "step",
    "stratified_estimate",
    "stratified_interval",
    "t_reach",
    "wilson",
]
