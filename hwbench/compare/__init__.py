"""Two runs side by side: which cells changed, by how much, and how sure that is. Reads only."""

from hwbench.compare.comparison import COLUMNS, Comparison, Thresholds, compare

__all__ = ["COLUMNS", "Comparison", "Thresholds", "compare"]
