"""Primitives of JAX that treat every number by itself, as nodes of ONNX.

Operands may be smaller than the arrays that they stand for: ONNX broadcasts them.
"""

import functools
from typing import Any

import numpy as np

from affect_jax.exporting.onnx_graph import Graph, Operand, Rules, Value

RULES = Rules()

# Primitive -> the operator that does the same to each number.
_ELEMENTWISE = {
    **{name: name.capitalize() for name in ("add", "sub", "mul", "div", "max", "min", "neg")},
    **{name: name.capitalize() for name in ("exp", "log", "tanh", "sqrt", "abs", "sign", "erf")},
    **{name: name.capitalize() for name in ("floor", "ceil", "sin", "cos", "pow", "not")},
    "logistic": "Sigmoid",
}
_COMPARISONS = {
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}
_LOGICAL = {"and": "And", "or": "Or", "xor": "Xor"}


def joint(*operands: Operand) -> tuple[Any, ...]:
    """Return the shape that operands have together; ranks are equal or 0."""
    rank = max(len(x.shape) for x in operands)
    columns = zip(*(x.shape for x in operands if len(x.shape) == rank), strict=True)
    return tuple(next((n for n in column if n != 1), 1) for column in columns)


def each(graph: Graph, operator: str, *operands: Operand, dtype: Any = None) -> Operand:
    shape = joint(*operands)
    if any(isinstance(x, Value) and len(x.shape) == len(shape) for x in operands):
        operands = tuple(_short(x) if isinstance(x, np.ndarray) else x for x in operands)
    return graph.add(operator, operands, shape, dtype)


def _short(x: np.ndarray) -> np.ndarray:
    """Return a constant without its first axes of size 1: a bias must be a vector to be quantised.

    ONNX Runtime makes Gemm of a product and a sum, and scales axis 0 of its bias in 8 bits.
    """
    while x.ndim and x.shape[0] == 1:
        x = x[0]
    return x


def _elementwise(operator: str, graph: Graph, equation: Any, *operands: Operand) -> Operand:
    return each(graph, operator, *operands)


def _comparison(operator: str, graph: Graph, equation: Any, *operands: Operand) -> Operand:
    return each(graph, operator, *operands, dtype=bool)


RULES |= {name: functools.partial(_elementwise, op) for name, op in _ELEMENTWISE.items()}
RULES |= {
    name: functools.partial(_comparison, op) for name, op in (_COMPARISONS | _LOGICAL).items()
}


@RULES.of("ne")
def _ne(graph, equation, x, y):
    return each(graph, "Not", each(graph, "Equal", x, y, dtype=bool))


@RULES.of("copy", "copy_p", "stop_gradient", "optimization_barrier")
def _same(graph, equation, *operands):
    return list(operands)


@RULES.of("convert_element_type")
def _convert(graph, equation, x):
    return graph.cast(x, equation.params["new_dtype"])


@RULES.of("square")
def _square(graph, equation, x):
    return each(graph, "Mul", x, x)


@RULES.of("integer_pow")
def _integer_pow(graph, equation, x):
    return each(graph, "Pow", x, np.asarray(equation.params["y"], x.dtype))


@RULES.of("rsqrt")
def _rsqrt(graph, equation, x):
    return each(graph, "Reciprocal", each(graph, "Sqrt", x))


@RULES.of("erfc")
def _erfc(graph, equation, x):
    return each(graph, "Sub", np.ones((), x.dtype), each(graph, "Erf", x))


@RULES.of("log1p")
def _log1p(graph, equation, x):
    return each(graph, "Log", each(graph, "Add", x, np.ones((), x.dtype)))


@RULES.of("expm1")
def _expm1(graph, equation, x):
    return each(graph, "Sub", each(graph, "Exp", x), np.ones((), x.dtype))


@RULES.of("is_finite")
def _is_finite(graph, equation, x):
    strange = [each(graph, name, x, dtype=bool) for name in ("IsInf", "IsNaN")]
    return each(graph, "Not", each(graph, "Or", *strange))


@RULES.of("rem")
def _rem(graph, equation, x, y):
    return graph.add("Mod", [x, y], joint(x, y), fmod=1)


@RULES.of("select_n")
def _select(graph, equation, which, no, yes):
    return each(graph, "Where", which, yes, no, dtype=no.dtype)


@RULES.of("clamp")
def _clamp(graph, equation, low, x, high):
    return each(graph, "Min", each(graph, "Max", x, low), high)
