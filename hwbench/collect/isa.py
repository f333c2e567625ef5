"""What a lesser instruction set does: the kernels that ran, and whether int8 saturates on them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hwbench.record import Row

Place = tuple[str, str]  # model, environment
AXIS = "vector_bits"  # the severity of conditions on the instruction set

# Instructions that add four u8 x s8 products in 32 bits. Without them, pairs of products are added
# in 16 bits with saturation (vpmaddubsw), which 2 * 255 * 127 overflows.
WIDE_PRODUCTS = ("vnni", "amx")
REDUCED = "quantize.reduce_range"

# Tried on ResNet-8 and ResNet-20: kernels of another width round fp32 differently by 129 to 132 dB,
# and int8 sums are exact, so that nothing but saturation moved int8 by more than that.
MOVED_DB = 60.0
APART_DB = 30.0

SATURATES = (
    "int8 saturates on this instruction set: sums of u8 x s8 products overflow 16 bits without VNNI"
)


def table(
    plan: Mapping[str, Any], drift: list[Row], processes: Mapping[Place, list[Row]]
) -> list[Row]:
    """One row per environment and lesser instruction set."""
    environments = {(each["model"], each["environment"]): each for each in plan["environments"]}
    constraints = {
        (each["scenario"], each["severity"]): each["constraint"]
        for each in plan["cases"]
        if each["severity_name"] == AXIS and each["stack"] == 1
    }
    clean = {(r["model"], r["environment"]): r for r in drift if r["scenario"] == "clean"}
    rows = []
    for each in drift:
        constraint = constraints.get((each["scenario"], each["severity"]))
        if constraint is not None:
            place = (each["model"], each["environment"])
            made = _row(each, clean[place], environments[place], constraint, processes)
            rows.append(made)
    for each in rows:
        each |= _judged(each, rows, environments)
    return rows


def _row(
    drift: Row,
    clean: Row,
    environment: Mapping[str, Any],
    constraint: str,
    processes: Mapping[Place, list[Row]],
) -> Row:
    names = ("model", "environment", "scenario", "severity_name", "severity", "status", "note")
    of_place = processes.get((drift["model"], drift["environment"]), [])
    ran = [each for each in of_place if each["kind"] == "accuracy" and each["actual"]]
    here = next((each for each in ran if each["conditions"] == constraint), None)
    native = next((each for each in ran if each["conditions"] is None), None)
    return {
        **{name: drift[name] for name in names},
        "precision": environment["precision"],
        "mechanism": here and here["mechanism"],
        "emulated": here and here["emulated"],
        "cpu_isa": here and here["cpu_isa"],
        "isa": here and json.loads(here["actual"])["isa"],
        "kernels": here and _kernels(here),
        "kernels_native": native and _kernels(native),
        "sqnr_golden_db": drift.get("sqnr_golden_db"),
        "sqnr_baseline_db": drift.get("sqnr_baseline_db"),
        "sqnr_baseline_native_db": clean.get("sqnr_baseline_db"),
        "agreement_golden": drift.get("agreement_golden"),
        "accuracy": drift.get("accuracy"),
        "accuracy_native": clean.get("accuracy"),
        "latency_ratio": drift.get("latency_ratio"),
    }


def _kernels(process: Row) -> str:
    """``brgconv_avx2_f32 x7, gemm_mlas_f32``, most frequent first."""
    found = Counter(op["kernel"] for op in json.loads(process["actual"])["ops"])
    return ", ".join(f"{name} x{n}" if n > 1 else name for name, n in found.most_common())


def _judged(row: Row, rows: list[Row], environments: Mapping[Place, Mapping[str, Any]]) -> Row:
    """The float environment beside an int8 one, and what the comparison says."""
    mine = environments[(row["model"], row["environment"])]
    beside = [
        (each, other)
        for each, other in ((r, environments[(r["model"], r["environment"])]) for r in rows)
        if _same_cell(each, row) and _same_runtime(other, mine)
    ]
    floats = [each["sqnr_golden_db"] for each, other in beside if other["precision"] == "fp32"]
    float_db = next((each for each in floats if each is not None), None)
    if row["precision"] != "int8" or row["sqnr_golden_db"] is None:
        return {"sqnr_golden_fp32_db": None, "saturates": None, "diagnosis": None}
    saturates = _saturates(row, float_db)
    reduced = [each for each, other in beside if _reduced(other) and not _reduced(mine)]
    text = _words(row, float_db, saturates, reduced) if _moved(row) else None
    return {"sqnr_golden_fp32_db": float_db, "saturates": saturates, "diagnosis": text}


def _same_cell(one: Row, other: Row) -> bool:
    return all(one[name] == other[name] for name in ("model", "scenario", "severity"))


def _same_runtime(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("backend", "device", "threads"))


def _reduced(environment: Mapping[str, Any]) -> bool:
    return environment["precision"] == "int8" and environment["options"].get(REDUCED) is True


def _moved(row: Row) -> bool:
    return bool(row["sqnr_golden_db"] < MOVED_DB)


def _saturates(row: Row, float_db: float | None) -> bool | None:
    """Whether int8 lost what fp32 kept, on kernels without wide products; ``None``: not to tell."""
    if not _moved(row):
        return False
    if float_db is None:
        return None
    capped = row["cpu_isa"] if row["emulated"] else row["kernels"]
    narrow = not any(each in (capped or "") for each in WIDE_PRODUCTS)
    return bool(narrow and float_db - row["sqnr_golden_db"] > APART_DB)


def _words(row: Row, float_db: float | None, saturates: bool | None, reduced: list[Row]) -> str:
    moved = f"outputs at {row['sqnr_golden_db']:.1f} dB of its own native ones"
    if float_db is None:
        return f"int8 moves ({moved}); an fp32 environment beside it would tell saturation apart"
    if not saturates:
        return f"int8 moves ({moved}, fp32 at {_db(float_db)}): not explained by saturation alone"
    return f"{SATURATES} ({moved}, fp32 at {_db(float_db)}); {_remedy(row, reduced)}"


def _remedy(row: Row, reduced: Iterable[Row]) -> str:
    """What ``reduce_range`` measured in this run, or how to try it."""
    for each in reduced:
        found = each["sqnr_golden_db"]
        if found is not None:
            does = "buys it back" if not _moved(each) else "does not buy all of it back"
            return f"{REDUCED}: true {does} ({_db(found)})"
    return f"{REDUCED}: true (options of the environment) buys it back with 7 bits"


def _db(value: float) -> str:
    return "equal bytes" if math.isinf(value) else f"{value:.1f} dB"
