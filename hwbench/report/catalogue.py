"""Everything that is registered: backends, scenarios with parameters, suites, metrics."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from hwbench import registry
from hwbench.score import METRICS


def catalogue() -> dict[str, Any]:
    """Plain data; no runtime is imported."""
    return {
        "backends": [_backend(name) for name in registry.names(registry.BACKENDS)],
        "scenarios": [_scenario(name) for name in registry.names(registry.SCENARIOS)],
        "suites": {name: _first_comment(text) for name, text in sorted(registry.suites().items())},
        "metrics": {metric.name: metric.help for metric in METRICS},
    }


def _backend(name: str) -> dict[str, Any]:
    found = registry.backend(name)
    missing = registry.missing_modules(found)
    hint = registry.install_hint(found) if missing else ""
    return {"name": name, "takes": list(found.accepts), "missing": list(missing), "hint": hint}


def _scenario(name: str) -> dict[str, Any]:
    kind = registry.scenario(name)
    parameters = [
        {
            "name": each.name,
            "default": None if each.default is MISSING else each.default,
            "unit": each.metadata.get("unit", ""),
            "help": each.metadata.get("help", ""),
            "severity": each.name in kind.severities,
        }
        for each in fields(kind)
    ]
    summary = (kind.__doc__ or "").strip().splitlines()[0]
    return {"name": name, "summary": summary, "parameters": parameters, "example": kind.example}


def _first_comment(text: str) -> str:
    return text.splitlines()[0].removeprefix("#").strip()


def catalogue_text(found: dict[str, Any], only: str = "") -> str:
    """The same for a person.

    Args:
        found: by ``catalogue``.
        only: one of its keys, for that part alone.
    """
    parts = {
        "backends": _backends(found),
        "scenarios": _scenarios(found),
        "suites": _suites(found),
        "metrics": _metrics(found),
    }
    return "\n\n".join("\n".join(lines) for name, lines in parts.items() if only in ("", name))


def _backends(found: dict[str, Any]) -> list[str]:
    lines = ["Backends"]
    for each in found["backends"]:
        state = f"missing; {each['hint']}" if each["missing"] else "installed"
        lines.append(f"  {each['name']:<14} takes {'/'.join(each['takes'])} models; {state}")
    return lines


def _scenarios(found: dict[str, Any]) -> list[str]:
    lines = ["Scenarios", "  clean          nothing happens"]
    for each in found["scenarios"]:
        lines += _scenario_lines(each)
    return lines


def _suites(found: dict[str, Any]) -> list[str]:
    head = "Suites (hwbench sweep NAME --model m.onnx --data d.npz)"
    return [head, *(f"  {name:<14} {text}" for name, text in found["suites"].items())]


def _metrics(found: dict[str, Any]) -> list[str]:
    return ["Metrics", *(f"  {name:<20} {text}" for name, text in found["metrics"].items())]


def _scenario_lines(each: dict[str, Any]) -> list[str]:
    lines = [f"  {each['name']:<14} {each['summary']}"]
    for parameter in each["parameters"]:
        unit = f" [{parameter['unit']}]" if parameter["unit"] else ""
        kind = "severity" if parameter["severity"] else f"default {parameter['default']}"
        lines.append(f"      {parameter['name']:<10} {parameter['help']}{unit} ({kind})")
    lines.append(f"      e.g. {each['example']}")
    return lines
