"""Finds sums that a program takes in 16 bits."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import source_info_util

FEW = 4  # numbers of a pooling window, whose sum hardly rounds


def narrow_sums(jaxpr: Any) -> list[str]:
    """Return what is summed in 16 bits, "shape over axes (where)", if it is more than `FEW`."""
    found = []
    for equation in equations(jaxpr):
        if equation.primitive.name not in ("reduce_sum", "cumsum", "psum"):
            continue
        summed = equation.invars[0].aval
        axes = equation.params.get("axes", ())
        if equation.primitive.name == "cumsum":
            axes = (equation.params["axis"],)
        count = math.prod(summed.shape[axis] for axis in axes if isinstance(axis, int))
        narrow = jnp.issubdtype(summed.dtype, jnp.floating) and summed.dtype.itemsize < 4
        if narrow and (count > FEW or equation.primitive.name == "psum"):
            where = source_info_util.summarize(equation.source_info)
            found.append(f"{summed.str_short()} over {axes} ({where})")
    return found


def equations(jaxpr: Any) -> Iterator[jax.extend.core.JaxprEqn]:
    """Walk through all equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
