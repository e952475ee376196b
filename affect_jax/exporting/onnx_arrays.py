"""Primitives of JAX that move, join and sum numbers, as nodes of ONNX."""

import functools
import math
from typing import Any

import numpy as np

from affect_jax.exporting.onnx_elementwise import each
from affect_jax.exporting.onnx_graph import Graph, Operand, Rules

RULES = Rules()

_FAR = np.iinfo(np.int64).max
_REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}


def _shape(variable: Any) -> tuple[Any, ...]:
    return variable.aval.shape


@RULES.of("broadcast_in_dim")
def _broadcast(graph, equation, x):
    kept = equation.params["broadcast_dimensions"]
    sizes = dict(zip(kept, x.shape, strict=True))
    return graph.reshape(x, [sizes.get(i, 1) for i in range(len(equation.params["shape"]))])


@RULES.of("reshape")
def _reshape(graph, equation, x):
    return graph.reshape(graph.full(x, _shape(equation.invars[0])), _shape(equation.outvars[0]))


@RULES.of("squeeze")
def _squeeze(graph, equation, x):
    gone = equation.params["dimensions"]
    return graph.reshape(x, [n for i, n in enumerate(x.shape) if i not in gone])


@RULES.of("transpose")
def _transpose(graph, equation, x):
    return graph.transpose(x, equation.params["permutation"])


@RULES.of("concatenate")
def _concatenate(graph, equation, *operands):
    whole = [graph.full(x, _shape(v)) for x, v in zip(operands, equation.invars, strict=True)]
    axis = equation.params["dimension"]
    return graph.add("Concat", whole, _shape(equation.outvars[0]), axis=axis)


@RULES.of("stack")
def _stack(graph, equation, *operands):
    axis, shape = equation.params["axis"], _shape(equation.outvars[0])
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    whole = [
        graph.reshape(graph.full(x, _shape(v)), one)
        for x, v in zip(operands, equation.invars, strict=True)
    ]
    return graph.add("Concat", whole, shape, axis=axis)


@RULES.of("split")
def _split(graph, equation, x):
    sizes = np.array(equation.params["sizes"], np.int64)
    x = graph.full(x, _shape(equation.invars[0]))
    shapes = [_shape(v) for v in equation.outvars]
    return graph.add_many("Split", [x, sizes], shapes, x.dtype, axis=equation.params["axis"])


@RULES.of("slice")
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


@RULES.of("pad")
def _pad(graph, equation, x, value):
    low, high, inner = zip(*equation.params["padding_config"], strict=True)
    if any(inner):
        raise NotImplementedError("padding between elements")
    x = graph.full(x, _shape(equation.invars[0]))
    bounds = np.array([*low, *high], np.int64)
    return graph.add("Pad", [x, bounds, graph.reshape(value, ())], _shape(equation.outvars[0]))


@RULES.of("dim_as_value")
def _dimension(graph, equation):
    size = _counted(graph, equation.params["dim"])
    return graph.cast(graph.reshape(size, ()), equation.outvars[0].aval.dtype)


@RULES.of("iota")
def _iota(graph, equation):
    axis, shape = equation.params["dimension"], _shape(equation.outvars[0])
    zero, one = np.array(0, np.int64), np.array(1, np.int64)
    last = graph.reshape(_counted(graph, shape[axis]), ())
    numbers = graph.add("Range", [zero, last, one], [shape[axis]])
    numbers = graph.reshape(numbers, [n if i == axis else 1 for i, n in enumerate(shape)])
    return graph.cast(numbers, equation.params["dtype"])


def _counted(graph: Graph, dimension: Any) -> Operand:
    """Return a multiple of the batch, int64 [1]."""
    return graph.add("Mul", [graph.size, np.array([graph.times(dimension)])], [1])


def _reduction(operator: str, graph: Graph, equation: Any, x: Operand) -> Operand:
    x = graph.full(x, _shape(equation.invars[0]))
    axes = np.array(equation.params["axes"], np.int64)
    return graph.add(operator, [x, axes], _shape(equation.outvars[0]), keepdims=0)


RULES |= {name: functools.partial(_reduction, op) for name, op in _REDUCTIONS.items()}


@RULES.of("argmax", "argmin")
def _arg(graph, equation, x):
    (axis,) = equation.params["axes"]
    operator = "ArgMax" if equation.primitive.name == "argmax" else "ArgMin"
    x = graph.full(x, _shape(equation.invars[0]))
    shape = _shape(equation.outvars[0])
    found = graph.add(operator, [x], shape, np.int64, axis=axis, keepdims=0)
    return graph.cast(found, equation.params["index_dtype"])


@RULES.of("dot_general")
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


@RULES.of("conv_general_dilated")
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


@RULES.of("gather")
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
    return each(graph, "Min", each(graph, "Max", index, low), high)
