"""Options of an environment: those of building int8, and the plugin's own properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwbench.backend import Environment
from hwbench.errors import RequestError

QUANTIZE = "quantize."
REDUCE_RANGE = "quantize.reduce_range"


def plugin_options(environment: Environment) -> Mapping[str, Any]:
    """What the plugin is asked for."""
    given = environment.options
    return {name: value for name, value in given.items() if not name.startswith(QUANTIZE)}


def reduce_range(environment: Environment) -> bool:
    """Whether all weights are to be quantised to 7 bits, whose products do not overflow 16 bits.

    Raises:
        RequestError: another option of quantisation, or no truth value.
    """
    for name, value in environment.options.items():
        if name.startswith(QUANTIZE) and name != REDUCE_RANGE:
            hint = f"there is {REDUCE_RANGE}."
            raise RequestError(f"no quantisation option {name!r}.", where="options", hint=hint)
        if name == REDUCE_RANGE and value not in (True, False, None):
            hint = "true or false."
            raise RequestError(f"{name} is {value!r}.", where="options", hint=hint)
    return bool(environment.options.get(REDUCE_RANGE))
