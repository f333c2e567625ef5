"""Verdicts as JUnit XML, which every CI server reads: one test case per gate and cell.

A fail is a ``failure``. An inconclusive one is an ``error``: CI servers show ``skipped`` as
harmless, and a gate that nobody could decide is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

from hwbench.qualify.decide import FAIL, INCONCLUSIVE
from hwbench.qualify.verdict import Judgement, Qualification

# Everything that XML 1.0 cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(found: Qualification, name: str, run: Mapping[str, Any]) -> str:
    """The XML text.

    Args:
        found: the verdicts.
        name: of the run.
        run: its provenance: when it began, and on which machine.
    """
    counts = {
        "tests": len(found.gates),
        "failures": sum(each.verdict == FAIL for each in found.gates),
        "errors": sum(each.verdict == INCONCLUSIVE for each in found.gates),
    }
    numbers = {key: str(value) for key, value in counts.items()}
    root = ElementTree.Element("testsuites")  # the schema gives it no attributes
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        {
            "name": _legal(name),
            "package": "hwbench.qualify",
            "id": "0",
            "timestamp": _moment(run),
            "hostname": _legal(str(run.get("machine", {}).get("fingerprint", "unknown"))),
            "time": "0",
            "skipped": "0",
            **numbers,
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(properties, "property", {"name": "verdict", "value": found.verdict})
    for each in found.gates:
        _case(suite, each)
    _text(suite, "system-out", _not_tested(found))
    _text(suite, "system-err", "")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _case(suite: ElementTree.Element, judged: Judgement) -> None:
    place = [judged.cell["model"] or "any", judged.cell["environment"] or "any"]
    classname = ".".join(part.replace(".", "_") for part in place)
    name = f"{judged.gate} [{judged.place}]"
    attributes = {"classname": _legal(classname), "name": _legal(name), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    kind = {FAIL: "failure", INCONCLUSIVE: "error"}.get(judged.verdict)
    if kind:
        element = _text(case, kind, _told(judged))
        element.attrib |= {"message": _legal(judged.note), "type": judged.verdict}


def _told(judged: Judgement) -> str:
    lines = [
        f"value {judged.value} [{judged.low}, {judged.high}]",
        f"{judged.bound} {judged.limit:g}, indifference {judged.indifference:g},"
        f" confidence {judged.confidence:g}",
        f"unit {judged.unit}, n {judged.n}, {judged.method}",
    ]
    if judged.bottleneck:
        lines.append(f"bottleneck: {judged.bottleneck}")
    if judged.follow_up:
        lines.append(f"follow-up: {judged.follow_up}")
    return "\n".join(lines)


def _not_tested(found: Qualification) -> str:
    lines = [f"not tested: {each['what']}: {each['why']}" for each in found.not_tested]
    return "\n".join(lines)


def _text(parent: ElementTree.Element, tag: str, text: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    element.text = _legal(text)
    return element


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)


def _moment(run: Mapping[str, Any]) -> str:
    """Start of the run, in UTC without a zone, as the schema wants it."""
    try:
        return datetime.fromisoformat(str(run["started"])).strftime("%Y-%m-%dT%H:%M:%S")
    except (KeyError, ValueError):
        return "1970-01-01T00:00:00"
