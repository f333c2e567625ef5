"""The columns of the tidy tables, one meaning each; docs/tables.md is made from this."""

from __future__ import annotations

from hwbench.record import Column
from hwbench.score import METRICS, SILENT

_CELL = (
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("scenario", "string", "scenario name; `clean` is the empty scenario"),
    Column("severity_name", "string", "parameter that is the severity; empty for clean"),
    Column("severity", "float64", "its value; null for clean"),
)
_STATUS = (
    Column(
        "status", "string", "ok, or the process outcome that keeps the numbers away; open: not run"
    ),
    Column("note", "string", "why the status is not ok, or why a value is missing"),
)


def _with_interval(name: str, help: str, at: str = "95 %") -> tuple[Column, ...]:
    return (
        Column(name, "float64", help),
        Column(f"{name}_low", "float64", f"lower limit of {name}, {at}"),
        Column(f"{name}_high", "float64", f"upper limit of {name}, {at}"),
        Column(
            f"{name}_interval", "string", f"method of the interval of {name}, or why there is none"
        ),
    )


CELLS = (
    *_CELL,
    *_STATUS,
    Column("unit", "string", "sampling unit: pattern (crossed with samples) or sample"),
    Column("patterns", "int64", "random draws with at least one record"),
    Column("patterns_planned", "int64", "random draws in the resolved spec"),
    Column("trials", "int64", "records: patterns x batches"),
    Column("trials_failed", "int64", "records whose process outcome is not ok"),
    Column("failures", "string", "process outcomes of failed trials with their counts"),
    Column("n_samples", "int64", "sample outcomes: scored samples over all trials"),
    Column("n_masked", "int64", "outputs equal to golden to the byte"),
    Column("n_benign", "int64", "output changed, decision not"),
    Column("n_sdc", "int64", "decision changed"),
    Column("n_due", "int64", "NaN or Inf in an output"),
    Column("edits_mean", "float64", "edited elements per trial"),
    Column("achieved_mean", "float64", "mean achieved severity"),
)

ENVIRONMENTS = (
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    *_STATUS,
    Column("asked_device", "string", "device in the spec"),
    Column("actual_device", "string", "device that ran"),
    Column("asked_precision", "string", "precision in the spec"),
    Column("actual_precision", "string", "precisions executed by weight-bearing operators"),
    Column("asked_threads", "int64", "threads in the spec"),
    Column("actual_threads", "int64", "threads the runtime reports; null when it does not tell"),
    Column("deviation", "string", "how actual differs from asked, also where it is allowed"),
    Column("allow", "string", "deviations the spec accepts"),
    Column("operators", "int64", "weight-bearing operators"),
    Column("operators_as_asked", "int64", "those executed in the asked precision"),
    Column("provider", "string", "execution provider or plug-in"),
    Column("isa", "string", "instruction set, as far as the runtime or CPU tells"),
    Column("runtime_version", "string", "version of the runtime"),
    Column("architecture", "string", "of the processor, by the workers' own account"),
    Column("cpu", "string", "the processor, by CPUID or MIDR in the workers; null: not told"),
    Column("emulator", "string", "what emulated it; null where workers ran natively"),
    Column("import_ms", "float64", "median time to import adapter and runtime"),
    Column("load_ms", "float64", "median time to open the artifact"),
    Column("first_inference_ms", "float64", "median time of the first inference"),
    Column("build_peak_rss_mib", "float64", "largest peak resident set while building"),
    Column("run_peak_rss_mib", "float64", "largest peak resident set of the clean accuracy run"),
)

# Metrics with a column of their own in the table of drift; the others follow them.
_NAMED = ("top1", "agreement_golden", "agreement_baseline", "sqnr_golden_db", "sqnr_baseline_db")

