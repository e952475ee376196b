"""Finds sums that a program takes in 16 bits."""

import math
from collections.abc import Iterator
from typing import Any

import jax.extend
import jax.numpy as jnp
from jax._src import source_info_util

FEW = 4  # numbers of a pooling window, whose sum hardly rounds


# Over devices, or of as many numbers as there happen to be.
_ALWAYS = ("psum", "psum_invariant", "reduce_scatter", "scatter-add", "cumsum")


def narrow_sums(jaxpr: Any) -> list[str]:
    """Return what is summed in 16 bits, "primitive of shape (where)".

    Sums of at most `FEW` numbers are left out, and what a loop carries or is used several times.
    """
    found = []
    for equation in equations(jaxpr):
        name, summed = equation.primitive.name, equation.invars[0].aval if equation.invars else None
        if name == "reduce_sum":
            count = math.prod(summed.shape[axis] for axis in equation.params["axes"])
        elif name == "reduce_window_sum":
            count = math.prod(equation.params["window_dimensions"])
        else:
            count = FEW + 1 if name in _ALWAYS else 0
        if count <= FEW:
            continue
        if jnp.issubdtype(summed.dtype, jnp.floating) and summed.dtype.itemsize < 4:
            where = source_info_util.summarize(equation.source_info)
            found.append(f"{name} of {summed.str_short()} ({where})")
    return found


def equations(jaxpr: Any) -> Iterator[jax.extend.core.JaxprEqn]:
    """Walk through all equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
