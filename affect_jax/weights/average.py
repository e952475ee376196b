"""The mean of the weights of several trainings."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from affect_jax.errors import UserError
from affect_jax.models.relations import BANK_LABELS
from affect_jax.weights.differences import Differences, shapes_of
from affect_jax.weights.model_dir import arrays_of, assign, read_arrays


def average_with(model: nnx.Module, directories: Sequence[str | pathlib.Path]) -> None:
    """Set each weight and statistic to the mean of its value and those in model directories.

    Of a network and others that were trained on from it, the mean is often better than each
    (Wortsman et al., "Model soups", ICML 2022). Integer arrays stay as they are.

    Raises:
      UserError: a directory is no model of the same architecture, or the model has a bank: it
        holds features of the run's network, and those of the mean are not known.
    """
    own = arrays_of(model)
    if BANK_LABELS in own["stats"] and (own["stats"][BANK_LABELS] >= 0).any():
        raise UserError(
            "the model compares images with a bank of training images, which holds features of "
            "its own weights, not of their mean; export it without --average_with"
        )
    others = [read_arrays(directory) for directory in directories]
    for directory, other in zip(directories, others, strict=True):
        if differences := Differences.between(shapes_of(other), shapes_of(own)):
            raise UserError(f"{directory} is not a model of the same architecture:\n{differences}")

    def mean(first: jax.Array, *rest: Any) -> jax.Array:
        if not jnp.issubdtype(first.dtype, jnp.inexact):
            return first
        return (sum(rest, first) / (1 + len(rest))).astype(first.dtype)

    assign(model, jax.tree.map(mean, own, *others))
