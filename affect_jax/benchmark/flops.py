"""Floating-point operations of a function's matrix products and convolutions."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax


def count(function: Callable, *arguments: Any) -> int:
    """Count operations of a call (multiply and add are two) without running it.

    Element-wise work and reductions are not counted, as is customary for the "model FLOPs" of a
    network; they are a few percent. Both branches of a condition count; the body of a `while` loop
    counts once.

    Args:
      function: traced with `arguments`, arrays or `jax.ShapeDtypeStruct`.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr, ()).all


def count_dependent(function: Callable, first: Any, *arguments: Any) -> "Operations":
    """Count operations of a call, and those of them that depend on its first argument.

    Where parts of a calculation cannot be told apart (loops without a fixed length, branches), all
    of it depends on what some of it depends on.

    Args:
      function: as `first` and `arguments`, see `count`.
      first: arrays or `jax.ShapeDtypeStruct`.
    """
    leaves = len(jax.tree.leaves(first))
    return _of_jaxpr(jax.make_jaxpr(function)(first, *arguments).jaxpr, [True] * leaves)


class Operations(NamedTuple):
    """Operations of a calculation.

    Attributes:
      all: their number.
      dependent: those that depend on some of its arguments.
      results: whether each result does.
    """

    all: int
    dependent: int
    results: list[bool]


def _of_jaxpr(jaxpr: Any, depends: Sequence[bool]) -> Operations:
    """Count; `depends` says so of the first arguments, and the others are constant."""
    known = dict(zip(jaxpr.invars, depends, strict=False))

    def dependent(variables: Sequence[Any]) -> list[bool]:
        return [not hasattr(v, "val") and known.get(v, False) for v in variables]

    total, of_them = 0, 0
    for equation in jaxpr.eqns:
        found = _of_equation(equation, dependent(equation.invars))
        total, of_them = total + found.all, of_them + found.dependent
        known.update(zip(equation.outvars, found.results, strict=True))
    return Operations(total, of_them, dependent(jaxpr.outvars))


def _of_equation(equation: Any, depends: list[bool]) -> Operations:
    own, some, count = _own(equation), any(depends), len(equation.outvars)
    if own:
        return Operations(own, own * some, [some] * count)
    inner = list(_inner(equation.params))
    if equation.primitive.name == "scan":
        return _of_scan(equation.params, inner[0], depends)
    if len(inner) == 1 and len(inner[0].invars) == len(depends):
        return _of_jaxpr(inner[0], depends)
    parts = [_of_jaxpr(part, [some] * len(part.invars)) for part in inner]
    return Operations(sum(p.all for p in parts), sum(p.dependent for p in parts), [some] * count)


def _of_scan(parameters: dict[str, Any], body: Any, depends: list[bool]) -> Operations:
    carried, before = parameters["num_carry"], parameters["num_consts"]
    while True:
        once = _of_jaxpr(body, depends)
        carry = depends[before : before + carried]
        after = [a or b for a, b in zip(carry, once.results, strict=False)]
        if after == carry:
            times = parameters["length"]
            return Operations(times * once.all, times * once.dependent, once.results)
        depends = [*depends[:before], *after, *depends[before + carried :]]


def _own(equation: Any) -> int:
    """Return the operations of one matrix product or convolution; 0 for all else."""
    name, inputs = equation.primitive.name, [v.aval for v in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(inputs[0].shape[axis] for axis in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * depth
    if name == "conv_general_dilated":
        kernel = inputs[1].shape
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
    return 0


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one
