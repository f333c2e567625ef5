"""Coverage, width and cost of sampled fault campaigns, against tables of every possible fault.

A table holds the outcome of every single-bit flip of every weight of a small CNN, by layer and bit
field; campaigns drawn from it are told nothing but the layer and field sizes. Printed for each:

coverage   share of campaigns whose 99 % interval holds the table's true rate
width      mean width, and as a multiple of the best possible: the normal width at the same trials
           in each stratum were the strata's true rates known
trials     mean number of faults, and as a share of the fixed-size formula's
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional

from hwbench.builtin import DIGITS_DATA
from hwbench.campaign import Campaign, Stratum, allocate
from hwbench.stats import normal_quantile
from hwbench.stats.stratified import limits, shares

MARGIN, CONFIDENCE, PER_ROUND = 0.01, 0.99, 200
CAMPAIGNS = 5000

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """How many of the faults of each stratum are hits: the truth."""

    name: str
    strata: tuple[Stratum, ...]
    hits: tuple[int, ...]

    @property
    def sizes(self) -> Integers:
        return np.asarray([each.size for each in self.strata], np.int64)

    @property
    def truth(self) -> float:
        return sum(self.hits) / int(self.sizes.sum())


@dataclass(frozen=True)
class Outcome:
    """Many sampled campaigns: limits and trials, and the best possible width of each."""

    low: Floats
    high: Floats
    trials: Integers
    best: Floats
    hidden: float

    def line(self, name: str, truth: float, formula: int) -> str:
        covered = np.mean((self.low <= truth) & (truth <= self.high))
        width = float(np.mean(self.high - self.low))
        trials = float(self.trials.mean())
        return (
            f"  {name:<13} coverage {covered:.4f}  width {width:.5f} = "
            f"{width / float(self.best.mean()):.3f} x best  trials {trials:8.0f} = "
            f"{trials / formula:.3f} x formula  layers unhit {self.hidden:.2f}"
        )


IMAGES = 100
FIELDS = {
    "sign": slice(31, 32),
    "exponent-msb": slice(30, 31),
    "exponent": slice(23, 30),
    "mantissa": slice(0, 23),
}


def tables() -> list[Table]:
    """The truth of a rare and of a frequent outcome, and one with a layer that nothing harms."""
    changed = exhaustive()
    rare, often = critical_share(changed, 0.01), {k: v > 0 for k, v in changed.items()}
    first = next(iter(changed))
    unharmed = {k: v & (k != first) for k, v in rare.items()}
    return [
        table("rare", rare),
        table("rare, first layer never", unharmed),
        table("any of the images", often),
    ]


def critical_share(changed: dict[str, Integers], rate: float) -> dict[str, npt.NDArray[np.bool_]]:
    """Faults that change at least so many images that about ``rate`` of all faults do."""
    every = np.concatenate([each.ravel() for each in changed.values()])
    least = max(1, int(np.quantile(every, 1 - rate)))
    return {k: v >= least for k, v in changed.items()}


def table(name: str, hit: dict[str, npt.NDArray[np.bool_]]) -> Table:
    """Counts by layer and bit field; each array of shape (weights, bits)."""
    cells = [
        (layer, field, at[:, bits]) for layer, at in hit.items() for field, bits in FIELDS.items()
    ]
    strata = tuple(Stratum(layer, field, at.size) for layer, field, at in cells)
    return Table(name, strata, tuple(int(at.sum()) for _, _, at in cells))


def exhaustive() -> dict[str, Integers]:
    """Images whose class changes (or is no number), by layer, for every weight and bit."""
    torch.set_num_threads(1)
    with np.load(DIGITS_DATA) as data:
        images = torch.tensor(data["x_test"] / 16, dtype=torch.float32)
        labels = torch.tensor(data["y_test"])
        shown = torch.tensor(data["x_calibration"][:IMAGES] / 16, dtype=torch.float32)
    model = trained(images, labels)
    weights = {k: v.detach() for k, v in model.named_parameters()}
    return {k: layer_faults(model, weights, k, shown) for k in weights if k.endswith("weight")}


def trained(images: torch.Tensor, labels: torch.Tensor) -> nn.Sequential:
    """A CNN of 2,382 parameters, a few seconds."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(40):
        for batch in np.array_split(torch.randperm(len(images)).numpy(), 12):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model


