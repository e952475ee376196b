"""Weights from elsewhere: released checkpoints (`convert`) and our own models (`init_from`)."""

from affect_jax.weights.init_from import InitReport, init_from, merge
from affect_jax.weights.released.convert import (
    Released,
    architectures,
    convert,
    convert_state,
    is_converted,
    trained_for,
)
from affect_jax.weights.released.files import read_weights

__all__ = [
    "InitReport",
    "Released",
    "architectures",
    "convert",
    "convert_state",
    "init_from",
    "is_converted",
    "merge",
    "read_weights",
    "trained_for",
]
