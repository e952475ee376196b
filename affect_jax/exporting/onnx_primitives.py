"""The program of a model, a jaxpr, as nodes of ONNX."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from affect_jax.exporting import onnx_arrays, onnx_elementwise
from affect_jax.exporting.onnx_graph import Graph, Operand

_RULES = onnx_elementwise.RULES | onnx_arrays.RULES
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters that hold the function of an equation
# Computed with NumPy where all is constant: JAX would compile each for every shape.
_NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}
# Rules that take constants too.
_FIXED_TOO = (
    *("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "transpose"),
    *("copy", "copy_p", "stop_gradient", "dim_as_value"),
)


def emit(graph: Graph, closed: Any, arguments: Sequence[Operand]) -> list[Operand]:
    """Add the equations of a closed jaxpr; return the operands of its results.

    What does not depend on the input is computed at once.

    Raises:
      NotImplementedError: there is no rule for a primitive, or not for its parameters.
    """
    jaxpr, constants = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    known: dict[Any, Operand] = dict(zip(jaxpr.invars, arguments, strict=True))
    known |= zip(jaxpr.constvars, map(np.asarray, constants), strict=True)

    def read(variable: Any) -> Operand:
        literal = getattr(variable, "val", None)
        return known[variable] if literal is None else np.asarray(literal, variable.aval.dtype)

    for equation in jaxpr.eqns:
        operands = [read(variable) for variable in equation.invars]
        inner = [equation.params[key] for key in _INNER if key in equation.params]
        name = equation.primitive.name
        if inner:
            results: Any = emit(graph, inner[0], operands)
        elif name not in _FIXED_TOO and _is_fixed(equation, operands):
            results = _computed(graph, equation, operands)
        elif name in _RULES:
            results = _RULES[name](graph, equation, *operands)
        else:
            raise NotImplementedError(f"the primitive {name}")
        results = results if isinstance(results, list) else [results]
        known |= zip(equation.outvars, results, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _is_fixed(equation: Any, operands: Sequence[Operand]) -> bool:
    sizes = [n for v in equation.outvars for n in v.aval.shape]
    return all(isinstance(x, np.ndarray) for x in operands) and all(
        isinstance(n, int) for n in sizes
    )


def _computed(graph: Graph, equation: Any, operands: Sequence[Operand]) -> list[Operand]:
    if quick := _NUMPY.get(equation.primitive.name):
        return [quick(*operands)]
    with jax.default_device(jax.devices("cpu")[0]):
        arrays = [
            jax.numpy.asarray(graph.full(x, v.aval.shape))
            for x, v in zip(operands, equation.invars, strict=True)
        ]
        found = equation.primitive.bind(*arrays, **equation.params)
    found = found if equation.primitive.multiple_results else [found]
    return [np.asarray(x) for x in found]