DRIFT = (
    *_CELL,
    *_STATUS,
    Column(
        "kind",
        "string",
        "environment: clean against the baseline's clean; scenario: against clean;"
        " shift: other data, unpaired",
    ),
    *_with_interval(
        "accuracy", "share of samples classified rightly; failed trials count as wrong"
    ),
    *_with_interval("drift", "accuracy minus the reference's, on the same samples"),
    Column("reference", "string", "what drift is against"),
    *_with_interval("harmed_per_sample", "share of samples whose decision changed or output broke"),
    *_with_interval(
        "harmed_any_pattern", "share of patterns that change any sample of the dataset"
    ),
    Column("agreement_golden", "float64", "share of decisions equal to this environment's clean"),
    Column("agreement_baseline", "float64", "share of decisions equal to the baseline's clean"),
    Column("sqnr_golden_db", "float64", "power of clean outputs to power of the difference"),
    Column("sqnr_baseline_db", "float64", "the same against the baseline's clean outputs"),
    *(
        Column(metric.name, "float64", metric.help)
        for metric in METRICS
        if metric.name not in _NAMED
    ),
    Column("latency_ratio", "float64", "median latency to the baseline's, where it was measured"),
    Column("patterns", "int64", "random draws"),
    Column("n_samples", "int64", "distinct samples of the dataset"),
)


def _comparison(name: str, prefix: str, reference: str) -> tuple[Column, ...]:
    """Columns of a family of comparisons."""
    return (
        *_with_interval(name, f"median latency to {reference}, at the same batch and use"),
        Column(f"{prefix}p_value", "float64", "Welch's t on log medians, two-sided"),
        Column(f"{prefix}p_holm", "float64", "the same, Holm-corrected over the table"),
        Column(
            f"{prefix}detectable",
            "float64",
            f"the least {name} that so many processes with this spread find 4 times in 5",
        ),
        Column(
            "verdict" if not prefix else f"{prefix}verdict",
            "string",
            "slower, faster: shown after Holm, and above the threshold; below threshold: shown, and"
            " smaller; same: the interval lies within the threshold; not shown: none of these",
        ),
    )


LATENCY_TABLE = (
    *_CELL,
    *_STATUS,
    Column("batch", "int64", "samples per inference"),
    Column("use", "string", "how calls arrive: singlestream (built in), the others by LoadGen"),
    Column("processes", "int64", "fresh processes, the sampling unit"),
    Column("n_calls", "int64", "recorded inferences over all processes"),
    *_with_interval("latency_p50_ms", "geometric mean over processes of the per-process median"),
    *(
        column
        for name, text in (
            ("latency_p90_ms", "90th"),
            ("latency_p95_ms", "95th"),
            ("latency_p97_ms", "97th"),
            ("latency_p99_ms", "99th"),
            ("latency_p999_ms", "99.9th"),
        )
        for column in _with_interval(name, f"the same of the {text} percentile", "99 %")
    ),
    Column("latency_min_ms", "float64", "smallest per-process median"),
    Column("latency_max_ms", "float64", "largest per-process median"),
    *_comparison("ratio", "", "the baseline's clean cell"),
    *_comparison("slowdown", "slowdown_", "this environment's own clean cell"),
    Column("threshold", "float64", "the spec's, or this machine's noise floor where it is higher"),
    Column("throughput_per_s", "float64", "samples per second, median over processes"),
    *_with_interval("throughput_ratio", "to the same environment's clean: what a quota leaves"),
    *_with_interval(
        "latency_p99_ratio", "per-process p99 to the same environment's clean: what contention adds"
    ),
    Column("rate_per_s", "float64", "server: highest rate that kept the bound, median"),
    Column("loadgen", "string", "LoadGen's own VALID, or how many processes are INVALID and why"),
    Column("energy_mj", "float64", "millijoules per inference; null without RAPL or NVML"),
    Column("import_ms", "float64", "median time to import adapter and runtime"),
    Column("load_ms", "float64", "median time to open the artifact, compiling included"),
    Column("first_inference_ms", "float64", "median time of the first inference"),
    Column("time_to_first_ms", "float64", "import, load and first inference, median of the sums"),
    Column("outlier_share", "float64", "calls more than 3 interquartile ranges above the others"),
    Column("sampled_agreement", "float64", "timed answers that decide as the accuracy run's do"),
    Column(
        "canary_ms",
        "float64",
        "a fixed workload in NumPy, in the same processes: geometric mean of their medians",
    ),
    Column("same_input_speedup", "float64", "an input in rotation to it alone, repeated"),
    Column(
        "odd_numbers", "string", "denormals, NaN and Inf that the perturbation brought in; or null"
    ),
    Column("trust", "string", "trustworthy or unstable"),
    Column("trust_reasons", "string", "what is wrong, and what to do about it"),
)

