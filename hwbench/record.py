"""The rows of a run: one versioned schema. ``records`` are reproducible, ``processes`` volatile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA_VERSION = 3

Type = Literal["string", "int64", "float64", "bool", "binary", "float64[]", "int64[]"]

PROCESS_OUTCOMES = (
    "ok",
    "crash",
    "oom",
    "timeout",
    "error",
    "unsupported",
    "invalid",
    "interrupted",
)


@dataclass(frozen=True)
class Column:
    """One column: its meaning is part of the schema, and printed into docs/tables.md."""

    name: str
    type: Type
    help: str


RECORDS = (
    Column("cell", "string", "model/environment/scenario@severity"),
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("scenario", "string", "scenario name, severity not included"),
    Column("severity_name", "string", "parameter that is the severity; empty for clean"),
    Column("severity", "float64", "its value; null for clean"),
    Column("pattern", "int64", "number of the random draw"),
    Column("batch", "int64", "number of the batch in the dataset"),
    Column("seed_key", "string", "key of the pattern's random streams"),
    Column("edits_hash", "string", "hash of the edits, or of the perturbed input bytes"),
    Column("n_edits", "int64", "number of edited elements; null for transforms"),
    Column(
        "achieved", "float64", "severity achieved: flipped share of the bits, or mean SNR in dB"
    ),
    Column("n_samples", "int64", "scored samples of the batch"),
    Column("n_masked", "int64", "samples whose output bytes equal golden's"),
    Column("n_benign", "int64", "samples whose output changed and decision did not"),
    Column("n_sdc", "int64", "samples whose decision changed (silent data corruption)"),
    Column("n_due", "int64", "samples with NaN or Inf in an output"),
    Column(
        "outcomes", "binary", "outcome per sample in dataset order, two bits each; see score.pack"
    ),
    Column("correct", "binary", "bit per sample (numpy.packbits); null without labels"),
    Column(
        "partials",
        "binary",
        "additive metric vectors, in the order of score.METRICS: little-endian float64",
    ),
    Column("custom", "float64[]", "sum and count over samples of each metric of the user's"),
    Column(
        "method",
        "string",
        "naive: whole run; unedited: the pattern hit nothing, so golden holds; grouped, windowed,"
        " suffix, constant, mixed: replayed, see Method in hwbench.backend",
    ),
    Column("outcome", "string", "process outcome charged to this trial"),
    Column("message", "string", "what the runtime or the classifier said; null when ok"),
)

PROCESSES = (
    Column("job", "string", "hash of the job's content"),
    Column("kind", "string", "build, prepare, accuracy, latency, soak or search"),
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("scenario", "string", "scenario name; empty for build"),
    Column("severity_name", "string", "parameter that is the severity"),
    Column("severity", "float64", "its value"),
    Column("machine", "string", "fingerprint of the machine that ran it, see machines.json"),
    Column("conditions", "string", "what constrained the process; null without"),
    Column("mechanism", "string", "what enforced it on this machine"),
    Column("emulated", "bool", "ran on an emulated CPU: its times are not a CPU's"),
    Column("architecture", "string", "architecture by the process's own account: x86_64, aarch64"),
    Column("cpu_name", "string", "the CPU by CPUID or MIDR inside the process; null: not told"),
    Column("cpu_isa", "string", "its instruction sets by CPUID or HWCAP, most capable first"),
    Column("attempt", "int64", "how many workers were started for this job before"),
    Column(
        "block", "int64", "latency: block in which all environments run once; search: which probe"
    ),
    Column("position", "int64", "latency: position in the block's random order"),
    Column("outcome", "string", "process outcome"),
    Column(
        "phase",
        "string",
        "last phase: start, import, build, load, warmup, measure, search, run, score, done",
    ),
    Column("signal", "int64", "signal that ended the process; null if none"),
    Column("exit_status", "int64", "exit status; null if a signal ended it"),
    Column("message", "string", "why it is not ok"),
    Column(
        "peak_rss_mib",
        "float64",
        "peak resident set, told before asking what ran",
    ),
    Column("memory_limit_mib", "float64", "limit of its group or watchdog, as the system holds it"),
    Column("oom_kills", "int64", "processes killed for memory in its group, or by the watchdog"),
    Column("memory_limit_hits", "int64", "times its group met the limit and had to reclaim"),
    Column("group_peak_mib", "float64", "peak of its group: anonymous memory and its file pages"),
    Column(
        "shared_file_mib",
        "float64",
        "pages of its files that stayed in the page cache, charged elsewhere: others map them",
    ),
    Column("memory_stall_s", "float64", "time its group waited for memory (PSI, cgroup v2)"),
    Column("major_faults", "int64", "pages it had to wait for until they were read from storage"),
    Column(
        "reclaim_stall",
        "bool",
        "timeout: its memory was reclaimed at the limit until the end; false is a hang",
    ),
    Column("cpu_quota", "float64", "cores of CPU time per period, as the system holds it"),
    Column("cpu_periods", "int64", "quota periods in which it ran"),
    Column("throttled_periods", "int64", "periods in which it used up its quota and had to wait"),
    Column("throttled_s", "float64", "time its threads had to wait for the next period"),
    Column("load_cpu_s", "float64", "CPU time of the load that contended with it"),
    Column("cpu_s", "float64", "user and system time"),
    Column("wall_s", "float64", "from start to end of the process"),
    Column("import_ms", "float64", "time to import the adapter and runtime"),
    Column("load_ms", "float64", "time to open the artifact"),
    Column("first_inference_ms", "float64", "first inference after loading"),
    Column("run_ms", "float64", "accuracy: time of all trials, corrupting and loading included"),
    Column("golden_reproduced", "bool", "this process repeats golden's bytes on batch 0"),
    Column("trials", "int64", "records written by this process"),
    Column("replay", "string", "trials by route, and why faster ones were refused, as JSON"),
    Column("actual", "string", "what really ran, as JSON"),
    Column("deviation", "string", "how actual differs from asked; null when it does not"),
    Column("batch", "int64", "latency: samples per inference"),
    Column("n_calls", "int64", "latency: recorded inferences"),
    Column("use", "string", "latency: how calls arrived: singlestream, server, ..."),
    Column("pattern", "int64", "latency: pattern whose faults and noise it ran under"),
    Column("warmup_calls", "int64", "latency: unrecorded inferences"),
    Column("latency_p50_ms", "float64", "latency: median of this process"),
    Column("latency_mean_ms", "float64", "latency: mean of this process"),
    Column("latency_p90_ms", "float64", "latency: 90th percentile of this process"),
    Column("latency_p95_ms", "float64", "latency: 95th percentile of this process"),
    Column("latency_p97_ms", "float64", "latency: 97th percentile of this process"),
    Column("latency_p99_ms", "float64", "latency: 99th percentile of this process"),
    Column("latency_p999_ms", "float64", "latency: 99.9th percentile of this process"),
    Column("relative_sd", "float64", "latency: interquartile range / 1.349 / median of its calls"),
    Column("autocorrelation", "float64", "latency: of log latencies, from one call to the next"),
    Column("n_outliers", "int64", "latency: calls more than 3 interquartile ranges above the rest"),
    Column("throughput_per_s", "float64", "latency: samples per second while it measured"),
    Column("rate_per_s", "float64", "server: arrivals per second, the highest that kept the bound"),
    Column("loadgen", "string", "VALID or INVALID with the reasons, by MLCommons LoadGen"),
    Column(
        "same_input_speedup", "float64", "latency of an input in rotation to it alone, repeated"
    ),
    Column("canary_ms", "float64", "latency: median of a fixed workload in NumPy, before loading"),
    Column("sampled_agreement", "float64", "share of sampled answers that decide as golden does"),
    Column("n_sampled", "int64", "samples whose answers were kept while it measured"),
    Column("stored_denormal", "int64", "denormal numbers in the tensors that were corrupted"),
    Column("stored_nonfinite", "int64", "NaN and Inf in the tensors that were corrupted"),
    Column("nonfinite_outputs", "float64", "share of sampled answers with NaN or Inf"),
    Column("others_cpu", "float64", "latency: cores that other processes kept busy meanwhile"),
    Column("steal_share", "float64", "latency: share of the time that the hypervisor took away"),
    Column("switches_per_s", "float64", "latency: times a second it had to leave its core"),
    Column("swapped_pages", "int64", "latency: pages swapped by anybody meanwhile"),
    Column("cpu_throttles", "int64", "latency: times cores were slowed down for heat meanwhile"),
    Column("frequency_min_mhz", "float64", "latency: lowest core frequency before and after"),
    Column("frequency_max_mhz", "float64", "latency: highest core frequency before and after"),
    Column("energy_j", "float64", "latency: RAPL (whole packages) or NVML (device) meanwhile"),
    Column("gpu_temperature_c", "float64", "latency: of the GPU at the end, by NVML"),
    Column("gpu_clock_mhz", "float64", "latency: of the GPU's multiprocessors at the end"),
    Column("gpu_power_w", "float64", "latency: drawn by the GPU's board at the end"),
    Column("gpu_ecc_corrected", "int64", "latency: GPU memory errors corrected meanwhile"),
    Column("gpu_ecc_uncorrected", "int64", "latency: GPU memory errors not corrected meanwhile"),
    Column("load_average", "float64", "1-minute load of the machine when the process ended"),
)

LATENCY = (
    Column("job", "string", "hash of the job's content"),
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("scenario", "string", "scenario name"),
    Column("severity_name", "string", "parameter that is the severity"),
    Column("severity", "float64", "its value"),
    Column("batch", "int64", "samples per inference"),
    Column("block", "int64", "block in which all environments run once"),
    Column("position", "int64", "position in the block's random order"),
    Column("use", "string", "how calls arrived: singlestream, server, ..."),
    Column("latencies_ns", "int64[]", "every recorded inference in order; of a soak the last ones"),
    Column("bucket_lows_ns", "int64[]", "soak: lowest latency of each bucket, 0.1 % wide"),
    Column("bucket_counts", "int64[]", "soak: inferences in each bucket, all of them"),
)

SOAK = (
    Column("job", "string", "hash of the job's content"),
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("scenario", "string", "scenario name"),
    Column("severity_name", "string", "parameter that is the severity"),
    Column("severity", "float64", "its value"),
    Column("batch", "int64", "samples per inference"),
    Column("t_s", "float64[]", "middle of each window since the first began"),
    Column("n_calls", "int64[]", "recorded inferences of each window"),
    Column("latency_mean_ms", "float64[]", "their mean: a CPU quota shows here"),
    Column("latency_p50_ms", "float64[]", "their median"),
    Column("latency_max_ms", "float64[]", "the slowest"),
    Column("cpu_share", "float64[]", "CPU time of the process per second of the window"),
    Column("temperature_c", "float64[]", "hottest sensor after each window; null without one"),
    Column("frequency_mhz", "float64[]", "CPU clock after each window; null where not told"),
)

FAULTS = (
    Column("cell", "string", "model/environment/scenario@severity"),
    Column("pattern", "int64", "number of the random draw"),
    Column("layer", "int64", "which scenario of a stack"),
    Column("edits_hash", "string", "hash of all the pattern's edits"),
    Column("site", "string", "name of the site"),
    Column("element", "int64", "flat index into the site (of one row, for activations)"),
    Column("row", "int64", "dataset sample whose activation was hit; null for stored tensors"),
    Column("mask", "string", "bits concerned, hexadecimal"),
    Column("op", "string", "flip, set, clear or write"),
    Column("before", "string", "the element's bits before, hexadecimal"),
    Column(
        "after",
        "string",
        "bits after: read back from what was loaded, or what replay gave to the operator",
    ),
    Column("dtype", "string", "the site's stored dtype"),
    Column("kind", "string", "what the site is: weight, bias, scale, zero_point, activation"),
    Column("consumer", "string", "name of the site's first consumer"),
    Column("op_type", "string", "its type, in the runtime's words"),
    Column("order", "int64", "its position in topological order"),
)

SEARCHES = (
    Column("model", "string", "the model's name in the spec"),
    Column("environment", "string", "environment id"),
    Column("scenario", "string", "scenario name, severity not included: severities share a search"),
    Column("pattern", "int64", "number of the search"),
    Column("layer", "int64", "which scenario of a stack"),
    Column("step", "int64", "severity from which this step's edits are in; 0: before the first"),
    Column("site", "string", "site of the step's edits; null at step 0"),
    Column("element", "int64[]", "flat indices into the site"),
    Column("mask", "string", "bits concerned of each, hexadecimal, comma between them"),
    Column("loss_nats", "float64", "mean loss of the attacked samples after this step"),
    Column("candidates", "int64", "what was tried in this step, each on all attacked samples"),
    Column("routes", "string", "how candidates were run, see Method.route, with their counts"),
    Column("ranked_by", "string", "gradient, or change of value where there is none"),
    Column("samples", "int64[]", "the attacked samples of the dataset; at step 0 only"),
)

PARTS = {
    "records": RECORDS,
    "processes": PROCESSES,
    "latency": LATENCY,
    "faults": FAULTS,
    "searches": SEARCHES,
    "soak": SOAK,
}

Row = dict[str, Any]

_NAMES = {part: tuple(column.name for column in columns) for part, columns in PARTS.items()}


def row(part: str, values: Row) -> Row:
    """A row with every column of ``part``; absent ones are ``None``.

    Raises:
        KeyError: a value for a column that the schema does not have.
    """
    _check(part, values)
    return {name: values.get(name) for name in _NAMES[part]}


def rows_from(part: str, shared: Row, columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """``row`` of many that were told as columns.

    Args:
        part: a key of ``PARTS``.
        shared: what is the same in all of them.
        columns: the rest, each as long as there are rows.

    Raises:
        KeyError: a value for a column that the schema does not have.
    """
    _check(part, {**shared, **columns})
    count = max(map(len, columns.values()), default=0)
    told = (columns.get(name) or [shared.get(name)] * count for name in _NAMES[part])
    return [dict(zip(_NAMES[part], values, strict=True)) for values in zip(*told, strict=True)]


def _check(part: str, values: Mapping[str, Any]) -> None:
    unknown = values.keys() - _NAMES[part]
    if unknown:
        raise KeyError(f"{part} has no column {sorted(unknown)}")
