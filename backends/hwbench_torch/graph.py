"""The graph that an eager session executes, as steps that can be run from any point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import Node

from hwbench.backend import Artifact, Feeds
from hwbench.errors import Unsupported
from hwbench_torch.build import as_input
from hwbench_torch.probe import DTYPES, QUANTISED
from hwbench_torch.session import load_program, load_weights
from hwbench_torch.sites import layers, short_name

Values = dict[str, Any]  # what steps give, by name: tensors, and now and then a tuple or a number
Write = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Ref:
    """The place of another step's result in a step's arguments."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operator call.

    Attributes:
        name: of its result.
        op: operator's name in torch's words, such as ``conv2d``.
        target: what is called.
        args: positional arguments with ``Ref`` in place of results.
        kwargs: arguments by name, the same.
        reads: results that it needs.
        layer: name of the layer.
    """

    name: str
    op: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: frozenset[str]
    layer: str

    def run(self, values: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        """Call it on results by name; what ``values`` lacks is taken from ``constants``."""
        args = [_filled(each, values, constants) for each in self.args]
        if not self.kwargs:
            return self.target(*args)
        kwargs = {name: _filled(each, values, constants) for name, each in self.kwargs.items()}
        return self.target(*args, **kwargs)

    @cached_property
    def places(self) -> dict[str, int]:
        """Position of each positional argument by the operator's own name for it."""
        schema = getattr(self.target, "_schema", None)
        names = [] if schema is None else [each.name for each in schema.arguments]
        return {name: index for index, name in enumerate(names) if index < len(self.args)}

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by the operator's own name for it."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[self.places[name]] if name in self.places else default

    def called(self, changed: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        """Call it with some arguments, by the operator's own names, replaced by tensors."""
        args = list(self.args)
        kwargs = dict(self.kwargs)
        for name, each in changed.items():
            if name in kwargs:
                kwargs[name] = each
            else:
                args[self.places[name]] = each
        return self.target(
            *(_filled(each, {}, values) for each in args),
            **{name: _filled(each, {}, values) for name, each in kwargs.items()},
        )


def _filled(value: Any, values: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
    """An argument with results in place of references."""
    if type(value) is Ref:
        return values[value.name] if value.name in values else constants[value.name]
    if type(value) in (list, tuple):
        return [_filled(each, values, constants) for each in value]
    return value


class Graph:
    """An artifact's program with its tensors, for eager precisions.

    Attributes:
        artifact: what is deployed.
        steps: that depend on the inputs, in the order of execution.
        inputs: names of the user's inputs in the graph, in order.
        outputs: names of the results that are returned, in order.
        constants: what depends on stored tensors only, by name.
        holders: names in ``constants`` of each site's tensor.
    """

    def __init__(self, artifact: Artifact) -> None:
        program, weights = load_program(artifact), load_weights(artifact)
        names = artifact.meta["names"]
        self.artifact = artifact
        self._dtype = DTYPES[artifact.environment.precision]
        self.inputs = tuple(program.graph_signature.user_inputs)
        self.outputs = _outputs(program)
        self.constants: Values = {}
        self.holders: dict[str, list[str]] = {}
        for spec in program.graph_signature.input_specs:
            if spec.target is not None:
                self.constants[spec.arg.name] = weights[names[spec.target]]
                self.holders.setdefault(names[spec.target], []).append(spec.arg.name)
        steps, renamed = _functional(_steps(program, names))
        self.outputs = tuple(renamed.get(name, name) for name in self.outputs)
        self._fixed, self.steps = _divided(steps, self.inputs)
        for step in self._fixed:
            self.constants[step.name] = step.run(self.constants, {})

    @property
    def rounds(self) -> bool:
        """Whether results are rounded to fewer bits than they are computed with."""
        return self._dtype.itemsize < 4 or self.artifact.environment.precision in QUANTISED

    @cached_property
    def position(self) -> dict[str, int]:
        """Position of the step that gives each result; -1 for inputs."""
        made = {step.name: index for index, step in enumerate(self.steps)}
        return {**dict.fromkeys(self.inputs, -1), **made}

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """Positions of the steps that read each result or constant."""
        result: dict[str, list[int]] = {}
        for position, step in enumerate(self.steps):
            for name in step.reads:
                result.setdefault(name, []).append(position)
        return result

    @cached_property
    def sizes(self) -> bool:
        """Whether a step hands on the batch's size as a number: then it is fixed."""
        return any(step.op in ("size", "sym_size", "sym_numel", "numel") for step in self.steps)

    def live(self, cut: int) -> tuple[str, ...]:
        """Results given before step ``cut`` that it or a later step, or the caller, reads."""
        wanted = set(self.outputs).union(*(step.reads for step in self.steps[cut:]))
        return tuple(name for name, at in self.position.items() if at < cut and name in wanted)

    def feed(self, feeds: Feeds) -> Values:
        """The user's arrays as the graph's inputs."""
        device, specs = self.artifact.environment.device, self.artifact.inputs
        pairs = zip(self.inputs, specs, strict=True)
        return {
            name: as_input(feeds[spec.name], self._dtype).to(device)
            for name, spec in pairs
            if spec.name in feeds
        }

    def advance(
        self, start: int, stop: int, values: Values, constants: Values, write: Write | None = None
    ) -> None:
        """Run steps ``start`` up to ``stop``, adding to ``values`` and dropping what is done with.

        Args:
            start: first step.
            stop: one past the last step.
            values: results by name, those that are live at ``start`` at least.
            constants: what is read of stored tensors.
            write: gives what is to stand in place of each tensor that a step gives.
        """
        for position in range(start, stop):
            step = self.steps[position]
            made = step.run(values, constants)
            if write is not None and isinstance(made, torch.Tensor):
                made = write(step.name, made)
            values[step.name] = made
            for name in self._done.get(position, ()):
                values.pop(name, None)

    @cached_property
    def _done(self) -> dict[int, list[str]]:
        """What is read for the last time, by the position of that step."""
        result: dict[int, list[str]] = {}
        for name, readers in self.readers.items():
            if name in self.position and name not in self.outputs:
                result.setdefault(readers[-1], []).append(name)
        return result

    def refixed(self, replaced: Mapping[str, torch.Tensor]) -> Values:
        """Constants that change when stored ones are replaced, the replaced ones included."""
        changed: Values = dict(replaced)
        for step in self._fixed:
            if not step.reads.isdisjoint(changed):
                changed[step.name] = step.run(changed, self.constants)
        return changed

    def reached(self, held: Sequence[str]) -> list[str]:
        """The constants that steps read and that depend on stored ones."""
        changed = set(held)
        for step in self._fixed:
            if not step.reads.isdisjoint(changed):
                changed.add(step.name)
        return [name for name in self.constants if name in changed and name in self.readers]


def _outputs(program: ExportedProgram) -> tuple[str, ...]:
    """Names of the tensors that the program returns."""
    return tuple(
        spec.arg.name
        for spec in program.graph_signature.output_specs
        if isinstance(spec.arg, TensorArgument)
    )


def _steps(program: ExportedProgram, names: Mapping[str, str]) -> Iterator[Step]:
    labels = layers(program, names)
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "output", "call_function"):
            raise Unsupported(f"the program has {node.op} {node.name}: no operator to run again")
        if node.op == "call_function":
            yield Step(
                node.name,
                short_name(node),
                node.target,
                tuple(_referred(each) for each in node.args),
                {name: _referred(each) for name, each in node.kwargs.items()},
                frozenset(each.name for each in node.all_input_nodes),
                labels.get(node.name, node.name),
            )


def _referred(value: Any) -> Any:
    if isinstance(value, Node):
        return Ref(value.name)
    return [_referred(each) for each in value] if isinstance(value, list | tuple) else value


def _divided(steps: Sequence[Step], inputs: Sequence[str]) -> tuple[list[Step], tuple[Step, ...]]:
    """Steps that read stored tensors only, and those that depend on the inputs."""
    varying, fixed, rest = set(inputs), list[Step](), list[Step]()
    for step in steps:
        if step.reads.isdisjoint(varying):
            fixed.append(step)
        else:
            varying.add(step.name)
            rest.append(step)
    return fixed, tuple(rest)


def _functional(steps: Iterator[Step]) -> tuple[list[Step], dict[str, str]]:
    """The steps without changes in place: results can then be kept and read again.

    Returns:
        The steps, and which result stands for a tensor that was changed.

    Raises:
        Unsupported: a step changes a tensor that others may see through a view.
    """
    result, renamed, views = list[Step](), dict[str, str](), set[str]()
    for given in steps:
        step = _renamed(given, renamed)
        schema = getattr(step.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            step, changed = _pure(step), _first(step)
            if changed in views:
                raise Unsupported(f"{step.name} changes a tensor in place that has views")
            renamed.update({old: step.name for old, new in renamed.items() if new == changed})
            renamed[changed] = step.name
        elif schema is not None and any(each.alias_info for each in schema.returns):
            views.update(step.reads, (step.name,))
        result.append(step)
    return result, renamed


def _renamed(step: Step, names: Mapping[str, str]) -> Step:
    if step.reads.isdisjoint(names):
        return step
    return Step(
        step.name,
        step.op,
        step.target,
        tuple(_pointed(each, names) for each in step.args),
        {key: _pointed(each, names) for key, each in step.kwargs.items()},
        frozenset(names.get(each, each) for each in step.reads),
        step.layer,
    )


def _pointed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Ref):
        return Ref(names.get(value.name, value.name))
    return [_pointed(each, names) for each in value] if isinstance(value, list) else value


def _first(step: Step) -> str:
    if not step.args or not isinstance(step.args[0], Ref):
        raise Unsupported(f"{step.name} changes something else in place than its first argument")
    return step.args[0].name


def _pure(step: Step) -> Step:
    """The operator of the same name that leaves its arguments alone."""
    name, overload = step.op.removesuffix("_"), getattr(step.target, "_overloadname", "default")
    target = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if name == step.op or target is None or target._schema.is_mutable:
        raise Unsupported(f"{step.name} changes a tensor in place, and has no form that does not")
    return Step(step.name, name, target, step.args, step.kwargs, step.reads, step.layer)
