"""What was really executed, read from torch's own record of the operators it called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.autograd.profiler import profile, record_function
from torch.autograd.profiler_util import FunctionEvent

from hwbench.backend import Artifact, OpPrecision
from hwbench_torch.sites import MULTIPLIES, short_name

STORED = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
EXECUTED = {
    "float": "fp32",
    "double": "float64",
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "signed char": "int8",
    "unsigned char": "int8",
}  # by the profiler's names
QUANTISED_KERNELS = ("qconv", "qlinear")
MARK = "hwbench:"


class _Marked(torch.fx.Interpreter):
    """Runs a graph with a mark in the profile around every node."""

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run one node."""
        with record_function(MARK + n.name):
            return super().run_node(n)


def eager_operators(
    graph: torch.fx.GraphModule, arguments: Sequence[torch.Tensor], artifact: Artifact
) -> list[OpPrecision]:
    """The operators of an eager run on the graph's ``arguments`` that multiply by weights."""
    nodes = {node.name: node for node in graph.graph.nodes}
    events = _profiled(lambda: _Marked(graph).run(*arguments))
    called = {event.name.removeprefix(MARK): event.cpu_children for event in events}
    return [
        OpPrecision(
            row["layer"],
            short_name(nodes[row["node"]]),
            _stored(row),
            _executed(called[row["node"]][0], artifact),
            _innermost(called[row["node"]][0]),
        )
        for row in artifact.meta["operators"]
        if called.get(row["node"])
    ]


def compiled_operators(run: Callable[[], object], artifact: Artifact) -> list[OpPrecision]:
    """The operators that a compiled ``run`` called: kernels compiled in have no name to show."""
    found = [event for event in _profiled(run) if _is_outermost(event)]
    rows = artifact.meta["operators"]
    quantised = [row for row in rows if row["stored"] == "int8"]
    floating = [row for row in rows if row["stored"] != "int8"]
    return [
        *_matched([event for event in found if _is_quantised(event)], quantised, artifact),
        *_matched([event for event in found if not _is_quantised(event)], floating, artifact),
    ]


def _matched(
    events: list[FunctionEvent], rows: list[dict[str, str]], artifact: Artifact
) -> Iterator[OpPrecision]:
    """Events with the operators they carry out, in order; alone where their numbers differ."""
    alone = len(events) != len(rows)
    for index, event in enumerate(events):
        name, stored = ("", "") if alone else (rows[index]["layer"], _stored(rows[index]))
        executed = _executed(event, artifact)
        yield OpPrecision(name or event.name, _bare(event.name), stored, executed, event.name)


def _stored(row: dict[str, str]) -> str:
    return STORED.get(row["stored"], row["stored"])


def _profiled(run: Callable[[], object]) -> list[FunctionEvent]:
    """Every operator called by ``run``, with the dtypes it was given, in order."""
    # Kineto announces start and stop of every profile on stderr at a lower level.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(record_shapes=True) as record:
        run()
    events: list[FunctionEvent] = list(record.function_events or ())
    return events


def _executed(event: FunctionEvent, artifact: Artifact) -> str:
    """The precision of an operator's first input; TF32 is a way to multiply float32."""
    dtype = str(event.input_dtypes[0])
    name = EXECUTED.get(dtype, dtype)
    on_cuda = artifact.environment.device != "cpu"
    return "tf32" if name == "fp32" and on_cuda and torch.backends.cudnn.allow_tf32 else name


def _innermost(event: FunctionEvent) -> str:
    """The last multiplying operator in a chain of calls: the kernel that the call ended in."""
    for child in event.cpu_children:
        if _multiplies(child):
            return _innermost(child)
    return str(event.name)


def _is_outermost(event: FunctionEvent) -> bool:
    parent = event.cpu_parent
    return _multiplies(event) and (parent is None or not _multiplies(parent))


def _multiplies(event: FunctionEvent) -> bool:
    name = _bare(event.name).removeprefix("_").removeprefix("mkldnn_")
    return "::" in event.name and name.startswith((*MULTIPLIES, *QUANTISED_KERNELS))


def _is_quantised(event: FunctionEvent) -> bool:
    return _bare(event.name).startswith(QUANTISED_KERNELS)


def _bare(name: str) -> str:
    return name.rpartition("::")[2]
