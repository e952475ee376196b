"""Attention of reliability balancing: within one embedding, or across the batch."""

import jax
import jax.numpy as jnp
from flax import nnx

from affect_jax.models.attention import attend
from affect_jax.models.fused import gather_rows
from affect_jax.models.layers import Layers, normal

# Input of a softmax is clipped here, far beyond what a softmax can tell apart. XLA may compute the
# input anew for the softmax's maximum, and where the two round differently by 90 and more the
# result is NaN.
_LARGEST_LOGIT = 1e6


def clip_logits(logits: jax.Array) -> jax.Array:
    """Clip the input of a softmax to a size that XLA computes without NaN."""
    return jnp.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)


class TokenAttention(nnx.Module):
    """Self-attention between the pieces of one embedding; no example sees another.

    The embedding is cut into `tokens` pieces. With a single piece, attention would be a linear
    layer, and queries and keys would have no effect. A learned position distinguishes the pieces.
    """

    def __init__(self, features: int, n_outputs: int, tokens: int, heads: int, make: Layers):
        self.tokens, self.heads = tokens, heads
        self.width = -(-features // tokens)
        inner = heads * -(-self.width // heads)
        shape = (tokens, self.width)
        self.positions = nnx.Param(normal(0.02)(make.rngs.params(), shape, make.param_dtype))
        self.query, self.key, self.value = (make.linear(self.width, inner) for _ in range(3))
        self.out = make.linear(tokens * inner, n_outputs)

    def __call__(self, embedding: jax.Array) -> jax.Array:
        """Return log t_a [B, N] of embeddings [B, D]."""
        rest = self.tokens * self.width - embedding.shape[1]
        pieces = jnp.pad(embedding, ((0, 0), (0, rest)))
        positions = self.positions[...].astype(embedding.dtype)
        pieces = pieces.reshape(-1, self.tokens, self.width) + positions
        q, k, v = self.query(pieces), self.key(pieces), self.value(pieces)
        attended = _attend(q, k, v, self.heads)
        return jax.nn.log_softmax(clip_logits(self.out(attended.reshape(attended.shape[0], -1))))


class BatchAttention(nnx.Module):
    """Self-attention between the examples of the batch, as in the official code.

    The prediction for an image depends on the others of its batch, padding included: use it only to
    compare with that code. In training mode the batch is the one of all replicas, in evaluation
    mode the one given. Outputs are [B, N * per_class], summed within the classes.

    Raises:
      ValueError: the heads do not divide the outputs.
    """

    def __init__(self, features: int, n_outputs: int, per_class: int, heads: int, make: Layers):
        width = n_outputs * per_class
        if width % heads:
            raise ValueError(
                f'reliability: with scope "batch" heads must divide {width} '
                f"(classes * attention_per_class), got {heads}"
            )
        self.n_outputs, self.heads, self.axis_name = n_outputs, heads, make.axis_name
        self.deterministic = False  # switched by `model.train()` and `model.eval()`
        self.query, self.key, self.value = (make.linear(features, width) for _ in range(3))
        self.in_proj = make.linear(width, 3 * width)
        self.out = make.linear(width, width)

    def __call__(self, embedding: jax.Array) -> jax.Array:
        """Return log t_a [B, N] of embeddings [B, D]."""
        kernels = jnp.split(self.in_proj.kernel[...].astype(embedding.dtype), 3, axis=1)
        bias = self.in_proj.bias
        assert bias is not None  # `Layers.linear` gives every layer one
        biases = jnp.split(bias[...].astype(embedding.dtype), 3)
        first = (self.query, self.key, self.value)
        q, k, v = (
            layer(embedding) @ kernel + shift
            for layer, kernel, shift in zip(first, kernels, biases, strict=True)
        )
        k, v = self._of_all_replicas(k), self._of_all_replicas(v)
        mixed = self.out(_attend(q[None], k[None], v[None], self.heads)[0])
        log_probs = jax.nn.log_softmax(clip_logits(mixed))
        return jax.nn.logsumexp(log_probs.reshape(embedding.shape[0], self.n_outputs, -1), axis=-1)

    def _of_all_replicas(self, x: jax.Array) -> jax.Array:
        if self.axis_name is None or self.deterministic:
            return x
        return gather_rows(x, self.axis_name)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """Attend from [S, Q, F] to [S, K, F]; heads are cut from the last axis."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    attended = attend(q, k, v, largest=_LARGEST_LOGIT)
    return attended.reshape(*attended.shape[:2], -1)
