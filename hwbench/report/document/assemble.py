"""The sections in their order: what decides comes first, where it comes from last."""

from __future__ import annotations

from dataclasses import replace

import yaml

from hwbench.report.document import (
    accuracy,
    environments,
    faults,
    latency,
    memory,
    origin,
    severity,
    sidebyside,
    soak,
    untested,
    verdict,
)
from hwbench.report.document.content import Document
from hwbench.report.document.material import Material


def document(material: Material) -> Document:
    """The whole report of a run."""
    made = Document(
        title=title(material),
        subtitle=_subtitle(material),
        verdict=verdict.headline(material),
        sections=(
            verdict.section(material),
            accuracy.section(material),
            severity.section(material),
            *sidebyside.sections(material),
            faults.section(material),
            latency.section(material),
            memory.section(material),
            soak.section(material),
            environments.section(material),
            environments.instruction_sets(material),
            untested.section(material),
            origin.section(material),
        ),
    )
    figures = origin.reproduction(material, list(made.figures()))
    return replace(made, sections=(*made.sections, figures))


def title(material: Material) -> str:
    """The spec's name, else the folder's."""
    try:
        spec = yaml.safe_load(material.spec)
    except yaml.YAMLError:
        return material.name
    name = spec.get("name") if isinstance(spec, dict) else None
    return str(name) if name else material.name


def _subtitle(material: Material) -> str:
    machine = material.run.get("machine", {})
    models = dict.fromkeys(each["model"] for each in material.plan["environments"])
    where = f"{machine.get('cpu', 'unknown CPU')}, {machine.get('system', 'unknown system')}"
    return f"{', '.join(models)} on {where}; started {material.run.get('started', 'unknown')}"
