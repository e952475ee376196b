"""The mean of the weights of two trainings."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax.errors import UserError
from affect_jax.weights.differences import Differences, shapes_of
from affect_jax.weights.model_dir import arrays_of, assign, read_arrays


def average_with(model: nnx.Module, directory: str | pathlib.Path) -> None:
    """Set each weight and statistic to the mean of its value and that in a model directory.

    Of a network and one that was trained on from it, the mean is often better than both (Wortsman
    et al., "Model soups", ICML 2022). Integer arrays stay as they are.

    Raises:
      UserError: the directory is no model of the same architecture.
    """
    own, other = arrays_of(model), read_arrays(directory)
    if differences := Differences.between(shapes_of(other), shapes_of(own)):
        raise UserError(f"{directory} is not a model of the same architecture:\n{differences}")

    def mean(a: jax.Array, b: np.ndarray) -> jax.Array:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return a
        return ((a + b) / 2).astype(a.dtype)

    assign(model, jax.tree.map(mean, own, other))
