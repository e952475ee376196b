"""Squeeze and excitation of one vector: its channels weighed by what the vector itself says.

Hu, Shen and Sun, "Squeeze-and-excitation networks", CVPR 2018; on the class token of a vision
transformer as in Aouayeb et al., "Learning vision transformer with squeeze and excitation for
facial expression recognition", 2021, eq. 3.
"""

import jax
from flax import nnx

from affect_jax.models.layers import Layers


class Excitation(nnx.Module):
    """x * sigmoid(W2 relu(W1 x)) with features / reduction hidden units, on [B, features].

    There is nothing left to squeeze in a class token or in pooled features.
    """

    def __init__(self, features: int, make: Layers, *, reduction: int = 4):
        self.reduce = make.linear(features, max(features // reduction, 1))
        self.expand = make.linear(max(features // reduction, 1), features)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * nnx.sigmoid(self.expand(nnx.relu(self.reduce(x))))