INTERACTION = (
    *_CELL,
    *_STATUS,
    Column("reference", "string", "the baseline environment that it is compared with"),
    *_with_interval(
        "interaction", "scenario drift here minus the baseline's: below 0, more is lost here"
    ),
    Column("loses", "string", "more or less than the baseline where the interval leaves 0 out"),
    Column("p_value", "float64", "McNemar's exact test over samples, two-sided"),
    Column("p_holm", "float64", "the same, Holm-corrected over the table"),
    Column("only_here", "int64", "samples that lose more here than in the baseline"),
    Column("only_baseline", "int64", "samples that lose more in the baseline"),
    Column("patterns", "int64", "random draws"),
    Column("n_samples", "int64", "distinct samples of the dataset"),
)

# Every probability is over (pattern, sample) pairs unless it says otherwise, and is that of one
# fault drawn uniformly over the bits of this site and field. masked + benign + sdc + due = 1.
VULNERABILITY = (
    *_CELL,
    Column("site", "string", "name of the tensor that was hit"),
    Column("kind", "string", "what the tensor is: weight, bias, scale, zero_point, activation"),
    Column("consumer", "string", "layer: name of the site's first consumer"),
    Column("op_type", "string", "its type, in the runtime's words"),
    Column("dtype", "string", "stored dtype"),
    Column(
        "field",
        "string",
        "sign, exponent or mantissa; `bit 7` of one-byte integers, `bits 24-31` of wider ones;"
        " `several`; `word` where all of it was overwritten",
    ),
    Column(
        "n",
        "int64",
        "faults: patterns (for transient faults in activations, samples) that edited exactly one"
        " element, in this site and field",
    ),
    Column("n_samples", "int64", "samples on which each of them ran"),
    *_with_interval("p_sdc", "P(sdc) per sample: the decision changed and every output is finite"),
    *_with_interval("p_any_sdc", "share of patterns that silently change any sample's decision"),
    Column("p_due", "float64", "P(due): NaN or Inf in an output, or the trial failed"),
    Column("p_masked", "float64", "P(masked): every output byte equals golden's"),
    Column("pvf", "float64", "program vulnerability factor: 1 - p_masked, the fault is to be seen"),
    Column("n_rising", "int64", "patterns in which one bit went from 0 to 1"),
    Column("p_sdc_rising", "float64", "P(sdc) per sample over these"),
    Column("n_falling", "int64", "patterns in which one bit went from 1 to 0"),
    Column("p_sdc_falling", "float64", "P(sdc) per sample over these"),
    *(Column(each.name, "float64", each.help) for each in METRICS if each.name in SILENT),
)

# Limits are MiB; where a search is not done, its numbers are null.
LIMITS = (
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("scenario", "string", "name of the search"),
    *_STATUS,
    Column("mechanism", "string", "what enforced the limit"),
    Column("batch", "int64", "samples per inference"),
    Column("floor_rss_mib", "float64", "peak resident set of a process that only imports it all"),
    Column("floor_group_mib", "float64", "peak of its group: anonymous memory and its file pages"),
    Column("peak_rss_mib", "float64", "peak resident set of load and inference without a limit"),
    Column("group_peak_mib", "float64", "peak of its group: anonymous memory and its file pages"),
    Column("shared_file_mib", "float64", "its files' pages charged elsewhere, at most"),
    Column("load_min_mib", "float64", "smallest limit found at which the model loads and runs"),
    Column("load_fails_mib", "float64", "largest limit at which it did not"),
    Column("latency_min_mib", "float64", "smallest limit found at which p50 stays within 2x"),
    Column("latency_fails_mib", "float64", "largest limit at which it did not"),
    Column("latency_p50_ms", "float64", "p50 without a limit"),
    Column("latency_p50_at_min_ms", "float64", "p50 at load_min_mib, the slowest process there"),
    Column("tolerance_mib", "float64", "distance between load_min_mib and load_fails_mib"),
    Column("below_mib", "float64", "a limit 30 % below load_min_mib"),
    Column("below_outcome", "string", "process outcome there"),
    Column("below_phase", "string", "last phase there"),
    Column("below_message", "string", "what happened there"),
    Column("above_mib", "float64", "a limit 30 % above load_min_mib"),
    Column("above_outcome", "string", "process outcome there"),
    Column("probes", "int64", "processes started"),
)

