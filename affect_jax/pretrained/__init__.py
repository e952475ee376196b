"""Weights from elsewhere: released checkpoints (`convert`) and our own models (`init_from`)."""

from affect_jax.pretrained.conversion import (
    Released,
    architectures,
    convert,
    convert_state,
    is_converted,
    trained_for,
)
from affect_jax.pretrained.files import read_weights
from affect_jax.pretrained.initialise import InitReport, init_from, merge

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
