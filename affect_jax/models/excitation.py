"""Squeeze and excitation: channels of a vector, weighted by a function of it.

Hu, Shen and Sun, "Squeeze-and-excitation networks", CVPR 2018; on the class token of a vision
transformer as in Aouayeb et al., "Learning vision transformer with squeeze and excitation for
facial expression recognition", 2021, eq. 3.
"""

import jax
from flax import nnx

from affect_jax.models.layers import Layers


class Excitation(nnx.Module):
    """x * sigmoid(W2 relu(W1 x)) on [B, features].

    There are features / reduction hidden units.

    The squeeze, a mean over places, is done already: a class token and pooled features have none.
    """

    def __init__(self, features: int, make: Layers, *, reduction: int = 4):
        hidden = max(features // reduction, 1)
        self.reduce, self.expand = make.linear(features, hidden), make.linear(hidden, features)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * nnx.sigmoid(self.expand(nnx.relu(self.reduce(x))))
