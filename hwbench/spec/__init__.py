"""What the user asked for: YAML to typed and validated values."""

from hwbench.spec.load import load, load_default, load_mapping, load_suite
from hwbench.spec.models import Spec

__all__ = ["Spec", "load", "load_default", "load_mapping", "load_suite"]
