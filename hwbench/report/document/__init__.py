"""What a report says: a run's tables as sections of sentences, tables and figures."""

from hwbench.report.document.assemble import document
from hwbench.report.document.content import Document
from hwbench.report.document.material import Material, read

__all__ = ["Document", "Material", "document", "read"]
