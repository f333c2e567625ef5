"""A linear classifier in NumPy as a backend, which fails in the ways that its options ask for."""

from .backend import FakeBackend
from .faults import digest

__all__ = ["FakeBackend", "digest"]
