"""What each campaign found and what that has cost, beside a fixed sample of the same margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwbench import population
from hwbench.collect.cell import interval
from hwbench.collect.records import Records
from hwbench.record import Row

STRATIFIED = "stratified sample: see campaigns"


def row(content: Mapping[str, Any], records: Records, n_samples: int, batch: int) -> Row:
    """The numbers of one campaign.

    Args:
        content: of the cell in campaigns.json.
        records: all of the cell's.
        n_samples: scored samples of the dataset.
        batch: samples per batch.
    """
    made = population.from_json(content)
    n_batches = -(-n_samples // batch)
    found = records.rows.select(["pattern", "batch", "n_sdc", "n_due"]).to_pylist()
    progress = made.progress(population.tallies(found, n_samples, batch), n_batches, n_samples)
    step, campaign, trials = progress.step, made.campaign, sum(progress.counts.trials)
    known = step.interval if step.stops else step.interim
    return {
        "estimand": made.goal.estimand,
        "margin": made.goal.margin,
        "confidence": made.goal.confidence,
        "reached": step.stops,
        **interval("rate", step.estimate, known if trials else None, "no complete round"),
        "faults": trials,
        "formula": campaign.formula,
        "saved": 1 - trials / campaign.formula if step.stops else None,
        "population": sum(campaign.sizes),
        "strata": len(campaign.strata),
        "summary": campaign.report(progress.counts).text if trials else None,
    }
