"""Parts of vision transformers: the block and the squeeze-and-excitation gate.

Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; Hu, Shen and Sun,
"Squeeze-and-excitation networks", CVPR 2018. GELU is the exact one, LayerNorm's eps that of timm.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from affect_jax.models.layers import Layers, normal

EPS = 1e-6
embedding_normal = normal(0.02)


class SelfAttention(nnx.Module):
    """Multi-head attention of tokens [B, T, features] to each other."""

    def __init__(self, features: int, heads: int, make: Layers):
        if heads < 1 or features % heads:
            raise ValueError(f"{features} features cannot be divided among {heads} heads")
        self.heads = heads
        self.qkv = make.linear(features, 3 * features, init=embedding_normal)
        self.output = make.linear(features, features, init=embedding_normal)

    def __call__(self, x: jax.Array) -> jax.Array:
        b, t, c = x.shape
        split = self.qkv(x).reshape(b, t, 3, self.heads, c // self.heads)
        y = jax.nn.dot_product_attention(split[:, :, 0], split[:, :, 1], split[:, :, 2])
        return self.output(y.reshape(b, t, c))


class MLP(nnx.Module):
    """Two dense layers with GELU between them."""

    def __init__(self, features: int, hidden: int, make: Layers):
        self.hidden = make.linear(features, hidden, init=embedding_normal)
        self.output = make.linear(hidden, features, init=embedding_normal)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(jax.nn.gelu(self.hidden(x), approximate=False))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, features: int, heads: int, mlp_ratio: float, make: Layers):
        self.norm1 = make.layer_norm(features, EPS)
        self.attention = SelfAttention(features, heads, make)
        self.norm2 = make.layer_norm(features, EPS)
        self.mlp = MLP(features, round(features * mlp_ratio), make)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SqueezeExcite(nnx.Module):
    """x * sigmoid(expand(relu(squeeze(x)))) of a vector [B, features]."""

    def __init__(self, features: int, hidden: int, make: Layers):
        self.squeeze = make.linear(features, hidden)
        self.expand = make.linear(hidden, features)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * jax.nn.sigmoid(self.expand(nnx.relu(self.squeeze(x))))


def stochastic_depth(rate: float) -> nnx.Dropout:
    """Drops a whole branch [B, T, C] of an example, with probability `rate`, while training.

    Its keys come from the `dropout` stream of `rngs=` at the call.
    """
    return nnx.Dropout(rate, broadcast_dims=(1, 2))


def prepend_class_token(token: nnx.Param, tokens: jax.Array) -> jax.Array:
    """[B, T, C] -> [B, 1 + T, C] with the trained `token` [1, 1, C] before the others."""
    first = jnp.broadcast_to(token[...].astype(tokens.dtype), (len(tokens), 1, tokens.shape[-1]))
    return jnp.concatenate([first, tokens], axis=1)