def layer_faults(
    model: nn.Sequential, weights: dict[str, torch.Tensor], name: str, images: torch.Tensor
) -> Integers:
    """Changed images for every bit of a layer's weights, shape (weights, 32)."""
    stored = weights[name].reshape(-1).numpy().view(np.uint32)
    faults = np.arange(stored.size * 32)

    def logits(changed: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = functional_call(model, {**weights, name: changed}, (images,))
        return out

    found = []
    with torch.no_grad():
        golden = model(images).argmax(-1)
        for some in np.array_split(faults, -(-faults.size // 128)):
            bits = np.repeat(stored[None], some.size, axis=0)
            bits[np.arange(some.size), some // 32] ^= np.uint32(1) << (some % 32).astype(np.uint32)
            faulty = torch.from_numpy(bits.view(np.float32)).reshape(-1, *weights[name].shape)
            out = vmap(logits)(faulty)
            wrong = (out.argmax(-1) != golden) | ~torch.isfinite(out).all(-1)
            found.append(wrong.sum(1).numpy())
    return np.concatenate(found).reshape(-1, 32)


def draw(
    rng: np.random.Generator, table: Table, seen: Integers, hit: Integers, n: Integers
) -> Integers:
    """Hits among ``n`` further faults of each stratum, without replacement."""
    good = np.asarray(table.hits) - hit
    bad = table.sizes - seen - good
    return np.asarray(rng.hypergeometric(good, bad, n))


def best_width(table: Table, trials: Integers) -> Floats:
    """Normal width with the true rates known, at these trials."""
    sizes, rates = table.sizes, np.asarray(table.hits) / table.sizes
    weights = sizes / sizes.sum()
    correction = (sizes - trials) / np.maximum(sizes - 1, 1)
    variance = weights**2 * rates * (1 - rates) * correction / np.maximum(trials, 1)
    return np.asarray(2 * normal_quantile(CONFIDENCE) * np.sqrt(variance.sum(axis=-1)))


def unhit(table: Table, hits: Integers) -> float:
    """Mean number of layers without a hit."""
    layers = [each.site for each in table.strata]
    by_layer = [
        hits[:, [s == layer for s in layers]].sum(axis=1) for layer in dict.fromkeys(layers)
    ]
    return float(sum((each == 0).mean() for each in by_layer))


def network_wise(rng: np.random.Generator, table: Table, runs: int, n: int) -> Outcome:
    """A simple random sample of fixed size."""
    trials = rng.multivariate_hypergeometric(table.sizes, n, runs, method="marginals")
    hits = rng.hypergeometric(np.asarray(table.hits), table.sizes - np.asarray(table.hits), trials)
    total = np.full((runs, 1), table.sizes.sum())
    low, high = limits(
        total,
        hits.sum(axis=1, keepdims=True).astype(float),
        np.full((runs, 1), n),
        normal_quantile(CONFIDENCE),
    )
    whole = Table("", (Stratum("*", "*", int(total[0, 0])),), (sum(table.hits),))
    return Outcome(
        low, high, np.full(runs, n), best_width(whole, np.full((runs, 1), n)), unhit(table, hits)
    )


def stratified(rng: np.random.Generator, table: Table, runs: int, n: int) -> Outcome:
    """Proportional allocation of a fixed size."""
    sizes = np.broadcast_to(table.sizes, (runs, len(table.hits)))
    nothing = np.zeros(sizes.shape, np.int64)
    trials = shares(sizes, np.ones(sizes.shape), n, nothing)
    hits = draw(rng, table, nothing, nothing, trials)
    low, high = limits(sizes, hits.astype(float), trials, normal_quantile(CONFIDENCE))
    return Outcome(low, high, trials.sum(axis=1), best_width(table, trials), unhit(table, hits))


def sequential(rng: np.random.Generator, table: Table, runs: int) -> Outcome:
    """Neyman allocation round by round, until the margin is reached."""
    campaign = Campaign(table.strata, "any_sdc", MARGIN, CONFIDENCE, PER_ROUND)
    quantile = normal_quantile(campaign.nominal)
    sizes = np.broadcast_to(table.sizes, (runs, len(table.hits)))
    trials, hits = np.zeros(sizes.shape, np.int64), np.zeros(sizes.shape, np.int64)
    low, high = np.zeros(runs), np.ones(runs)
    alive = np.arange(runs)
    while alive.size:
        seen, hit = trials[alive], hits[alive]
        new = allocate(sizes[alive], hit.astype(float), seen, PER_ROUND)
        hits[alive] += draw(rng, table, seen, hit, new)
        trials[alive] += new
        low[alive], high[alive] = limits(
            sizes[alive], hits[alive].astype(float), trials[alive], quantile
        )
        done = campaign.ends(high[alive] - low[alive], trials[alive])
        alive = alive[~done]
    return Outcome(low, high, trials.sum(axis=1), best_width(table, trials), unhit(table, hits))


def report(truth: Table, runs: int) -> None:
    """Every kind of campaign on one table."""
    campaign = Campaign(truth.strata, "any_sdc", MARGIN, CONFIDENCE, PER_ROUND)
    formula = campaign.formula
    one = Table("", (Stratum("*", "*", int(truth.sizes.sum())),), (sum(truth.hits),))
    print(f"{truth.name}: true rate {truth.truth:.4f} of {truth.sizes.sum()} faults")
    rng = np.random.default_rng(1)
    for n in (campaign.floor, formula):
        print(network_wise(rng, truth, runs, n).line("network-wise", truth.truth, formula))
        print(stratified(rng, truth, runs, n).line("stratified", truth.truth, formula))
    print(sequential(rng, truth, runs).line("sequential", truth.truth, formula))
    print(sequential(rng, one, runs).line("  one stratum", truth.truth, formula))


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else CAMPAIGNS
    print(f"{runs} campaigns each, confidence {CONFIDENCE}, margin {MARGIN}, rounds of {PER_ROUND}")
    for truth in tables():
        report(truth, runs)


if __name__ == "__main__":
    main()