SHIFT = (
    *_CELL,
    *_STATUS,
    Column("n_samples", "int64", "samples of the other data"),
    Column("n_reference", "int64", "samples of the spec's data"),
    Column("accuracy", "float64", "share of samples classified rightly, other data"),
    Column("accuracy_reference", "float64", "the same, the spec's data"),
    *_with_interval("accuracy_shift", "other data minus the spec's; two independent samples"),
    Column("ece", "float64", "expected calibration error, other data; finite rows only"),
    Column("ece_reference", "float64", "the same, the spec's data"),
    *_with_interval("ece_shift", "other data minus the spec's"),
    Column("confidence", "float64", "mean largest probability, other data; finite rows only"),
    Column("confidence_reference", "float64", "the same, the spec's data"),
    *_with_interval("confidence_shift", "other data minus the spec's"),
)

SENSITIVITY = (
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("rank", "int64", "1 is the factor that costs most accuracy where it is worst"),
    Column("scenario", "string", "the factor that alone was changed; stacks are left out"),
    Column("severity_name", "string", "parameter that is the severity; empty without"),
    Column("levels", "int64", "severities that gave a drift"),
    Column("mildest", "float64", "the mildest of them"),
    Column("harshest", "float64", "the harshest of them"),
    Column("worst_severity", "float64", "the one that costs most"),
    *_with_interval("drift", "accuracy there minus clean accuracy"),
    Column("drift_mean", "float64", "mean drift over the severities"),
    Column(
        "first_harm",
        "float64",
        "mildest severity whose interval of drift lies below 0; null if none does",
    ),
)

MCE = (
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("kinds", "int64", "kinds of corruption with all five severities"),
    Column("of_15", "string", "the kinds that are missing; null when all 15 are there"),
    Column("mean_error", "float64", "mean top-1 error over kinds and severities"),
    Column("clean_error", "float64", "top-1 error without corruption"),
    Column(
        "mce_alexnet_percent",
        "float64",
        "mCE against AlexNet's published errors; only for all 15 kinds on ImageNet's 1000 classes",
    ),
    Column("reference", "string", "the baseline environment"),
    Column("mce_baseline_percent", "float64", "mCE with the baseline's errors in AlexNet's place"),
    Column(
        "relative_mce_baseline_percent",
        "float64",
        "the same of the errors beyond the clean ones: degradation alone",
    ),
)

CAMPAIGNS = (
    *_CELL,
    *_STATUS,
    Column(
        "estimand",
        "string",
        "sdc_per_sample: P(decision of a sample changes silently); any_sdc: P(that of any sample);"
        " critical: P(at least a tenth of the decisions change or break); each over single faults"
        " drawn uniformly from the population",
    ),
    Column("margin", "float64", "half-width of the interval that was asked for"),
    Column("confidence", "float64", "confidence that was asked for"),
    Column("reached", "bool", "whether the campaign stopped by its rule"),
    *_with_interval("rate", "weighted estimate of the estimand", "at the confidence asked for"),
    Column("faults", "int64", "faults injected in complete rounds"),
    Column(
        "formula", "int64", "faults of a fixed sample of this margin (finite population, p = 0.5)"
    ),
    Column("saved", "float64", "share of the formula's faults that were not needed; null if open"),
    Column("population", "int64", "possible single faults"),
    Column("strata", "int64", "groups of them that are sampled apart (site x bit field)"),
    Column("summary", "string", "the same in a sentence"),
)

ISA = (
    *_CELL,
    *_STATUS,
    Column("precision", "string", "precision in the spec"),
    Column("mechanism", "string", "what capped the instruction set, or emulated a lesser CPU"),
    Column("emulated", "bool", "ran on an emulated CPU: accuracy counts, there is no latency"),
    Column("cpu_isa", "string", "instruction sets by CPUID inside the worker"),
    Column("isa", "string", "instruction set of the kernels, as far as the runtime tells"),
    Column("kernels", "string", "kernels of the weight-bearing operators, from the runtime"),
    Column("kernels_native", "string", "the same without the condition"),
    Column("sqnr_golden_db", "float64", "native outputs to their difference under the condition"),
    Column("sqnr_golden_fp32_db", "float64", "the same of the fp32 environment of this runtime"),
    Column("sqnr_baseline_db", "float64", "against the baseline's clean outputs, here"),
    Column("sqnr_baseline_native_db", "float64", "the same without the condition"),
    Column("agreement_golden", "float64", "share of decisions equal to native's"),
    Column("accuracy", "float64", "share of samples classified rightly"),
    Column("accuracy_native", "float64", "the same without the condition"),
    Column("latency_ratio", "float64", "median latency to the baseline's; null where emulated"),
    Column("saturates", "bool", "int8 lost what fp32 kept, on kernels without VNNI; null: unknown"),
    Column("diagnosis", "string", "what the comparison with native and with fp32 says"),
)

