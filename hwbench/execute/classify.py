"""What a worker's end means, as a process outcome with the reason."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import Any

from hwbench.backend import Environment
from hwbench.execute.launch import STALL_S, Ended


@dataclass(frozen=True)
class Verdict:
    """A process outcome and one line that says why."""

    outcome: str
    message: str | None = None


def classify(ended: Ended, deadline_s: float) -> Verdict:
    """The process outcome; what the worker said of itself comes before what its end suggests."""
    if ended.killed == "deadline":
        text = f"no progress for {deadline_s:.3g} s in phase {ended.phase}"
        return Verdict("timeout", text + _stall(ended))
    if ended.killed == "stop":
        return Verdict("interrupted", "the sweep was stopped")
    if ended.failed:
        return Verdict(ended.failed["outcome"], ended.failed["message"])
    if ended.signal is not None:
        return _by_signal(ended)
    if ended.status != 0:
        text = f"exit status {ended.status} in phase {ended.phase}"
        return Verdict("error", _with_stderr(text, ended))
    if ended.phase != "done":
        return Verdict("error", f"the process ended in phase {ended.phase} without a word")
    return Verdict("ok")


def _stall(ended: Ended) -> str:
    """Names thrashing: at a limit, file pages (code too) are reclaimed and read over and over."""
    if ended.stall is None or not ended.stall.reclaiming:
        return ""
    return (
        f": reclaim stall under {ended.mechanism}, {ended.stall.limit_hits:.0f} limit hits and"
        f" {ended.stall.major_faults:.0f} major page faults in its last {STALL_S:g} s"
    )


def _by_signal(ended: Ended) -> Verdict:
    under = f" under {ended.emulator}" if ended.emulator else ""
    text = f"{_signal_name(ended.signal or 0)} in phase {ended.phase}{under}"
    if ended.signal == signal.SIGKILL and ended.counters.get("oom_kills"):
        return Verdict("oom", f"{text}: out of memory under {ended.mechanism}")
    if "bad_alloc" in ended.stderr:
        return Verdict("oom", f"std::bad_alloc, then {text}")
    if ended.signal in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return Verdict("interrupted", f"{text}: killed from outside")
    return Verdict("crash", _with_stderr(text, ended))


def _signal_name(number: int) -> str:
    """``SIGSEGV``; most real-time signals have no name."""
    known = {each.value: each.name for each in signal.Signals}
    return known.get(number, f"signal {number}")


def _with_stderr(text: str, ended: Ended) -> str:
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    if not lines:
        return text
    where = next((line for line in lines if line.startswith("File ")), lines[-1])
    return f"{text}; {where}"[:500]


def deviation(asked: Environment, actual: dict[str, Any]) -> str | None:
    """How what ran differs from what was asked, leaving out what ``allow`` accepts.

    Every weight-bearing operator must execute in the asked precision. Under int8, operators whose
    weights the quantiser left in floating point are part of the artifact and may stay so, but at
    least one must be int8, and none may be stored as int8 and executed otherwise.
    """
    found = [_precision(asked, actual["ops"]), _device(asked, actual), _threads(asked, actual)]
    return "; ".join(each for each in found if each) or None


def _precision(asked: Environment, ops: list[dict[str, str]]) -> str | None:
    if not ops:
        return None
    executed = [_executed(op, asked) for op in ops if not _left_in_float(asked, op)]
    if not executed:
        return f"asked {asked.precision}, but no operator is quantised"
    wrong = sorted({name for name in executed if not _accepted(asked, name)})
    if not wrong:
        return None
    count = sum(name in wrong for name in executed)
    names = ", ".join(f"{asked.precision}-as-{name}" for name in wrong)
    return f"asked {asked.precision}, {count} of {len(ops)} operators ran otherwise: {names}"


def _left_in_float(asked: Environment, op: dict[str, str]) -> bool:
    quantised = asked.precision.startswith("int8")
    return quantised and op["stored"] != "int8" and op["executed"] != "int8"


def _executed(op: dict[str, str], asked: Environment) -> str:
    """``int8-ref`` is a precision of its own: stored as int8, computed in fp32."""
    reference = asked.precision == "int8-ref" and op["stored"] == "int8"
    return "int8-ref" if reference and op["executed"] == "fp32" else op["executed"]


def _accepted(asked: Environment, executed: str) -> bool:
    return executed == asked.precision or bool(
        {executed, f"{asked.precision}-as-{executed}"} & set(asked.allow)
    )


def _device(asked: Environment, actual: dict[str, Any]) -> str | None:
    if actual["device"] == asked.device or f"device-{actual['device']}" in asked.allow:
        return None
    return f"asked device {asked.device}, ran on {actual['device']}"


def _threads(asked: Environment, actual: dict[str, Any]) -> str | None:
    if actual["threads"] in (None, asked.threads) or "threads" in asked.allow:
        return None
    return f"asked {asked.threads} threads, ran with {actual['threads']}"


def judged(ended: Ended, verdict: Verdict, asked: Environment) -> tuple[Verdict, str | None]:
    """The verdict after comparing asked and actual, and the deviation."""
    actual = ended.values.get("actual")
    differs = deviation(asked, actual) if actual else None
    repeats = ended.values.get("golden_reproduced") is not False or ended.mechanism
    if verdict.outcome == "ok" and not repeats:
        return Verdict("invalid", "the process does not repeat golden's bytes"), differs
    if verdict.outcome == "ok" and differs:
        return Verdict("invalid", differs), differs
    return verdict, differs


def actual_json(ended: Ended) -> str | None:
    """The actual environment for the ``processes`` row."""
    actual = ended.values.get("actual")
    return json.dumps(actual, sort_keys=True) if actual else None
