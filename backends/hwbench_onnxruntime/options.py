"""Options of an environment: checked here, because ONNX Runtime accepts misspelt keys silently."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hwbench.backend import Environment
from hwbench.errors import RequestError
from hwbench.registry import nearest

QUANTIZE = "quantize."
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "quantize.per_channel": (True, False),
    "quantize.reduce_range": (True, False),
    "quantize.activation_type": ("uint8", "int8"),
    "quantize.calibrate_method": ("minmax", "entropy", "percentile"),
}
# Names of SessionOptions attributes and of what the environment itself says: ONNX Runtime knows
# these words, but a config entry of that name does nothing.
_NO_ENTRIES = frozenset(
    f"session.{name}"
    for name in (
        "enable_cpu_mem_arena enable_mem_pattern enable_profiling execution_mode"
        " graph_optimization_level inter_op_num_threads intra_op_num_threads log_id"
        " log_severity_level log_verbosity_level optimized_model_filepath use_per_session_threads"
    ).split()
)
_ENTRY = re.compile(rb"(?:session|optimization|ep|mlas|memory)(?:\.[a-z0-9_]+)+(?=\0)")


@cache
def _entries() -> frozenset[str]:
    """The config keys the installed runtime reads, taken from its own binary.

    A list in this file would be wrong for every other version: keys come and go, and one that
    this version does not read would be ignored without a word.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as library

    path = Path(str(library.__file__))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        return frozenset(key.decode() for key in _ENTRY.findall(binary)) - _NO_ENTRIES


def session_entries(environment: Environment) -> dict[str, str]:
    """Session config entries of an environment, as the strings ONNX Runtime takes.

    Raises:
        RequestError: the installed ONNX Runtime reads no such key.
    """
    asked = {k: v for k, v in environment.options.items() if not k.startswith(QUANTIZE)}
    for key in asked:
        if key not in _entries():
            what = f"ONNX Runtime has no session config entry {key!r}."
            raise RequestError(what, where="options", hint=nearest(key, _entries()))
    return {key: _text(value) for key, value in asked.items() if value is not None}


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def quantize_options(environment: Environment) -> dict[str, Any]:
    """The ``quantize.`` options of an environment, without the prefix.

    Raises:
        RequestError: no such option, or a value it does not take.
    """
    asked = {k: v for k, v in environment.options.items() if k.startswith(QUANTIZE)}
    for key, value in asked.items():
        if key not in _CHOICES:
            what = f"no quantisation option {key!r}."
            raise RequestError(what, where="options", hint=nearest(key, _CHOICES))
        if value is not None and value not in _CHOICES[key]:
            choices = ", ".join(str(choice).lower() for choice in _CHOICES[key])
            what = f"{key} is {value!r}."
            raise RequestError(what, where="options", hint=f"one of {choices}.")
    return {k.removeprefix(QUANTIZE): v for k, v in asked.items() if v is not None}
