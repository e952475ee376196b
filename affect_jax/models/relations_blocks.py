"""The three attention blocks of RALD, see `models.relations`.

Liu et al., "RALD", Acta Electronica Sinica 2024, eq. 3 to 17. Projections have no bias, as printed.
Scores and softmax are float32 or wider.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from affect_jax.models.fused import gather_rows
from affect_jax.models.layers import MLP, Layers, lecun_normal
from affect_jax.models.relations_settings import RelationsSettings
from affect_jax.models.reliability_attention import clip_logits
from data_pipelines.hierarchies.tree import Hierarchy

_LAYER_NORM_EPSILON = 1e-5
# In place of the score of what is not attended to. Finite, so that no row becomes NaN.
_HIDDEN = -1e30


class Bank(NamedTuple):
    """Images that every image is compared with in prediction.

    Attributes:
      features: float [M, D], the backbone's.
      valid: bool [M], False for an empty place.
    """

    features: jax.Array
    valid: jax.Array


def _image_init(settings: RelationsSettings) -> Callable:
    """Return the initializer of the last layers of an image block.

    With a residual connection they start at 0, so that a fresh block is a LayerNorm alone, as a
    fresh block of a ResNet is its shortcut alone.
    """
    return nnx.initializers.zeros_init() if settings.residual else lecun_normal


class Block(nnx.Module):
    """norm(M + FFN(M)) of attended features M, eq. 7, 12 and 17."""

    def __init__(self, width: int, dropout: float, make: Layers, out_init: Callable):
        self.ffn = MLP(width, dropout, make, out_init=out_init)
        self.norm = make.layer_norm(width, _LAYER_NORM_EPSILON)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return self.norm(x + self.ffn(x, rngs))


class Attention(nnx.Module):
    """Projections of one attention with `heads` heads of `head_features` numbers.

    Args:
      queries, keys: lengths of the features that are projected.
      values: length of a head's value.
      out: length of the result.
      project_values: False: the values are the keys' features themselves, whole for every head.
      out_init: of W_MSA.
    """

    def __init__(
        self,
        queries: int,
        keys: int,
        out: int,
        *,
        heads: int,
        head_features: int,
        project_values: bool,
        out_init: Callable,
        make: Layers,
    ):
        self.heads = heads
        inner = heads * head_features
        self.query = make.linear(queries, inner, bias=False)
        self.key = make.linear(keys, inner, bias=False)
        self.value = make.linear(keys, inner, bias=False) if project_values else None
        joined = inner if project_values else heads * keys
        self.out = make.linear(joined, out, bias=False, init=out_init)

    def scores(self, queries: jax.Array, keys: jax.Array, scale: float) -> jax.Array:
        """Return scale * q k^T of projected [Q, I] and [K, I], float32 or wider [heads, Q, K]."""
        wide = jnp.promote_types(jnp.float32, queries.dtype)
        q, k = self._split(queries), self._split(keys)
        found = jnp.einsum("qhd,khd->hqk", q, k, preferred_element_type=wide)
        return clip_logits(scale * found)

    def mix(self, weights: jax.Array, values: jax.Array) -> jax.Array:
        """Return the heads' values [Q, heads, d] of weights [heads, Q, K].

        `values` are projected [K, heads * d], or features [K, d] that all heads share.
        """
        weights = weights.astype(values.dtype)
        if self.value is None:
            return jnp.einsum("hqk,kd->qhd", weights, values)
        return jnp.einsum("hqk,khd->qhd", weights, self._split(values))

    def joined(self, mixed: jax.Array) -> jax.Array:
        """Return concat(heads) W_MSA, [Q, out] (eq. 6, 11, 16)."""
        return self.out(mixed.reshape(mixed.shape[0], -1))

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], self.heads, -1)


class ImageRelations(nnx.Module):
    """ITRR: self-attention between images, eq. 3 to 7.

    Keys start as queries do. Fresh attention is then a similarity of images; with two random
    projections the neighbours of eq. 18 would be random too.
    """

    def __init__(self, features: int, settings: RelationsSettings, make: Layers):
        self.scale, self.residual = settings.scale, settings.residual
        self.axis_name = make.axis_name
        self.attention = Attention(
            features,
            features,
            features,
            heads=settings.heads,
            head_features=settings.head_features,
            project_values=True,
            out_init=_image_init(settings),
            make=make,
        )
        start = jnp.array(self.attention.query.kernel[...], copy=True)
        self.attention.key.kernel[...] = start
        self.block = Block(features, settings.dropout, make, _image_init(settings))

    def of_batch(
        self, x: jax.Array, mask: jax.Array, gather: bool, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Compare the images of the batch: F~ [B, D] and weights [B, M].

        Args:
          x: features [B, D].
          mask: bool [B]. An image that is False neither attends nor is attended.
          gather: compare with the images of all replicas of the axis, M = replicas * B.
        """
        x = jnp.where(mask[:, None], x, 0)
        every, valid, own = x, mask, jnp.arange(x.shape[0])
        if gather and self.axis_name is not None:
            every = gather_rows(x, self.axis_name)
            valid = lax.all_gather(mask, self.axis_name, tiled=True)
            own = own + lax.axis_index(self.axis_name) * x.shape[0]
        same = own[:, None] == jnp.arange(every.shape[0])
        # An image that is masked sees itself, so that no row is without a weight.
        visible = (mask[:, None] & valid) | same
        attention = self.attention
        assert attention.value is not None
        scores = attention.scores(attention.query(x), attention.key(every), self.scale)
        weights = jax.nn.softmax(jnp.where(visible, scores, _HIDDEN))
        mixed = attention.mix(weights, attention.value(every))
        return self._refined(x, mixed, rngs), jnp.mean(weights, axis=0)

    def of_bank(
        self, x: jax.Array, bank: Bank | None, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Compare every image with a bank and itself: F~ [B, D] and weights [B, M + 1].

        The last weight is the image's own. Without a bank it is the only one.
        """
        attention = self.attention
        assert attention.value is not None
        queries, own_values = attention.query(x), attention.value(x)
        split = (x.shape[0], attention.heads, -1)
        if bank is None:
            weights = jnp.ones((x.shape[0], 1), jnp.promote_types(jnp.float32, x.dtype))
            return self._refined(x, own_values.reshape(split), rngs), weights
        others = jnp.where(bank.valid[:, None], bank.features.astype(x.dtype), 0)
        scores = attention.scores(queries, attention.key(others), self.scale)
        scores = jnp.where(bank.valid, scores, _HIDDEN)
        q, k = (y.reshape(split).astype(scores.dtype) for y in (queries, attention.key(x)))
        own = clip_logits(self.scale * jnp.sum(q * k, axis=-1))
        weights = jax.nn.softmax(jnp.concatenate([scores, own.T[:, :, None]], axis=-1))
        mixed = attention.mix(weights[:, :, :-1], attention.value(others))
        own_share = weights[:, :, -1].T[:, :, None].astype(mixed.dtype)
        mixed = mixed + own_share * own_values.reshape(split)
        return self._refined(x, mixed, rngs), jnp.mean(weights, axis=0)

    def _refined(self, x: jax.Array, mixed: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        attended = self.attention.joined(mixed)
        return self.block(attended + x.astype(attended.dtype) if self.residual else attended, rngs)


class LabelRelations(nnx.Module):
    """HLRR: self-attention between labels, with their place in the tree, eq. 8 to 12.

    The bias b of eq. 9 is one number for the same label, one for parent and child, and one for all
    other pairs (siblings too), shared by the heads. Cumulative softplus keeps them decreasing.
    """

    def __init__(self, hierarchy: Hierarchy | None, settings: RelationsSettings, make: Layers):
        self.scale = settings.scale
        self.attention = Attention(
            settings.label_features,
            settings.label_features,
            settings.label_features,
            heads=settings.heads,
            head_features=settings.head_features,
            project_values=True,
            out_init=lecun_normal,
            make=make,
        )
        self.block = Block(settings.label_features, settings.dropout, make, lecun_normal)
        self.distances: tuple[tuple[int, ...], ...] | None = None
        if settings.hierarchy_bias and hierarchy is not None:
            self.distances = label_distances(hierarchy)
            self.bias = nnx.Param(jnp.zeros(3, make.param_dtype))

    def biases(self) -> jax.Array | None:
        """Return b of all pairs of labels, [C, C]; None without a tree."""
        if self.distances is None:
            return None
        start, *steps = self.bias[...]
        values = [start]
        for step in steps:
            values.append(values[-1] - jax.nn.softplus(step))
        return jnp.stack(values)[np.array(self.distances)]

    def weights(self, labels: jax.Array) -> jax.Array:
        """Return softmax(R_s) of label vectors [C, L], [heads, C, C]."""
        attention = self.attention
        scores = attention.scores(attention.query(labels), attention.key(labels), self.scale)
        bias = self.biases()
        return jax.nn.softmax(scores if bias is None else scores + bias.astype(scores.dtype))

    def __call__(self, labels: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """Return S~ of label vectors, both [C, L]."""
        attention = self.attention
        assert attention.value is not None
        mixed = attention.mix(self.weights(labels), attention.value(labels))
        return self.block(attention.joined(mixed), rngs)


class LabelGuidance(nnx.Module):
    """LGIFO: images attend to labels, eq. 13 to 17."""

    def __init__(self, features: int, settings: RelationsSettings, make: Layers):
        self.scale, self.residual = settings.scale, settings.residual
        self.attention = Attention(
            features,
            settings.label_features,
            features,
            heads=settings.heads,
            head_features=settings.head_features,
            project_values=False,
            out_init=_image_init(settings),
            make=make,
        )
        self.block = Block(features, settings.dropout, make, _image_init(settings))

    def __call__(self, x: jax.Array, labels: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """Return F^ [B, D] of image features [B, D] and label features [C, L]."""
        attention = self.attention
        scores = attention.scores(attention.query(x), attention.key(labels), self.scale)
        attended = attention.joined(attention.mix(jax.nn.softmax(scores), labels))
        return self.block(attended + x.astype(attended.dtype) if self.residual else attended, rngs)


def label_distances(hierarchy: Hierarchy) -> tuple[tuple[int, ...], ...]:
    """Return the class of every pair of labels by eq. 9, C x C.

    It is 0 for a label and itself, 1 for parent and child, and 2 for all other pairs, where the
    paper writes sigma = 500. Labels are the fine classes and then the coarse ones.
    """
    fine, coarse = len(hierarchy.fine), len(hierarchy.coarse)
    kinds = np.full((fine + coarse, fine + coarse), 2)
    np.fill_diagonal(kinds, 0)
    for child, parent in enumerate(hierarchy.coarse_of):
        kinds[child, fine + parent] = kinds[fine + parent, child] = 1
    return tuple(map(tuple, kinds.tolist()))