SOAK = (
    *_CELL,
    *_STATUS,
    Column("batch", "int64", "samples per inference"),
    Column("duration_s", "float64", "from the first window to the last"),
    Column("windows", "int64", "stretches of timed calls; series of them are in soak/"),
    Column("n_calls", "int64", "recorded inferences"),
    Column("latency_mean_ms", "float64", "mean over all of them"),
    *_with_interval("drift_per_min", "factor of the mean latency per minute, by a line on its log"),
    *_with_interval("last_to_first", "mean latency of the last quarter to that of the first"),
    Column("throttled", "bool", "it became slower at some time by 10 % or more, and stayed so"),
    Column("throttled_at_s", "float64", "from when on"),
    Column("throttled_ratio", "float64", "by what factor"),
    Column("step_statistic", "float64", "self-normalised CUSUM (Shao and Zhang 2010)"),
    Column("step_critical", "float64", "what it exceeds by chance in 1 % of steady soaks"),
    Column("cpu_share_first", "float64", "CPU time per second before the likeliest step"),
    Column("cpu_share_last", "float64", "the same behind it: less means that it had to wait"),
    Column("temperature_c_first", "float64", "hottest sensor at first; null without a sensor"),
    Column("temperature_c_last", "float64", "the same at last"),
    Column("temperature_c_max", "float64", "largest"),
    Column("frequency_mhz_first", "float64", "CPU clock at first; null where it is not told"),
    Column("frequency_mhz_last", "float64", "the same at last"),
    Column("frequency_mhz_max", "float64", "largest"),
    Column("course", "string", "mean latency over time, from smallest to largest"),
    Column("diagnosis", "string", "what slowed it down, as far as that can be told"),
)

METRICS_TABLE = (
    *_CELL,
    *_STATUS,
    Column("metric", "string", "function of the user's, package.module:function"),
    Column("value", "float64", "mean over samples and patterns, without what is no number"),
    Column("n", "int64", "values that it is the mean of"),
)

MODELS = (
    *_CELL,
    *_STATUS,
    Column("reference", "string", "the first model of the spec: what the differences are against"),
    Column("accuracy_clean", "float64", "share of samples classified rightly, nothing happening"),
    Column("accuracy", "float64", "the same in this cell"),
    Column("drift", "float64", "accuracy minus this model's clean accuracy (clean: see drift)"),
    Column("drift_low", "float64", "lower limit of drift, 95 %"),
    Column("drift_high", "float64", "upper limit of drift, 95 %"),
    *_with_interval(
        "accuracy_difference", "accuracy minus the reference model's here, on the same samples"
    ),
    *_with_interval(
        "drift_difference", "drift minus the reference model's: below 0, this model loses more"
    ),
    Column("holds", "string", "better or worse than the reference where the interval leaves 0 out"),
    Column("only_here", "int64", "samples that lose more in this model"),
    Column("only_reference", "int64", "samples that lose more in the reference model"),
    Column("batch", "int64", "samples per inference of latency_p50_ms: the smallest"),
    Column("latency_p50_ms", "float64", "median latency of the clean cell"),
    Column("load_ms", "float64", "median time to open the artifact"),
    Column("run_peak_rss_mib", "float64", "largest peak resident set of the clean accuracy run"),
)

TABLES = {
    "cells": CELLS,
    "environments": ENVIRONMENTS,
    "drift": DRIFT,
    "models": MODELS,
    "metrics": METRICS_TABLE,
    "latency": LATENCY_TABLE,
    "interaction": INTERACTION,
    "vulnerability": VULNERABILITY,
    "limits": LIMITS,
    "shift": SHIFT,
    "sensitivity": SENSITIVITY,
    "mce": MCE,
    "campaigns": CAMPAIGNS,
    "isa": ISA,
    "soak": SOAK,
}
