"""Floating-point operations of a function's matrix products and convolutions."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count(function: Callable, *arguments: Any) -> int:
    """Count operations of a call (multiply and add are two) without running it.

    Element-wise work and reductions are not counted, as is customary for the "model FLOPs" of a
    network; they are a few percent. Both branches of a condition count; the body of a `while` loop
    counts once.

    Args:
      function: traced with `arguments`, arrays or `jax.ShapeDtypeStruct`.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, inputs = equation.primitive.name, [v.aval for v in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(inputs[0].shape[axis] for axis in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * depth
    if name == "conv_general_dilated":
        kernel = inputs[1].shape
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
    times = equation.params.get("length", 1) if name == "scan" else 1
    return times * sum(map(_of_jaxpr, _inner(equation.params)))


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one
