"""Scaled dot-product attention, by XLA or by cuDNN's fused kernel.

Forward-mode differentiation is not supported.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from affect_jax.models.fused import sum_to
from affect_jax.runtime.platforms import platform

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
# cuDNN refuses an odd number of tokens in training: its backward pass counts an empty bias as one.
# Multiples of 8 also fit its tiles.
_TOKEN_MULTIPLE = 8
_LARGEST_HEAD = 128  # on GPUs before Hopper
_LEAST_CAPABILITY = 8.0  # Ampere


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    bias: jax.Array | None = None,
    largest: float | None = None,
    implementation: str = "auto",
    weights: list[jax.Array] | None = None,
    length: int | None = None,
) -> jax.Array:
    """Return softmax(q k^T / sqrt(D) + bias) v of every head, [B, T, H, D].

    XLA keeps scores in float32 or wider. cuDNN's fused kernel is used where it can be (see
    `serves_cudnn`), and without `bias`, `largest` and `weights`.

    Args:
      q: queries [B, T, H, D].
      k, v: keys and values [B, S, H, D].
      bias: [H, T, S], added to the scaled scores.
      largest: scores are clipped at this size, positive and negative.
      implementation: "auto" or "cudnn" (cuDNN's where it can), or "xla".
      weights: a list to which the attention after the softmax is appended, [B, H, T, S].
      length: only the first `length` keys are attended to; default: all.
    """
    plain = bias is None and largest is None and weights is None
    if plain and _fuses(implementation, q.dtype, q.shape[-1]):
        return _fused(q, k, v, length or k.shape[1])
    # Heads in front: on CPU a third faster than `dot_product_attention`.
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    if largest is None and weights is None:
        return _attend(q, k, v, _masked(bias, length, k.shape[2])).swapaxes(1, 2)
    scores = _scores(q, k, bias)
    if largest is not None:
        scores = jnp.clip(scores, -largest, largest)
    mask = _masked(None, length, k.shape[2])
    shares = jax.nn.softmax(scores if mask is None else scores + mask.astype(scores.dtype))
    if weights is not None:
        weights.append(shares)
    return (shares.astype(v.dtype) @ v).swapaxes(1, 2)


def _masked(bias: jax.Array | None, length: int | None, keys: int) -> jax.Array | None:
    """Return `bias` with -inf for keys from `length` on; None: nothing to add."""
    if length is None or length >= keys:
        return bias
    mask = np.where(np.arange(keys) < length, 0, -np.inf).astype(np.float32)[None, None]
    return jnp.asarray(mask) if bias is None else bias + mask.astype(bias.dtype)


def _scores(q: jax.Array, k: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return the scaled products of [B, H, T, D] and [B, H, S, D], in float32 or wider."""
    wide = jnp.promote_types(jnp.float32, q.dtype)
    scores = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=wide)
    scores = scores / math.sqrt(q.shape[-1])
    return scores if bias is None else scores + bias.astype(wide)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Attend from [B, H, T, D] to [B, H, S, D].

    Of the arrays [B, H, T, S] the backward pass keeps only the shares, in the dtype of `v`. The
    derivative that JAX finds keeps float32 exponentials and multiplies float32 scores: in bfloat16
    more than twice the memory traffic.
    """
    return _attend_forward(q, k, v, bias)[0]


def _attend_forward(q, k, v, bias):
    shares = _rounded(jax.nn.softmax(_scores(q, k, bias)), v.dtype)
    return shares @ v, (q, k, v, bias, shares)


def _attend_backward(kept, g):
    q, k, v, bias, shares = kept
    wide = jnp.promote_types(jnp.float32, q.dtype)
    dshares, wide_shares = (g @ v.swapaxes(-1, -2)).astype(wide), shares.astype(wide)
    # Rounded shares do not add up to 1: without the division, a common part of `dshares` would
    # not cancel. (The sum of g * y is smaller and equal, but not to a rounded y.)
    along = jnp.sum(wide_shares * dshares, -1, keepdims=True)
    along = along / jnp.sum(wide_shares, -1, keepdims=True)
    dscores = _rounded(wide_shares * (dshares - along), q.dtype)
    dbias = None if bias is None else sum_to(dscores, bias)
    scale = 1 / math.sqrt(q.shape[-1])
    dq = (dscores @ k * scale).astype(q.dtype)
    dk = (dscores.swapaxes(-1, -2) @ q * scale).astype(k.dtype)
    return dq, dk, (shares.swapaxes(-1, -2) @ g).astype(v.dtype), dbias


def _rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """Return `x` in another dtype, as an array of its own if that is a narrower one.

    XLA would otherwise compute it a second time where it is widened again.
    """
    return x if x.dtype == dtype else lax.optimization_barrier(x.astype(dtype))


_attend.defvjp(_attend_forward, _attend_backward)


def pad_sequence(x: jax.Array, features: int, implementation: str = "auto") -> jax.Array:
    """Pad the tokens [B, T, D] of a transformer as its fused attention wants them.

    Doing it once saves padding the queries, keys and values of every block; `attend` then needs
    T as `length`. Without fused attention for heads of `features` numbers, `x` is unchanged.
    """
    return _padded(x) if _fuses(implementation, x.dtype, features) else x


def _fuses(implementation: str, dtype: Any, features: int) -> bool:
    return implementation != "xla" and serves_cudnn(dtype, features)


def serves_cudnn(dtype: Any, features: int = _TOKEN_MULTIPLE) -> bool:
    """Return whether cuDNN has a fused kernel here for heads of `features` numbers.

    It has for 16-bit types and multiples of 8 up to 128, on NVIDIA GPUs since Ampere.
    """
    fits = jnp.finfo(dtype).bits == 16 and features % 8 == 0 and features <= _LARGEST_HEAD
    here = platform()
    return fits and here.name == "gpu" and _is_recent(here.capability)


def _is_recent(capability: str | None) -> bool:
    """Return whether a GPU has the compute capability; if it does not tell, True."""
    if capability is None:
        return True
    # An AMD GPU names its architecture instead, as "gfx90a".
    number = re.fullmatch(r"\d+\.\d+", capability)
    return number is not None and float(capability) >= _LEAST_CAPABILITY


def _fused(q: jax.Array, k: jax.Array, v: jax.Array, length: int) -> jax.Array:
    """Attend by cuDNN to the first `length` keys, with tokens padded to a multiple of 8."""
    queries = q.shape[1]
    q, k, v = (_padded(x) for x in (q, k, v))
    lengths = None
    if k.shape[1] != length:
        lengths = jnp.full(k.shape[0], length, jnp.int32)
    found = jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return found[:, :queries]


def _padded(x: jax.Array) -> jax.Array:
    """Pad the T tokens of [B, T, ...] with zeros to the multiple of 8 that cuDNN wants."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % _TOKEN_MULTIPLE), *((0, 0),) * (x.ndim - 2)))
