"""What a worker's end means, and whether what ran is what was asked."""

from __future__ import annotations

import signal

import pytest

from hwbench.backend import Environment
from hwbench.execute.classify import classify, deviation, judged
from hwbench.execute.launch import Ended


def verdict(**ended) -> tuple[str, str]:
    found = classify(Ended(**ended), 30)
    return found.outcome, found.message or ""


@pytest.mark.parametrize(
    ("ended", "outcome", "told"),
    [
        ({"status": 0, "phase": "done"}, "ok", ""),
        ({"status": 0, "phase": "run"}, "error", "in phase run without a word"),
        ({"status": 0}, "error", "in phase start"),
        ({"status": 3, "phase": "load"}, "error", "exit status 3 in phase load"),
        ({"status": 3, "phase": "load", "stderr": "a\nlibfoo: bad\n\n"}, "error", "libfoo: bad"),
        ({"signal": signal.SIGSEGV, "phase": "run"}, "crash", "SIGSEGV in phase run"),
        ({"signal": signal.SIGABRT, "phase": "run"}, "crash", "SIGABRT"),
        ({"signal": signal.SIGILL, "phase": "load"}, "crash", "SIGILL in phase load"),
        ({"signal": signal.SIGFPE}, "crash", "SIGFPE"),
        ({"signal": signal.SIGBUS}, "crash", "SIGBUS"),
        ({"signal": 40, "phase": "run"}, "crash", "signal 40 in phase run"),
        ({"signal": signal.SIGKILL, "phase": "run"}, "interrupted", "SIGKILL in phase run"),
        ({"signal": signal.SIGTERM}, "interrupted", "killed from outside"),
        ({"signal": signal.SIGHUP}, "interrupted", "killed from outside"),
        (
            {"signal": signal.SIGABRT, "stderr": "what():  std::bad_alloc\n"},
            "oom",
            "std::bad_alloc, then SIGABRT",
        ),
        ({"signal": signal.SIGKILL, "killed": "deadline", "phase": "run"}, "timeout", "for 30 s"),
        ({"signal": signal.SIGKILL, "killed": "stop"}, "interrupted", "the sweep was stopped"),
        (
            {"status": 1, "failed": {"outcome": "oom", "message": "MemoryError: x"}},
            "oom",
            "MemoryError: x",
        ),
        (
            {"status": 0, "failed": {"outcome": "unsupported", "message": "no fp8"}},
            "unsupported",
            "no fp8",
        ),
        (
            {"signal": signal.SIGSEGV, "failed": {"outcome": "error", "message": "said first"}},
            "error",
            "said first",
        ),
    ],
)
def test_every_end(ended, outcome, told):
    found = verdict(**ended)
    assert found[0] == outcome
    assert told in found[1]


def test_the_stack_of_a_crash_is_told():
    stderr = (
        "Fatal Python error: Segmentation fault\n\nThread 0x1:\n"
        '  File "x.py", line 3 in run\n  File "y.py", line 1\n'
    )
    assert (
        'SIGSEGV in phase run; File "x.py", line 3 in run'
        in verdict(signal=signal.SIGSEGV, phase="run", stderr=stderr)[1]
    )


# Asked and actual.


def op(executed: str, stored: str | None = None) -> dict[str, str]:
    return {"name": "n", "op_type": "Conv", "stored": stored or executed, "executed": executed}


def found(asked: str, ops, allow=(), device="cpu", threads: int | None = 1) -> str | None:
    environment = Environment("any", precision=asked, allow=tuple(allow))
    return deviation(environment, {"ops": ops, "device": device, "threads": threads})


@pytest.mark.parametrize(
    ("asked", "ops", "allow"),
    [
        ("fp32", [op("fp32"), op("fp32")], []),
        ("fp32", [], []),
        ("bf16", [op("bf16")], []),
        ("int8", [op("int8"), op("int8")], []),
        ("int8", [op("int8"), op("fp32")], []),  # the quantiser left the last layer alone
        ("int8", [op("int8"), op("bf16", "fp32")], []),
        ("int8-ref", [op("fp32", "int8"), op("fp32")], []),
        ("fp16", [op("fp32", "fp16")], ["fp16-as-fp32"]),
        ("fp16", [op("fp32", "fp16")], ["fp32"]),
        ("fp32", [op("bf16", "fp32"), op("fp32")], ["fp32-as-bf16"]),
        ("int8", [op("int8"), op("fp32", "int8")], ["int8-as-fp32"]),
    ],
)
def test_what_is_as_asked_or_allowed(asked, ops, allow):
    assert found(asked, ops, allow) is None


@pytest.mark.parametrize(
    ("asked", "ops", "allow", "told"),
    [
        (
            "fp32",
            [op("bf16", "fp32"), op("fp32")],
            [],
            "1 of 2 operators ran otherwise: fp32-as-bf16",
        ),
        ("fp16", [op("fp32", "fp16")], [], "fp16-as-fp32"),
        ("fp16", [op("fp32", "fp16")], ["fp32-as-fp16", "bf16-as-fp32"], "fp16-as-fp32"),
        ("int8", [op("fp32"), op("fp32")], [], "no operator is quantised"),
        ("int8", [op("int8"), op("fp32", "int8")], [], "int8-as-fp32"),
        ("int8", [op("fp32", "int8")], [], "int8-as-fp32"),
        ("fp32", [op("int8")], [], "fp32-as-int8"),
        ("int8-ref", [op("int8")], [], "int8-ref-as-int8"),
        ("int8-ref", [op("fp32")], [], "no operator is quantised"),
        ("bf16", [op("fp32", "bf16"), op("fp16", "bf16")], ["bf16-as-fp32"], "bf16-as-fp16"),
    ],
)
def test_what_is_otherwise_is_named(asked, ops, allow, told):
    line = found(asked, ops, allow)
    assert line is not None and told in line


def test_devices_and_threads():
    fine = [op("fp32")]
    assert found("fp32", fine, device="cuda:0") == "asked device cpu, ran on cuda:0"
    assert found("fp32", fine, ["device-cuda:0"], device="cuda:0") is None
    assert found("fp32", fine, threads=4) == "asked 1 threads, ran with 4"
    assert found("fp32", fine, ["threads"], threads=4) is None
    assert found("fp32", fine, threads=None) is None
    both = found("fp32", [op("bf16")], device="npu", threads=2)
    assert both is not None and both.count(";") == 2


def test_an_allowed_name_can_be_copied_from_the_message():
    """What the message says is what ``allow`` takes."""
    line = found("fp16", [op("fp32", "fp16")])
    assert line is not None
    assert found("fp16", [op("fp32", "fp16")], [line.rsplit(" ", 1)[-1]]) is None


def test_a_deviation_is_invalid_only_where_the_process_was_well():
    actual = {"ops": [op("bf16", "fp32")], "device": "cpu", "threads": 1}
    asked = Environment("any")
    well = Ended(status=0, phase="done", values={"actual": actual})
    assert judged(well, classify(well, 1), asked)[0].outcome == "invalid"
    ill = Ended(signal=signal.SIGSEGV, values={"actual": actual})
    verdict, differs = judged(ill, classify(ill, 1), asked)
    assert verdict.outcome == "crash" and differs is not None


def test_golden_that_is_not_repeated_is_invalid():
    ended = Ended(status=0, phase="done", values={"golden_reproduced": False})
    found = judged(ended, classify(ended, 1), Environment("any"))[0]
    assert (found.outcome, found.message) == (
        "invalid",
        "the process does not repeat golden's bytes",
    )
