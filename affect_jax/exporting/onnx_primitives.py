"""The primitives of JAX as nodes of ONNX.

A rule takes the graph, the equation and its operands, and returns the operand or the operands that
the equation defines. Arrays that a broadcast made larger stay small until a rule needs them whole.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from affect_jax.exporting.onnx_graph import Graph, Operand

Rule = Callable[..., Operand | Sequence[Operand]]

_RULES: dict[str, Rule] = {}
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters that hold the function of an equation
_FAR = np.iinfo(np.int64).max

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
_REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}


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
        elif name != "broadcast_in_dim" and _is_fixed(equation, operands):
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
    with jax.default_device(jax.devices("cpu")[0]):
        arrays = [
            jax.numpy.asarray(graph.full(x, v.aval.shape))
            for x, v in zip(operands, equation.invars, strict=True)
        ]
        found = equation.primitive.bind(*arrays, **equation.params)
    found = found if equation.primitive.multiple_results else [found]
    return [np.asarray(x) for x in found]


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def keep(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return keep


def _shape(variable: Any) -> tuple[Any, ...]:
    return variable.aval.shape


def _joint(*operands: Operand) -> tuple[Any, ...]:
    """Return the shape that operands have together; ranks are equal or 0."""
    rank = max(len(x.shape) for x in operands)
    columns = zip(*(x.shape for x in operands if len(x.shape) == rank), strict=True)
    return tuple(next((n for n in column if n != 1), 1) for column in columns)


def _each(graph: Graph, operator: str, *operands: Operand, dtype: Any = None) -> Operand:
    return graph.add(operator, operands, _joint(*operands), dtype)


def _elementwise(operator: str, graph: Graph, equation: Any, *operands: Operand) -> Operand:
    return _each(graph, operator, *operands)


def _comparison(operator: str, graph: Graph, equation: Any, *operands: Operand) -> Operand:
    return _each(graph, operator, *operands, dtype=bool)


_RULES |= {name: functools.partial(_elementwise, op) for name, op in _ELEMENTWISE.items()}
_RULES |= {
    name: functools.partial(_comparison, op) for name, op in (_COMPARISONS | _LOGICAL).items()
}


@_rule("ne")
def _ne(graph, equation, x, y):
    return _each(graph, "Not", _each(graph, "Equal", x, y, dtype=bool))


@_rule("copy", "copy_p", "stop_gradient", "optimization_barrier")
def _same(graph, equation, *operands):
    return list(operands)


@_rule("convert_element_type")
def _convert(graph, equation, x):
    return graph.cast(x, equation.params["new_dtype"])


@_rule("square")
def _square(graph, equation, x):
    return _each(graph, "Mul", x, x)


@_rule("integer_pow")
def _integer_pow(graph, equation, x):
    return _each(graph, "Pow", x, np.asarray(equation.params["y"], x.dtype))


@_rule("rsqrt")
def _rsqrt(graph, equation, x):
    return _each(graph, "Reciprocal", _each(graph, "Sqrt", x))


@_rule("erfc")
def _erfc(graph, equation, x):
    return _each(graph, "Sub", np.ones((), x.dtype), _each(graph, "Erf", x))


@_rule("log1p")
def _log1p(graph, equation, x):
    return _each(graph, "Log", _each(graph, "Add", x, np.ones((), x.dtype)))


@_rule("expm1")
def _expm1(graph, equation, x):
    return _each(graph, "Sub", _each(graph, "Exp", x), np.ones((), x.dtype))


@_rule("is_finite")
def _is_finite(graph, equation, x):
    strange = [_each(graph, name, x, dtype=bool) for name in ("IsInf", "IsNaN")]
    return _each(graph, "Not", _each(graph, "Or", *strange))


@_rule("rem")
def _rem(graph, equation, x, y):
    return graph.add("Mod", [x, y], _joint(x, y), fmod=1)


@_rule("select_n")
def _select(graph, equation, which, no, yes):
    return _each(graph, "Where", which, yes, no, dtype=no.dtype)


@_rule("clamp")
def _clamp(graph, equation, low, x, high):
    return _each(graph, "Min", _each(graph, "Max", x, low), high)


@_rule("broadcast_in_dim")
def _broadcast(graph, equation, x):
    kept = equation.params["broadcast_dimensions"]
    sizes = dict(zip(kept, x.shape, strict=True))
    return graph.reshape(x, [sizes.get(i, 1) for i in range(len(equation.params["shape"]))])


@_rule("reshape")
def _reshape(graph, equation, x):
    return graph.reshape(graph.full(x, _shape(equation.invars[0])), _shape(equation.outvars[0]))


@_rule("squeeze")
def _squeeze(graph, equation, x):
    gone = equation.params["dimensions"]
    return graph.reshape(x, [n for i, n in enumerate(x.shape) if i not in gone])


@_rule("transpose")
def _transpose(graph, equation, x):
    return graph.transpose(x, equation.params["permutation"])


@_rule("concatenate")
def _concatenate(graph, equation, *operands):
    whole = [graph.full(x, _shape(v)) for x, v in zip(operands, equation.invars, strict=True)]
    axis = equation.params["dimension"]
    return graph.add("Concat", whole, _shape(equation.outvars[0]), axis=axis)


@_rule("stack")
def _stack(graph, equation, *operands):
    axis, shape = equation.params["axis"], _shape(equation.outvars[0])
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    whole = [
        graph.reshape(graph.full(x, _shape(v)), one)
        for x, v in zip(operands, equation.invars, strict=True)
    ]
    return graph.add("Concat", whole, shape, axis=axis)


@_rule("split")
def _split(graph, equation, x):
    sizes = np.array(equation.params["sizes"], np.int64)
    x = graph.full(x, _shape(equation.invars[0]))
    shapes = [_shape(v) for v in equation.outvars]
    return graph.add_many("Split", [x, sizes], shapes, x.dtype, axis=equation.params["axis"])


@_rule("slice")
def _slice(graph, equation, x):
    given, limits = _shape(equation.invars[0]), equation.params["limit_indices"]
    starts = equation.params["start_indices"]
    steps = equation.params["strides"] or (1,) * len(given)
    cut = [i for i, n in enumerate(given) if starts[i] != 0 or limits[i] != n or steps[i] != 1]
    ends = [_FAR if limits[i] == given[i] else limits[i] for i in cut]
    rows = ([starts[i] for i in cut], ends, cut, [steps[i] for i in cut])
    return _cut(graph, graph.full(x, given), *rows, shape=_shape(equation.outvars[0]))


def _cut(graph, x, starts, ends, axes, steps, *, shape):
    if not all(isinstance(n, int) for n in (*starts, *ends)):
        raise NotImplementedError("a slice whose bounds depend on the batch")
    if not axes:
        return x
    bounds = [np.array(row, np.int64) for row in (starts, ends, axes, steps)]
    return graph.add("Slice", [x, *bounds], shape)


@_rule("rev")
def _rev(graph, equation, x):
    axes = equation.params["dimensions"]
    count, shape = len(axes), _shape(equation.invars[0])
    rows = ([-1] * count, [-_FAR] * count, axes, [-1] * count)
    return _cut(graph, graph.full(x, shape), *rows, shape=shape)


@_rule("pad")
def _pad(graph, equation, x, value):
    low, high, inner = zip(*equation.params["padding_config"], strict=True)
    if any(inner):
        raise NotImplementedError("padding between elements")
    x = graph.full(x, _shape(equation.invars[0]))
    bounds = np.array([*low, *high], np.int64)
    return graph.add("Pad", [x, bounds, graph.reshape(value, ())], _shape(equation.outvars[0]))


@_rule("iota")
def _iota(graph, equation):
    axis, shape = equation.params["dimension"], _shape(equation.outvars[0])
    last = graph.reshape(
        graph.add("Mul", [graph.size, np.array([graph.times(shape[axis])])], [1]), ()
    )
    counted = graph.add(
        "Range", [np.zeros((), np.int64), last, np.ones((), np.int64)], [shape[axis]]
    )
    counted = graph.reshape(counted, [n if i == axis else 1 for i, n in enumerate(shape)])
    return graph.cast(counted, equation.params["dtype"])


def _reduction(operator: str, graph: Graph, equation: Any, x: Operand) -> Operand:
    x = graph.full(x, _shape(equation.invars[0]))
    axes = np.array(equation.params["axes"], np.int64)
    return graph.add(operator, [x, axes], _shape(equation.outvars[0]), keepdims=0)


_RULES |= {name: functools.partial(_reduction, op) for name, op in _REDUCTIONS.items()}


@_rule("reduce_and", "reduce_or")
def _reduce_logical(graph, equation, x):
    operator = "ReduceMin" if equation.primitive.name == "reduce_and" else "ReduceMax"
    numbers = graph.cast(graph.full(x, _shape(equation.invars[0])), np.int32)
    axes = np.array(equation.params["axes"], np.int64)
    found = graph.add(operator, [numbers, axes], _shape(equation.outvars[0]), keepdims=0)
    return graph.cast(found, bool)


@_rule("argmax", "argmin")
def _arg(graph, equation, x):
    (axis,) = equation.params["axes"]
    operator = "ArgMax" if equation.primitive.name == "argmax" else "ArgMin"
    x = graph.full(x, _shape(equation.invars[0]))
    shape = _shape(equation.outvars[0])
    found = graph.add(operator, [x], shape, np.int64, axis=axis, keepdims=0)
    return graph.cast(found, equation.params["index_dtype"])


@_rule("dot_general")
def _dot(graph, equation, x, y):
    (x_sum, y_sum), (x_batch, y_batch) = equation.params["dimension_numbers"]
    x, y = (graph.full(a, _shape(v)) for a, v in zip((x, y), equation.invars, strict=True))
    x_free = [i for i in range(len(x.shape)) if i not in (*x_sum, *x_batch)]
    y_free = [i for i in range(len(y.shape)) if i not in (*y_sum, *y_batch)]
    shape, dtype = _shape(equation.outvars[0]), equation.outvars[0].aval.dtype
    batch = [x.shape[i] for i in x_batch]
    rows, columns = [x.shape[i] for i in x_free], [y.shape[i] for i in y_free]
    inner = math.prod(x.shape[i] for i in x_sum)
    x = graph.transpose(graph.cast(x, dtype), [*x_batch, *x_free, *x_sum])
    y = graph.transpose(graph.cast(y, dtype), [*y_batch, *y_sum, *y_free])
    if batch:  # the matrices of two stacks
        x = graph.reshape(x, [*batch, math.prod(rows), inner])
    elif len(x_sum) != 1 or not rows:
        x = graph.reshape(x, [*(rows or [1]), inner])
    y = graph.reshape(y, [*batch, inner, math.prod(columns)])
    found = graph.add("MatMul", [x, y], [*x.shape[:-1], y.shape[-1]], dtype)
    return graph.reshape(found, shape)


@_rule("conv_general_dilated")
def _conv(graph, equation, x, kernel):
    given = equation.params
    numbers = given["dimension_numbers"]
    if set(given["lhs_dilation"]) != {1} or given["batch_group_count"] != 1:
        raise NotImplementedError("a convolution of a dilated image or of grouped batches")
    x, kernel = (
        graph.full(a, _shape(v)) for a, v in zip((x, kernel), equation.invars, strict=True)
    )
    dtype, shape = equation.outvars[0].aval.dtype, _shape(equation.outvars[0])
    x = graph.transpose(graph.cast(x, dtype), numbers.lhs_spec)
    kernel = graph.transpose(graph.cast(kernel, dtype), numbers.rhs_spec)
    found = graph.add(
        "Conv",
        [x, kernel],
        [shape[i] for i in numbers.out_spec],
        dtype,
        strides=given["window_strides"],
        pads=[int(side[end]) for end in (0, 1) for side in given["padding"]],
        dilations=given["rhs_dilation"],
        group=given["feature_group_count"],
    )
    return graph.transpose(found, np.argsort(numbers.out_spec).tolist())


@_rule("gather")
def _gather(graph, equation, x, index):
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    given, shape = _shape(equation.invars[0]), _shape(equation.outvars[0])
    x = graph.full(x, given)
    index = graph.full(index, _shape(equation.invars[1]))
    axes, gone = numbers.start_index_map, numbers.collapsed_slice_dims
    batched = numbers.operand_batching_dims
    if not batched and isinstance(index, np.ndarray) and index.ndim == 1:  # one slice
        starts = [int(np.clip(k, 0, given[a] - sizes[a])) for a, k in zip(axes, index, strict=True)]
        ends = [s + sizes[a] for a, s in zip(axes, starts, strict=True)]
        middle = [n if i in axes else given[i] for i, n in enumerate(sizes)]
        found = _cut(graph, x, starts, ends, axes, [1] * len(axes), shape=middle)
        return graph.reshape(found, shape)
    if len(axes) != 1 or tuple(gone) != tuple(axes):
        raise NotImplementedError("a gather along several axes")
    (axis,) = axes
    # JAX has checked the bounds, or does not care; ONNX Runtime would stop.
    index = _within(graph, graph.reshape(index, index.shape[:-1]), given[axis])
    if not batched:
        if tuple(numbers.offset_dims) != tuple(
            i for i in range(len(shape)) if not axis <= i < axis + len(index.shape)
        ):
            raise NotImplementedError("a gather whose axes change places")
        return graph.add("Gather", [x, index], shape, axis=axis)
    if numbers.offset_dims or sorted([*batched, axis]) != list(range(len(given))):
        raise NotImplementedError("a gather of slices from a batch")
    # The axis is the last of the index, the others are those of the batch.
    order = [*batched, axis]
    found = graph.add(
        "GatherElements", [graph.transpose(x, order), index], index.shape, axis=len(order) - 1
    )
    return graph.reshape(found, shape)


def _within(graph, index, size):
    if isinstance(index, np.ndarray):
        return np.clip(index, 0, size - 1)
    low, high = (np.asarray(n, index.dtype) for n in (0, size - 1))
    return _each(graph, "Min", _each(graph, "Max", index, low), high)
