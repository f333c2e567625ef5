"""A gate: what must hold, as a spec or a file of gates states it. Values only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hwbench.registry import nearest

Versus = Literal["absolute", "baseline", "clean"]

SHARES = {
    "accuracy": "share of samples classified rightly; versus: the drop from there",
    "agreement_golden": "share of decisions equal to the environment's own, unperturbed",
    "harmed_per_sample": "share of (pattern, sample) pairs with a changed or broken decision",
    "p_sdc": "P(sdc) per sample: the decision changed and nothing shows it",
    "p_due": "P(due) per sample: NaN, Inf, or no answer at all",
    "p_any_sdc": "share of patterns that silently change any sample's decision",
    "p_critical": "share of patterns that change or break a tenth of the decisions",
    "harmed_any_pattern": "share of patterns that change or break any sample's decision",
}
TIMES = {
    "latency_p50_ms": "median of a process",
    "latency_p90_ms": "90th percentile of a process",
    "latency_p95_ms": "95th percentile of a process",
    "latency_p97_ms": "97th percentile of a process",
    "latency_p99_ms": "99th percentile of a process",
    "latency_p999_ms": "99.9th percentile of a process",
    "throughput_per_s": "samples per second of a process",
    "first_inference_ms": "first inference of a process",
    "load_ms": "opening the artifact, in a process that times inference",
    "peak_rss_mib": "peak resident set of a process that times inference",
}
FOUND = {
    "load_min_mib": "smallest memory limit at which it loads and runs",
    "latency_min_mib": "smallest memory limit at which p50 stays within twice the unlimited",
}
TOTALS = {
    "ece": "expected calibration error, finite rows only",
    "sqnr_golden_db": "power of clean outputs to power of the difference from them",
    "sqnr_baseline_db": "the same against the baseline's clean outputs",
}
CORRUPTIONS = {
    "mce_alexnet_percent": "mean corruption error against AlexNet's published errors",
    "mce_baseline_percent": "mean corruption error with the baseline's in AlexNet's place",
    "relative_mce_baseline_percent": "the same of the errors beyond the clean ones",
}
SOAKS = {
    "drift_per_min": "soak: factor of the mean latency per minute; 1 is none",
    "last_to_first": "soak: mean latency of the last quarter to that of the first",
}
METRICS = {
    **SHARES,
    **TIMES,
    **FOUND,
    **TOTALS,
    **CORRUPTIONS,
    **SOAKS,
    "fit": "critical failures in 10^9 hours, given a raw rate",
}

# Where more is better, so that a limit is a least value.
RISING = frozenset(
    {"accuracy", "agreement_golden", "throughput_per_s", "sqnr_golden_db", "sqnr_baseline_db"}
)
DECIBELS = frozenset({"sqnr_golden_db", "sqnr_baseline_db"})
HALF_DB = 3.0  # half the power


_UNDER_HARM = {*SHARES, "fit", "sqnr_golden_db"} - {"accuracy"}


def _as_list(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else [value]


_Names = Annotated[list[str], BeforeValidator(_as_list)]


class GateSpec(BaseModel):
    """One requirement, judged in every cell that it names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(None, description="shown in verdicts; default: made of the rest")
    metric: str = Field(description=f"one of {', '.join(METRICS)}")
    max: float | None = Field(None, description="largest value allowed")
    min: float | None = Field(None, description="smallest value allowed")
    versus: Versus = Field(
        "absolute",
        description="of what the metric is a degradation: nothing, the baseline environment's"
        " clean cell, the same environment's clean cell",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="1 - error of a wrong pass or fail")
    indifference: float | Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*%$")] | None = Field(
        None,
        description="how far from the limit, on its good side, either verdict is right; in the"
        " metric's unit, or `10%` of the limit. Default: half the limit; for times and corruption"
        " errors a tenth; for dB 3",
    )
    scenario: str = Field("clean", description="scenario, its name in the run, or a glob pattern")
    severity: Annotated[list[float] | None, BeforeValidator(_as_list)] = Field(
        None, description="of the scenario; default: every one in the run"
    )
    environments: _Names = Field(["*"], description="environment ids or glob patterns")
    models: _Names = Field(["*"], description="model names or glob patterns")
    samples: Literal["population", "these"] = Field(
        "population",
        description="what a rate is about: whatever the data are a sample of, or just these data",
    )
    batch: int | None = Field(None, ge=1, description="times: default the smallest in the run")
    use: str = Field("singlestream", description="times: how calls arrive")
    raw_fit_per_mbit: float | None = Field(
        None, gt=0, description="fit: upsets in 10^9 hours per 10^6 bits; always yours to know"
    )
    mbit: float | None = Field(
        None, gt=0, description="fit: size of the memory, 10^6 bits; a campaign knows its own"
    )

    @model_validator(mode="after")
    def _consistent(self) -> GateSpec:
        for check in (self._unknown, self._limits, self._reference, self._range):
            if problem := check():
                raise ValueError(problem)
        return self

    def _unknown(self) -> str | None:
        if self.metric in METRICS:
            return None
        hint = nearest(self.metric, METRICS)
        known = "" if hint.startswith("known") else f" Known: {', '.join(sorted(METRICS))}."
        return f"unknown metric {self.metric!r}. Hint: {hint}{known}"

    def _limits(self) -> str | None:
        if (self.max is None) == (self.min is None):
            return "give exactly one of max, min"
        least = self.metric in RISING and self.versus == "absolute"
        if least and self.min is None:
            return f"{self.metric} is better the larger it is: give min"
        if not least and self.max is None:
            what = (
                f"{self.metric} versus {self.versus}" if self.versus != "absolute" else self.metric
            )
            return f"{what} is better the smaller it is: give max"
        return None

    def _reference(self) -> str | None:
        if self.versus != "absolute" and self.metric not in {"accuracy", *TIMES}:
            return f"{self.metric} is judged by its value; remove versus"
        if self.versus == "clean" and self.scenario == "clean":
            return "clean cannot degrade from itself; give a scenario, or versus: baseline"
        if self.metric == "fit" and self.raw_fit_per_mbit is None:
            return "fit needs raw_fit_per_mbit: the rate of upsets is yours to know"
        if self.metric != "fit" and (self.raw_fit_per_mbit or self.mbit):
            return "raw_fit_per_mbit and mbit belong to the metric fit"
        if self.metric in CORRUPTIONS and (self.scenario != "clean" or self.severity is not None):
            return f"{self.metric} is over all corruptions of a run; remove scenario and severity"
        if self.scenario == "clean" and self.metric in _UNDER_HARM:
            return f"{self.metric} means nothing without faults or noise; give a scenario"
        return None

    def _range(self) -> str | None:
        if self.metric in {*SHARES, "ece"} and not 0 <= self.limit <= 1:
            return f"{self.metric} is a share: 0.01 is one point"
        signed = self.metric in DECIBELS or (
            self.metric == "accuracy" and self.versus != "absolute"
        )
        if self.limit <= 0 and not signed:
            return f"no device can be shown to keep {self.metric} at {self.limit:g}"
        points = isinstance(self.indifference, float) or self.metric in DECIBELS
        if self.limit <= 0 and not points:
            return "a limit of 0 needs an indifference zone in points, such as 0.005"
        if self.zone <= 0:
            return "an indifference zone is wider than 0, or a device at its edge is never decided"
        return None

    @property
    def limit(self) -> float:
        """The largest or smallest value allowed."""
        value = self.max if self.max is not None else self.min
        assert value is not None
        return value

    @property
    def zone(self) -> float:
        """Width of the indifference zone, in the metric's unit."""
        if isinstance(self.indifference, str):
            return abs(self.limit) * float(self.indifference.rstrip("% ")) / 100
        if self.indifference is not None:
            return self.indifference
        if self.metric in DECIBELS:
            return HALF_DB
        if self.metric in {*TIMES, *SOAKS, *CORRUPTIONS}:
            ratio = self.metric in SOAKS or self.versus != "absolute"
            return (self.limit - 1) / 2 if ratio and self.limit > 1 else self.limit / 10
        return (1 - self.limit if self.min is not None else self.limit) / 2

    @property
    def good(self) -> float:
        """The far end of the zone: a device there is to pass."""
        return self.limit - self.zone if self.max is not None else self.limit + self.zone

    @property
    def label(self) -> str:
        """The name, or one made of the rest."""
        if self.name:
            return self.name
        what = self.metric if self.versus == "absolute" else f"{self.metric} vs {self.versus}"
        sign = "<=" if self.max is not None else ">="
        under = "" if self.scenario == "clean" else f" under {self.scenario}"
        levels = "" if self.severity is None else f" {'/'.join(f'{s:g}' for s in self.severity)}"
        return f"{what} {sign} {self.limit:g}{under}{levels}"
